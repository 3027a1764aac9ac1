//! The image configuration: what an image says about the processes to run from it.
//!
//! Format: OCI image specification, `config.md`. Everything here is untrusted: labels are data for
//! people and never decide anything, and volume paths are made absolute and clean so that none can
//! point out of the root file system (CVE-2022-23648).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// The part of an image's configuration that containers are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`, unchecked; empty for root.
    pub user: String,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// The start of the command line.
    pub entrypoint: Vec<String>,
    /// The rest of the command line, or all of it without an entrypoint.
    pub cmd: Vec<String>,
    /// Where the process starts; empty for `/`.
    pub working_dir: String,
    /// Signal name or number for stopping.
    pub stop_signal: Option<String>,
    /// Absolute clean paths, sorted, each once.
    pub volumes: Vec<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// When the image was built, RFC 3339 as written.
    pub created: Option<String>,
    /// What it runs on.
    pub platform: Platform,
}

/// The whole configuration document, checked.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(flatten)]
    platform: Platform,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Parses a configuration document.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, serde_json::Error> {
    let raw: Raw = serde_json::from_slice(bytes)?;
    let config = raw.config.unwrap_or_default();
    Ok(Parsed {
        diff_ids: raw.rootfs.diff_ids,
        config: ImageConfig {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: clean_paths(config.volumes.unwrap_or_default().into_keys()),
            labels: config.labels.unwrap_or_default(),
            exposed_ports: config
                .exposed_ports
                .unwrap_or_default()
                .into_keys()
                .collect(),
            created: raw.created,
            platform: raw.platform,
        },
    })
}

fn clean_paths(paths: impl Iterator<Item = String>) -> Vec<String> {
    let mut clean: Vec<String> = paths.map(|path| clean_path(&path)).collect();
    clean.retain(|path| path != "/");
    clean.sort();
    clean.dedup();
    clean
}

/// Resolves `.` and `..` by text alone, as if `/` were the root file system.
fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_configuration_is_read() {
        let text = br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z",
            "config":{"User":"1:2","Env":["A=b"],"Entrypoint":["/e"],"Cmd":null,"WorkingDir":"/w",
            "StopSignal":"","Volumes":{"/data":{},"../../etc":{},"/data/":{},"/":{}},
            "Labels":{"k":"v"},"ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"empty_layer":true}]}"#;
        let parsed = parse(text).unwrap();
        let config = parsed.config;
        assert_eq!(config.user, "1:2");
        assert_eq!(config.entrypoint, ["/e"]);
        assert!(config.cmd.is_empty() && config.stop_signal.is_none());
        assert_eq!(config.volumes, ["/data", "/etc"]);
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.platform, "linux/amd64".parse().unwrap());
    }

    #[test]
    fn a_minimal_configuration_is_read_and_garbage_is_not() {
        assert!(parse(br#"{"rootfs":{"type":"layers"}}"#).is_ok());
        assert!(parse(br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).is_err());
        assert!(parse(b"[]").is_err());
    }
}
