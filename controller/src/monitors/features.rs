//! What an OCI runtime says it can do: its `features` document (OCI runtime specification,
//! `features.md`), read once when the daemon starts.
//!
//! This call has nothing to do with a container, so it is the one call of an OCI runtime that no
//! monitor makes. A program that is replaced while the daemon runs is asked at the next start.

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
}

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
    })
}

/// What is known of runtimes that are older than the question: runc and crun have made mounts
/// recursively read-only before they learned to say so.
fn unasked(kind: HandlerKind) -> Features {
    Features {
        recursive_read_only: match kind {
            HandlerKind::Crun | HandlerKind::Runc => true,
            HandlerKind::Other => false,
        },
        idmapped_mounts: false,
    }
}

/// Asks a runtime; one that does not know the question, or is not there, is judged by its kind.
pub(super) async fn ask(program: &Path, kind: HandlerKind) -> Features {
    #[expect(
        clippy::disallowed_methods,
        reason = "asks an OCI runtime about itself: no input, bounded time, killed when dropped"
    )]
    let mut command = tokio::process::Command::new(program);
    command
        .arg("features")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let answer = tokio::time::timeout(PATIENCE, command.output()).await;
    let said = match answer {
        Ok(Ok(output)) if output.status.success() => parse(&output.stdout),
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    };
    if said.is_none() {
        tracing::debug!(program = %program.display(), "the OCI runtime does not tell its features");
    }
    said.unwrap_or_else(|| unasked(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_old_and_new_runtimes() {
        let features = |recursive_read_only, idmapped_mounts| Features {
            recursive_read_only,
            idmapped_mounts,
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

    #[tokio::test]
    async fn a_program_that_cannot_answer_is_judged_by_its_kind() {
        for (kind, expect) in [
            (HandlerKind::Crun, true),
            (HandlerKind::Runc, true),
            (HandlerKind::Other, false),
        ] {
            for program in ["/bin/false", "/absent/runtime"] {
                let features = ask(Path::new(program), kind).await;
                assert_eq!(features.recursive_read_only, expect, "{program}");
                assert!(!features.idmapped_mounts);
            }
        }
    }
}
