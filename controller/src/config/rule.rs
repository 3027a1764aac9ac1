//! What a key permits beyond its type: a check, and the words that the error and the generated
//! documentation share.

use std::fmt;
use std::path::{Path, PathBuf};

use super::value::Scalar;

/// A check of one value.
pub(super) struct Rule<T> {
    /// Completes "permitted: …".
    pub(super) permitted: String,
    accepts: Box<dyn Fn(&T) -> bool>,
}

impl<T> Rule<T> {
    fn new(permitted: impl Into<String>, accepts: impl Fn(&T) -> bool + 'static) -> Self {
        Self {
            permitted: permitted.into(),
            accepts: Box::new(accepts),
        }
    }

    /// Whether `value` is permitted.
    pub(super) fn accepts(&self, value: &T) -> bool {
        (self.accepts)(value)
    }
}

impl<T> fmt::Debug for Rule<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.permitted).finish()
    }
}

/// From `low` to `high`, both included.
pub(super) fn within<T: Scalar + PartialOrd + 'static>(low: T, high: T) -> Rule<T> {
    let words = format!("{} to {}", shown(&low), shown(&high));
    Rule::new(words, move |value| low <= *value && *value <= high)
}

/// Zero, or from `low` to `high`.
pub(super) fn none_or_within<T>(none: T, low: T, high: T) -> Rule<T>
where
    T: Scalar + PartialOrd + 'static,
{
    let words = format!(
        "{} for no limit, or {} to {}",
        shown(&none),
        shown(&low),
        shown(&high)
    );
    Rule::new(words, move |value| {
        *value == none || (low <= *value && *value <= high)
    })
}

/// An absolute path without `..`.
pub(super) fn absolute() -> Rule<PathBuf> {
    Rule::new("an absolute path without `..`", |path: &PathBuf| {
        is_absolute(path)
    })
}

/// As [`absolute`], for a key that may be unset.
pub(super) fn absolute_if_set() -> Rule<Option<PathBuf>> {
    Rule::new("an absolute path without `..`", |path: &Option<PathBuf>| {
        path.as_ref().is_none_or(|path| is_absolute(path))
    })
}

/// As [`absolute`], for each path of a list that has at least one.
pub(super) fn absolute_list() -> Rule<Vec<PathBuf>> {
    Rule::new(
        "one or more absolute paths without `..`",
        |paths: &Vec<PathBuf>| !paths.is_empty() && paths.iter().all(|path| is_absolute(path)),
    )
}

/// As [`absolute`], for the path of a socket: `sun_path` holds 107 bytes and an end (`unix(7)`).
pub(super) fn socket() -> Rule<PathBuf> {
    const LONGEST: usize = 107;
    Rule::new(
        "an absolute path without `..` of at most 107 bytes, which is all that a unix socket's address holds",
        |path: &PathBuf| is_absolute(path) && path.as_os_str().len() <= LONGEST,
    )
}

/// A program: an absolute path, or a bare name that is looked up in the system's directories.
pub(super) fn program() -> Rule<PathBuf> {
    Rule::new(
        "an absolute path, or the bare name of a program",
        |path: &PathBuf| {
            is_absolute(path) || (!path.as_os_str().is_empty() && path.components().count() == 1)
        },
    )
}

/// Levels as `tracing` writes them: one, or one per module.
pub(super) fn log_levels() -> Rule<String> {
    Rule::new(
        "error, warn, info, debug, trace or off, or such a level per module as in \"info,husk::cri=debug\"",
        |text: &String| {
            !text.is_empty()
                && text
                    .parse::<tracing_subscriber::filter::Targets>()
                    .is_ok_and(|targets| {
                        targets.iter().all(|(name, _)| is_module(name)) && has_level(text)
                    })
        },
    )
}

/// A bare word is a module's name to `tracing`, with every level on. A level misspelt would so be
/// taken in silence: each part must name a level.
fn has_level(text: &str) -> bool {
    text.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        level
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_ok()
    })
}

fn is_module(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn is_absolute(path: &Path) -> bool {
    path.is_absolute()
        && !path
            .components()
            .any(|part| part == std::path::Component::ParentDir)
}

fn shown<T: Scalar>(value: &T) -> String {
    value.print().unwrap_or_default()
}
