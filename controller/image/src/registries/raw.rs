//! The file as written, and its checks.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Mirror, Prefix, Registries, RegistriesError, Rule};
use crate::reference::{Name, check_registry};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFile {
    #[serde(default)]
    unqualified_search_registries: Vec<String>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    registry: Vec<RawRegistry>,
    /// Version 1 had `[registries.search]` and its kin.
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawRegistry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFromMirror>,
}

/// Which pulls a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PullFromMirror {
    /// All of them.
    All,
    /// Those by digest: a mirror that lies is found out.
    DigestOnly,
    /// Those by tag.
    TagOnly,
}

impl PullFromMirror {
    pub(super) fn covers(self, by_digest: bool) -> bool {
        match self {
            Self::All => true,
            Self::DigestOnly => by_digest,
            Self::TagOnly => !by_digest,
        }
    }
}

/// Says which value of which file is wrong.
struct Check<'a>(&'a Path);

impl Check<'_> {
    fn wrong(&self, key: &'static str, value: &str, reason: impl ToString) -> RegistriesError {
        RegistriesError::Value {
            path: self.0.to_owned(),
            key,
            value: value.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn host(&self, key: &'static str, value: &str) -> Result<(), RegistriesError> {
        check_registry(value).map_err(|error| self.wrong(key, value, error))
    }

    /// `host[:port][/path]`, without a scheme.
    fn location(&self, key: &'static str, value: &str) -> Result<String, RegistriesError> {
        let value = value.trim_end_matches('/');
        if value.contains("://") {
            return Err(self.wrong(key, value, "a location has no scheme; see \"insecure\""));
        }
        self.host(key, value.split('/').next().unwrap_or(value))?;
        Ok(value.to_owned())
    }

    fn prefix(&self, value: &str) -> Result<Prefix, RegistriesError> {
        match value.strip_prefix("*.") {
            Some(domain) => {
                self.host("prefix", domain)?;
                Ok(Prefix::Subdomains(domain.to_owned()))
            }
            None => Ok(Prefix::Exact(self.location("prefix", value)?)),
        }
    }

    fn alias(&self, short: String, target: &str) -> Result<(String, Name), RegistriesError> {
        let name: Name = target
            .parse()
            .map_err(|error| self.wrong("aliases", target, error))?;
        if name.registry.is_none() || name.tag.is_some() || name.digest.is_some() {
            let reason = "an alias is a registry and a path, without tag and digest";
            return Err(self.wrong("aliases", target, reason));
        }
        Ok((short, name))
    }

    fn rule(&self, raw: RawRegistry) -> Result<Rule, RegistriesError> {
        let location = raw
            .location
            .map(|location| self.location("location", &location))
            .transpose()?;
        let prefix = match (&raw.prefix, &location) {
            (Some(prefix), _) => self.prefix(prefix)?,
            (None, Some(location)) => Prefix::Exact(location.clone()),
            (None, None) => {
                return Err(self.wrong("registry", "", "it has no prefix and no location"));
            }
        };
        let digest_only = raw.mirror_by_digest_only;
        let mirrors = raw
            .mirror
            .into_iter()
            .map(|mirror| self.mirror(mirror, digest_only));
        Ok(Rule {
            prefix,
            location,
            insecure: raw.insecure,
            blocked: raw.blocked,
            mirrors: mirrors.collect::<Result<_, _>>()?,
        })
    }

    fn mirror(&self, raw: RawMirror, digest_only: bool) -> Result<Mirror, RegistriesError> {
        let location = self.location("mirror.location", &raw.location)?;
        if digest_only && raw.pull_from_mirror.is_some() {
            let reason = "pull-from-mirror contradicts mirror-by-digest-only";
            return Err(self.wrong("mirror.location", &location, reason));
        }
        let default = if digest_only {
            PullFromMirror::DigestOnly
        } else {
            PullFromMirror::All
        };
        Ok(Mirror {
            location,
            insecure: raw.insecure,
            pull: raw.pull_from_mirror.unwrap_or(default),
        })
    }
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Registries, RegistriesError> {
    let raw: RawFile = toml::from_str(text).map_err(|source| RegistriesError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let check = Check(path);
    if raw.registries.is_some() {
        return Err(check.wrong(
            "registries",
            "",
            "this is version 1 of the format; use [[registry]]",
        ));
    }
    for registry in &raw.unqualified_search_registries {
        check.host("unqualified-search-registries", registry)?;
    }
    let aliases = raw
        .aliases
        .into_iter()
        .filter(|(_, target)| !target.is_empty());
    Ok(Registries {
        search: raw.unqualified_search_registries,
        aliases: aliases
            .map(|(short, target)| check.alias(short, &target))
            .collect::<Result<_, _>>()?,
        rules: raw
            .registry
            .into_iter()
            .map(|registry| check.rule(registry))
            .collect::<Result<_, _>>()?,
    })
}
