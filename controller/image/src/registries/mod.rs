//! Which servers a reference is fetched from: `registries.conf`, version 2.
//!
//! The format is that of the containers project (`containers-registries.conf(5)`), which CRI-O, podman
//! and skopeo share, so one file serves all of them. Keys that only those programs use are ignored.
//! This module is pure but for [`Registries::load`]: a configuration and a reference in, a list of
//! [`Endpoint`]s out. Deliberately absent: interactive choices. With several search registries a short
//! name is tried on each in order.

mod raw;

use std::path::{Path, PathBuf};

use crate::reference::{DEFAULT_REGISTRY, Name, Reference, ReferenceError};

use raw::PullFromMirror;

/// A checked configuration.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    search: Vec<String>,
    aliases: Vec<(String, Name)>,
    rules: Vec<Rule>,
}

/// What applies to references that begin with a prefix.
#[derive(Debug, Clone)]
struct Rule {
    prefix: Prefix,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Prefix {
    /// `host[:port][/path]`.
    Exact(String),
    /// `*.domain`: the domain's subdomains.
    Subdomains(String),
}

#[derive(Debug, Clone)]
struct Mirror {
    location: String,
    insecure: bool,
    pull: PullFromMirror,
}

/// One place to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The reference as this server knows it.
    pub reference: Reference,
    /// Plain HTTP and unverified certificates are accepted.
    pub insecure: bool,
    /// A mirror, so that a failure is not the last word.
    pub mirror: bool,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] crate::kind::FileError),
    /// A file is no TOML or has a key of the wrong type.
    #[error("{} is not a registries.conf, version 2", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{}: {key} = {value:?}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A registry that the configuration forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference} is blocked by the registry configuration for {prefix}")]
pub struct Blocked {
    /// What was asked for.
    pub reference: String,
    /// The prefix whose rule blocks it.
    pub prefix: String,
}

impl Registries {
    /// Reads files in order, each with the `*.conf` files of the directory `<file>.d` after it. Later
    /// files replace rules of the same prefix, aliases of the same name, and the search list as a
    /// whole. Files that do not exist are skipped.
    ///
    /// # Errors
    /// Names the file and what is wrong in it.
    pub fn load(files: &[PathBuf]) -> Result<Self, RegistriesError> {
        let mut merged = Self::default();
        for file in files {
            if let Some(text) = read(file)? {
                merged.merge(Self::parse(&text, file)?);
            }
            for drop_in in drop_ins(file)? {
                if let Some(text) = read(&drop_in)? {
                    merged.merge(Self::parse(&text, &drop_in)?);
                }
            }
        }
        Ok(merged)
    }

    /// Checks one file's text; the path is for messages.
    ///
    /// # Errors
    /// Names the key and value that cannot be used.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistriesError> {
        raw::parse(text, path)
    }

    fn merge(&mut self, later: Self) {
        if !later.search.is_empty() {
            self.search = later.search;
        }
        for (short, target) in later.aliases {
            self.aliases.retain(|(known, _)| *known != short);
            self.aliases.push((short, target));
        }
        for rule in later.rules {
            self.rules.retain(|known| known.prefix != rule.prefix);
            self.rules.push(rule);
        }
    }

    /// Every complete reference that a text can mean, likeliest first; exactly one if it names its
    /// registry or an alias exists for it.
    ///
    /// # Errors
    /// The text is no reference.
    pub fn candidates(&self, text: &str) -> Result<Vec<Reference>, ReferenceError> {
        let name: Name = text.parse()?;
        if name.registry.is_some() {
            return Ok(vec![name.qualify(DEFAULT_REGISTRY)]);
        }
        if let Some((_, target)) = self.aliases.iter().find(|(short, _)| *short == name.path) {
            let full = Name {
                tag: name.tag,
                digest: name.digest,
                ..target.clone()
            };
            return Ok(vec![full.qualify(DEFAULT_REGISTRY)]);
        }
        if self.search.is_empty() {
            return Ok(vec![name.qualify(DEFAULT_REGISTRY)]);
        }
        Ok(self
            .search
            .iter()
            .map(|registry| name.qualify(registry))
            .collect())
    }

    /// Where to fetch a reference from, mirrors first.
    ///
    /// # Errors
    /// [`Blocked`] if the configuration forbids it.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Blocked> {
        let Some((rule, matched)) = self.rule_for(reference) else {
            return Ok(vec![Endpoint {
                reference: reference.clone(),
                insecure: false,
                mirror: false,
            }]);
        };
        if rule.blocked {
            return Err(Blocked {
                reference: reference.to_string(),
                prefix: rule.prefix.to_string(),
            });
        }
        let by_digest = reference.digest().is_some();
        let mirrors = rule
            .mirrors
            .iter()
            .filter(|mirror| mirror.pull.covers(by_digest));
        let mut endpoints: Vec<Endpoint> = mirrors
            .filter_map(|mirror| {
                Some(Endpoint {
                    reference: relocate(reference, matched, &mirror.location)?,
                    insecure: mirror.insecure,
                    mirror: true,
                })
            })
            .collect();
        let own = match &rule.location {
            Some(location) => relocate(reference, matched, location),
            None => None,
        };
        endpoints.push(Endpoint {
            reference: own.unwrap_or_else(|| reference.clone()),
            insecure: rule.insecure,
            mirror: false,
        });
        Ok(endpoints)
    }

    /// The rule with the longest matching prefix, and how much of the name it matched.
    fn rule_for(&self, reference: &Reference) -> Option<(&Rule, usize)> {
        let name = reference.name();
        self.rules
            .iter()
            .filter_map(|rule| Some((rule, rule.prefix.matches(&name)?)))
            .max_by_key(|(rule, matched)| (*matched, matches!(rule.prefix, Prefix::Exact(_))))
    }
}

impl Prefix {
    /// The length of the matched part of `host[:port]/path`.
    fn matches(&self, name: &str) -> Option<usize> {
        match self {
            Self::Exact(prefix) => {
                let rest = name.strip_prefix(prefix.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
            }
            Self::Subdomains(domain) => {
                let host = name.split('/').next()?;
                let bare = host.split(':').next()?;
                let below = bare.strip_suffix(domain.as_str())?;
                (below.len() > 1 && below.ends_with('.')).then_some(host.len())
            }
        }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(prefix) => f.write_str(prefix),
            Self::Subdomains(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// Replaces the matched start of a reference's name by a location.
fn relocate(reference: &Reference, matched: usize, location: &str) -> Option<Reference> {
    let name = reference.name();
    let moved = format!("{location}{}", &name[matched..]);
    let (registry, repository) = moved.split_once('/')?;
    Some(Reference::new(
        registry.to_owned(),
        repository.to_owned(),
        reference.tag().map(str::to_owned),
        reference.digest().copied(),
    ))
}

fn read(path: &Path) -> Result<Option<String>, RegistriesError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(crate::kind::FileError::new("reading", path)(error).into()),
    }
}

/// The `*.conf` files of `<file>.d`, by name.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(crate::kind::FileError::new("listing", &directory)(error).into()),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
