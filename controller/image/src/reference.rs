//! Image references: text in, normalised names out, no files and no network.
//!
//! The grammar is that of the distribution project (`reference` package documentation and the
//! OCI distribution specification, "Pulling manifests"): `[domain/]path[:tag][@digest]`. A name
//! without a domain is *unqualified*; [`Name::qualify`] gives it one. Which one is a question for
//! the registry configuration, so this module only knows what Docker Hub's short names mean.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that a name without a domain means when nothing else is configured.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// What short names of the default registry mean.
const LIBRARY: &str = "library/";
/// Longest domain, and longest path with what is put before it: a name that was completed can be read again.
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty, or nothing but a tag or digest.
    #[error("the name is missing")]
    Empty,
    /// Domain or path longer than 255 bytes.
    #[error("the name is longer than {NAME_LIMIT} bytes")]
    TooLong,
    /// The part before the first slash is no host name, address or `host:port`.
    #[error("{0:?} is not a registry host")]
    Registry(String),
    /// A component of the path has a character or form that registries do not accept.
    #[error("{0:?} is not a repository path component (lower case, digits and single separators)")]
    Component(String),
    /// The tag has a character that tags may not have, or is too long.
    #[error("{0:?} is not a tag")]
    Tag(String),
    /// The digest cannot be used.
    #[error("the digest is not usable")]
    Digest(#[source] DigestError),
    /// 64 hexadecimal digits are an image id, not a name.
    #[error("64 hexadecimal digits are an image id, not a name")]
    Identifier,
}

/// What a reference says, before a name without a registry got one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// `host[:port]` when the text names it.
    pub registry: Option<String>,
    /// The repository's path as written.
    pub path: String,
    /// The tag as written.
    pub tag: Option<String>,
    /// The digest as written.
    pub digest: Option<Digest>,
}

/// A complete reference: a registry, a repository and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(ReferenceError::Digest)?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = split_tag(rest)?;
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if name.len() > 2 * NAME_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        let (registry, path) = split_registry(name)?;
        let domain = registry.map_or(0, str::len);
        // What may still go before it counts, so that a name that is taken can be printed and read again.
        let implied = if path.contains('/') { 0 } else { LIBRARY.len() };
        if domain > NAME_LIMIT || implied + path.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        check_path(path)?;
        if registry.is_none() && Digest::from_hex(path).is_ok() {
            return Err(ReferenceError::Identifier);
        }
        Ok(Self {
            registry: registry.map(canonical_registry),
            path: path.to_owned(),
            tag,
            digest,
        })
    }
}

impl Name {
    /// Completes the name: `registry` is used if the text named none, `library/` is put before a
    /// single component on Docker Hub, and `latest` stands for a missing tag and digest.
    pub fn qualify(&self, registry: &str) -> Reference {
        let registry = canonical_registry(self.registry.as_deref().unwrap_or(registry));
        let repository = if registry == DEFAULT_REGISTRY && !self.path.contains('/') {
            format!("{LIBRARY}{}", self.path)
        } else {
            self.path.clone()
        };
        Reference::new(registry, repository, self.tag.clone(), self.digest)
    }
}

impl Reference {
    pub(crate) fn new(
        registry: String,
        repository: String,
        tag: Option<String>,
        digest: Option<Digest>,
    ) -> Self {
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Self {
            registry,
            repository,
            tag,
            digest,
        }
    }

    /// Parses and completes a reference; a name without a registry is one on Docker Hub.
    ///
    /// # Errors
    /// [`ReferenceError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        Ok(text.parse::<Name>()?.qualify(DEFAULT_REGISTRY))
    }

    /// `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given. It wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// `registry/repository@digest` for a digest of this repository.
    pub fn with_digest(&self, digest: Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl Display for Reference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Splits a tag off. A colon before the last slash belongs to a port, not to a tag.
fn split_tag(text: &str) -> Result<(&str, Option<String>), ReferenceError> {
    let Some((name, tag)) = text.rsplit_once(':') else {
        return Ok((text, None));
    };
    if tag.contains('/') {
        return Ok((text, None));
    }
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = tag.bytes().next().is_some_and(word);
    let rest = tag
        .bytes()
        .all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if !first || !rest || tag.len() > TAG_LIMIT {
        return Err(ReferenceError::Tag(tag.to_owned()));
    }
    Ok((name, Some(tag.to_owned())))
}

/// The first component is a registry only if it cannot be part of a path: it has a dot, a colon or
/// an upper-case letter, or it is `localhost`.
fn split_registry(name: &str) -> Result<(Option<&str>, &str), ReferenceError> {
    let Some((first, rest)) = name.split_once('/') else {
        return Ok((None, name));
    };
    let is_registry = first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase());
    if !is_registry {
        return Ok((None, name));
    }
    check_registry(first)?;
    Ok((Some(first), rest))
}

/// Whether a text is `host[:port]`, with an IPv6 address in brackets.
pub(crate) fn check_registry(text: &str) -> Result<(), ReferenceError> {
    let wrong = || ReferenceError::Registry(text.to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            match after.strip_prefix(':') {
                Some(port) => ("ok", Some(port)),
                None if after.is_empty() => ("ok", None),
                None => return Err(wrong()),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let digits =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.split('.').all(label) && port.is_none_or(digits) {
        Ok(())
    } else {
        Err(wrong())
    }
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    for component in path.split('/') {
        if !is_component(component) {
            return Err(ReferenceError::Component(component.to_owned()));
        }
    }
    Ok(())
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
        .filter(|separator| !separator.is_empty())
        .all(|s| s == "." || s == "_" || s == "__" || s.bytes().all(|byte| byte == b'-'))
}

fn canonical_registry(registry: &str) -> String {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> String {
        Digest::of(b"x").to_string()
    }

    #[test]
    fn the_longest_name_can_be_printed_and_read_again() {
        let name = "a".repeat(NAME_LIMIT - LIBRARY.len());
        let reference = Reference::parse(&name).unwrap();
        assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
        assert_eq!(
            Reference::parse(&format!("{name}a")),
            Err(ReferenceError::TooLong)
        );
    }

    #[test]
    fn references_are_normalised() {
        let by_digest = format!("docker.io/library/a@{}", digest());
        let both = format!("docker.io/library/a:1@{}", digest());
        let rows: &[(&str, &str)] = &[
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("[fe80::1]/a", "[fe80::1]/a:latest"),
            ("Registry/a", "Registry/a:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a.b/c__d/e--f.g:T_1.x-y", "a.b/c__d/e--f.g:T_1.x-y"),
            (&by_digest.replace("docker.io/library/", ""), &by_digest),
            (&both.replace("docker.io/library/", ""), &both),
        ];
        for (input, expect) in rows {
            let parsed = Reference::parse(input).map(|r| r.to_string());
            assert_eq!(parsed.as_deref(), Ok(*expect), "{input}");
        }
    }

    #[test]
    fn wrong_references_are_refused_with_the_part() {
        let id = digest().replace("sha256:", "");
        // Would be too long with what is put before it.
        let long = "a".repeat(250);
        let rows: Vec<(&str, ReferenceError)> = vec![
            ("", ReferenceError::Empty),
            (":tag", ReferenceError::Empty),
            ("a:", ReferenceError::Tag(String::new())),
            ("a:-x", ReferenceError::Tag("-x".into())),
            ("a:b:c", ReferenceError::Component("a:b".into())),
            ("A", ReferenceError::Component("A".into())),
            ("a//b", ReferenceError::Component(String::new())),
            ("a/", ReferenceError::Component(String::new())),
            ("/a", ReferenceError::Component(String::new())),
            ("../etc", ReferenceError::Registry("..".into())),
            ("a/../b", ReferenceError::Component("..".into())),
            ("a._b", ReferenceError::Component("a._b".into())),
            ("a___b", ReferenceError::Component("a___b".into())),
            ("h:99999/a", ReferenceError::Registry("h:99999".into())),
            ("h:x/a", ReferenceError::Registry("h:x".into())),
            ("-h.x/a", ReferenceError::Registry("-h.x".into())),
            ("a b", ReferenceError::Component("a b".into())),
            ("a\n", ReferenceError::Component("a\n".into())),
            (&id, ReferenceError::Identifier),
            (&long, ReferenceError::TooLong),
        ];
        for (input, expect) in rows {
            assert_eq!(Reference::parse(input), Err(expect), "{input}");
        }
        assert!(matches!(
            Reference::parse("a@sha256:1"),
            Err(ReferenceError::Digest(_))
        ));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,300}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn what_is_printed_parses_to_the_same(
            registry in "([a-z][a-z0-9]{0,8}\\.){1,3}[a-z]{2,3}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            let mut text = format!("{registry}/{path}");
            if let Some(tag) = &tag { text.push_str(&format!(":{tag}")); }
            if pinned { text.push_str(&format!("@{}", digest())); }
            let first = Reference::parse(&text).unwrap();
            prop_assert_eq!(first.registry(), registry);
            prop_assert_eq!(&Reference::parse(&first.to_string()).unwrap(), &first);
            prop_assert!(first.tag().is_some() || first.digest().is_some());
        }

        #[test]
        fn accepted_names_never_leave_their_place(text in "[a-z./:@A-Z_-]{1,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(reference.repository().split('/').all(|part| !part.is_empty() && part != ".."));
            }
        }
    }
}
