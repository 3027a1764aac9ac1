//! `auth.json`: which entry applies to a repository.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{AuthFields, Credentials};
use crate::reference::Reference;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, alias = "identityToken")]
    identitytoken: String,
    #[serde(default, alias = "registryToken")]
    registrytoken: String,
}

/// What the file says about a repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Credentials in the file.
    Here(Credentials),
    /// A program is to be asked about a server.
    Helper {
        /// What comes after `docker-credential-` in its name.
        name: String,
        /// What it is asked for.
        server: String,
    },
    /// Nothing.
    Nothing,
}

impl AuthFile {
    /// Reads the file; one that does not exist is empty.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Finds the entry for a repository: the longest path wins, helpers before the file's own entries,
    /// the general store last.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Found, String> {
        for key in keys(reference) {
            let helper = self
                .cred_helpers
                .iter()
                .find(|(known, _)| canonical(known) == key);
            if let Some((server, name)) = helper {
                return Ok(Found::Helper {
                    name: name.clone(),
                    server: server.clone(),
                });
            }
            let entry = self.auths.iter().find(|(known, _)| canonical(known) == key);
            if let Some((_, entry)) = entry
                && let Some(credentials) = entry.credentials(&key)?
            {
                return Ok(Found::Here(credentials));
            }
        }
        Ok(match &self.creds_store {
            Some(name) if !name.is_empty() => Found::Helper {
                name: name.clone(),
                server: store_key(reference.registry()),
            },
            Some(_) | None => Found::Nothing,
        })
    }
}

impl Entry {
    fn credentials(&self, key: &str) -> Result<Option<Credentials>, String> {
        let fields = AuthFields {
            username: self.username.clone(),
            password: self.password.clone(),
            auth: self.auth.clone(),
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
        };
        Credentials::from_fields(fields).map_err(|error| format!("entry {key:?}: {error}"))
    }
}

/// `host/a/b`, `host/a`, `host`.
fn keys(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut keys = vec![name.clone()];
    let mut rest = name.as_str();
    while let Some((shorter, _)) = rest.rsplit_once('/') {
        keys.push(shorter.to_owned());
        rest = shorter;
    }
    keys
}

/// Docker writes `https://index.docker.io/v1/` for Docker Hub, and others imitate it.
fn canonical(key: &str) -> String {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let bare = bare.trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

fn store_key(registry: &str) -> String {
    if registry == "docker.io" {
        "https://index.docker.io/v1/".to_owned()
    } else {
        registry.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOng="},
            "r.io": {"auth": "cm9vdDp4"},
            "r.io/team": {"username": "team", "password": "x"},
            "r.io/team/app": {"identitytoken": "t"},
            "empty.io": {}
        },
        "credHelpers": {"gcr.io": "gcloud"},
        "credsStore": "desktop"
    }"#;

    fn find(file: &AuthFile, reference: &str) -> String {
        match file.find(&Reference::parse(reference).unwrap()).unwrap() {
            Found::Here(credentials) => format!("{credentials:?}"),
            Found::Helper { name, server } => format!("{name} {server}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn the_longest_path_wins() {
        let file: AuthFile = serde_json::from_str(FILE).unwrap();
        for (reference, expect) in [
            ("busybox", "Basic(hub)"),
            ("r.io/x", "Basic(root)"),
            ("r.io/teams/x", "Basic(root)"),
            ("r.io/team/x", "Basic(team)"),
            ("r.io/team/app", "IdentityToken"),
            ("gcr.io/a/b", "gcloud gcr.io"),
            ("empty.io/a", "desktop empty.io"),
            ("other.io:5000/a", "desktop other.io:5000"),
        ] {
            assert_eq!(find(&file, reference), expect, "{reference}");
        }
        assert_eq!(find(&AuthFile::default(), "a"), "nothing");
    }

    #[test]
    fn a_broken_entry_names_itself() {
        let file: AuthFile = serde_json::from_str(r#"{"auths": {"r.io": {"auth": "%"}}}"#).unwrap();
        let error = file.find(&Reference::parse("r.io/a").unwrap()).unwrap_err();
        assert!(error.contains("r.io"), "{error}");
        assert!(AuthFile::load(Path::new("/nonexistent")).is_ok());
    }
}
