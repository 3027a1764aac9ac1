//! What an OCI runtime says it can do: its `features` document (OCI runtime specification,
//! `features.md`), read once when the daemon starts.
//!
//! This call has nothing to do with a container, so it is the one call of an OCI runtime that no
//! monitor makes. A program that is replaced while the daemon runs is asked at the next start.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::config::HandlerKind;
use crate::spec::RuntimeFeatures as Features;

/// How long a runtime may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    mount_options: Vec<String>,
    linux: Option<Linux>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What runc and crun say of the way they were built; others need not say it.
const CHECKPOINTS: &str = "org.opencontainers.runc.checkpoint.enabled";
/// The same among the words that crun had for its features before it had the document.
const CHECKPOINTS_OF_OLD: &str = "+CRIU";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    mount_extensions: Option<MountExtensions>,
}

#[derive(Deserialize)]
struct MountExtensions {
    idmap: Option<Enabled>,
}

#[derive(Deserialize)]
struct Enabled {
    enabled: Option<bool>,
}

/// Reads a features document; `None` where it is none.
fn parse(json: &[u8]) -> Option<Features> {
    let document: Document = serde_json::from_slice(json).ok()?;
    let idmap = document
        .linux
        .and_then(|linux| linux.mount_extensions)
        .and_then(|extensions| extensions.idmap)
        .and_then(|idmap| idmap.enabled);
    Some(Features {
        recursive_read_only: document.mount_options.iter().any(|option| option == "rro"),
        idmapped_mounts: idmap.unwrap_or_default(),
        checkpoints: document
            .annotations
            .get(CHECKPOINTS)
            .is_none_or(|it| it == "true"),
    })
}

/// What is known of runtimes that are older than the question: runc and crun have made mounts
/// recursively read-only before they learned to say so. `version` is what one says of its version.
fn unasked(kind: HandlerKind, version: &str) -> Features {
    Features {
        recursive_read_only: match kind {
            HandlerKind::Crun | HandlerKind::Runc => true,
            HandlerKind::Other => false,
        },
        idmapped_mounts: false,
        checkpoints: match kind {
            HandlerKind::Crun => version.contains(CHECKPOINTS_OF_OLD),
            HandlerKind::Runc | HandlerKind::Other => true,
        },
    }
}

/// Asks a runtime; one that does not know the question, or is not there, is judged by its kind.
pub(super) async fn ask(program: &Path, kind: HandlerKind, scratch: &Path) -> Features {
    let said = output(program, "features", scratch).await;
    if let Some(features) = said.as_deref().and_then(parse) {
        return features;
    }
    tracing::debug!(program = %program.display(), "the OCI runtime does not tell its features");
    let version = output(program, "--version", scratch)
        .await
        .unwrap_or_default();
    unasked(kind, &String::from_utf8_lossy(&version))
}

/// What a runtime says when it is called with one word, unless it fails or takes too long.
async fn output(program: &Path, word: &str, scratch: &Path) -> Option<Vec<u8>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "asks an OCI runtime about itself: no input, bounded time, killed when dropped"
    )]
    let mut command = tokio::process::Command::new(program);
    command
        .arg(word)
        .env_clear()
        // Where crun, and runc before 1.2, mount themselves for a moment: not in /tmp, should they be killed then.
        .env("_LIBCONTAINER_STATEDIR", scratch)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let answer = tokio::time::timeout(PATIENCE, command.output()).await;
    match answer {
        Ok(Ok(output)) if output.status.success() => Some(output.stdout),
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_old_and_new_runtimes() {
        let features = |recursive_read_only, idmapped_mounts| Features {
            recursive_read_only,
            idmapped_mounts,
            checkpoints: true,
        };
        for (json, expect) in [
            (
                r#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"],
                    "linux": {"mountExtensions": {"idmap": {"enabled": true}}}}"#,
                Some(features(true, true)),
            ),
            (
                r#"{"mountOptions": ["ro"], "linux": {"mountExtensions": {"idmap": {"enabled": false}}}}"#,
                Some(features(false, false)),
            ),
            (
                r#"{"mountOptions": ["rro"], "linux": {"namespaces": ["user"]}}"#,
                Some(features(true, false)),
            ),
            ("{}", Some(features(false, false))),
            ("unknown command features", None),
        ] {
            assert_eq!(parse(json.as_bytes()), expect, "{json}");
        }
    }

    #[test]
    fn checkpoints_need_a_runtime_that_was_built_for_them() {
        for (said, expect) in [("true", true), ("false", false)] {
            let json = format!(r#"{{"annotations": {{"{CHECKPOINTS}": "{said}"}}}}"#);
            let features = parse(json.as_bytes()).unwrap();
            assert_eq!(features.checkpoints, expect, "{json}");
        }
        let (with, without) = (
            "crun version 1.8.1\n+CAP +CRIU +YAJL",
            "crun version 1.8.1\n+YAJL",
        );
        for (kind, version, expect) in [
            (HandlerKind::Crun, with, true),
            (HandlerKind::Crun, without, false),
            (HandlerKind::Crun, "", false),
            (HandlerKind::Runc, "runc version 1.0.0", true),
            (HandlerKind::Other, "", true),
        ] {
            let features = unasked(kind, version);
            assert_eq!(features.checkpoints, expect, "{kind:?} {version:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_answer_is_judged_by_its_kind() {
        for (kind, expect) in [
            (HandlerKind::Crun, true),
            (HandlerKind::Runc, true),
            (HandlerKind::Other, false),
        ] {
            for program in ["/bin/false", "/absent/runtime"] {
                let features = ask(Path::new(program), kind, Path::new("/nowhere")).await;
                assert_eq!(features.recursive_read_only, expect, "{program}");
                assert!(!features.idmapped_mounts);
            }
        }
    }
}
