//! The one declaration of a table of keys. [`section!`] makes of it the typed struct, its defaults,
//! its reader and its documentation, so none of the four can drift from the others.

use super::document::Document;
use super::error::Problem;
use super::raw::{Node, Raw, Table};
use super::rule::Rule;
use super::value::Scalar;

/// Something that can stand at a key: a value, or a table of keys.
pub(super) trait Entry: Sized {
    /// What `node` says over `base`; what is wrong with it goes to the reader and `base` is kept.
    fn read(reader: &mut Reader, path: &str, node: Option<Node>, base: Slot<Self>) -> Self;

    /// Writes itself as TOML with `comment` above it.
    fn write(&self, document: &mut Document, path: &str, about: About<'_, Self>);
}

/// The value a key has when no file sets it, and what it permits.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) base: T,
    pub(super) rule: Option<Rule<T>>,
}

/// What the documentation says of a key.
#[derive(Debug)]
pub(super) struct About<'a, T> {
    pub(super) lines: &'a [&'a str],
    pub(super) rule: Option<Rule<T>>,
}

/// Gathers problems and known keys while a tree is read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    known: Vec<String>,
    unknown: Vec<(String, Node)>,
}

impl Reader {
    /// Notes that something asked for the key `path`.
    pub(super) fn know(&mut self, path: &str) {
        self.known.push(path.to_owned());
    }

    /// Adds a problem of the value at `path`.
    pub(super) fn refuse(&mut self, path: &str, node: &Node, reason: impl Into<String>) {
        self.problems.push(Problem::Value {
            origin: node.origin.clone(),
            key: path.to_owned(),
            value: node.raw.to_string(),
            reason: reason.into(),
        });
    }

    /// The keys under `path`; none, with a problem noted, when something else than a table is there.
    pub(super) fn table(&mut self, path: &str, node: Option<Node>) -> Table {
        if !path.is_empty() {
            self.know(path);
        }
        match node {
            None => Table::new(),
            Some(Node {
                raw: Raw::Table(table),
                ..
            }) => table,
            Some(node) => {
                self.refuse(path, &node, format!("expected a table, as in [{path}]"));
                Table::new()
            }
        }
    }

    /// Notes the keys of `table` that nothing asked for.
    pub(super) fn leave(&mut self, path: &str, table: Table) {
        let unknown = table
            .into_iter()
            .map(|(key, node)| (join(path, &key), node));
        self.unknown.extend(unknown);
    }

    /// All problems, with the unknown keys compared against every key that was asked for.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        for (key, node) in std::mem::take(&mut self.unknown) {
            self.problems.push(Problem::UnknownKey {
                nearest: nearest(&key, &self.known).unwrap_or_default(),
                origin: node.origin,
                key,
            });
        }
        self.problems
    }
}

/// The full path of `key` in the table `path`; the top has the empty path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The known key most like `key`: by its whole path, or, for a key in the wrong table, by its last
/// part, which counts a little less.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    const OTHER_TABLE: f64 = 0.9;
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &String| {
        let whole = strsim::normalized_damerau_levenshtein(key, candidate);
        let part = strsim::normalized_damerau_levenshtein(&last(key), &last(candidate));
        whole.max(part * OTHER_TABLE)
    };
    known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .cloned()
}

impl<T: Scalar> Entry for T {
    fn read(reader: &mut Reader, path: &str, node: Option<Node>, slot: Slot<Self>) -> Self {
        reader.know(path);
        let Some(node) = node else { return slot.base };
        match (T::parse(&node.raw), slot.rule) {
            (Err(reason), _) => reader.refuse(path, &node, reason),
            (Ok(value), Some(rule)) if !rule.accepts(&value) => {
                reader.refuse(path, &node, format!("permitted: {}", rule.permitted));
            }
            (Ok(value), _) => return value,
        }
        slot.base
    }

    fn write(&self, document: &mut Document, path: &str, about: About<'_, Self>) {
        let permitted = about
            .rule
            .map(|rule| format!(" Permitted: {}.", rule.permitted));
        let lines: Vec<&str> = about
            .lines
            .iter()
            .copied()
            .chain(permitted.as_deref())
            .collect();
        document.comment(&lines);
        match self.print() {
            Some(value) => document.key(path, &value),
            None => document.unset_key(path, &T::example()),
        }
    }
}

/// Declares a table of keys: `key: Type = default;` or `key: Type = default, rule;` with the
/// documentation above each. Scalars come before tables, as TOML wants them.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $name:ident {
            $( $(#[doc = $about:literal])* $field:ident : $type:ty = $default:expr $(, $rule:expr)? ; )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $about])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Entry for $name {
            fn read(
                reader: &mut $crate::config::section::Reader,
                path: &str,
                node: Option<$crate::config::raw::Node>,
                slot: $crate::config::section::Slot<Self>,
            ) -> Self {
                let mut table = reader.table(path, node);
                let read = Self {
                    $($field: $crate::config::section::Entry::read(
                        reader,
                        &$crate::config::section::join(path, stringify!($field)),
                        table.remove(stringify!($field)),
                        $crate::config::section::Slot {
                            base: slot.base.$field,
                            rule: $crate::config::section::rule!($($rule)?),
                        },
                    ),)*
                };
                reader.leave(path, table);
                read
            }

            fn write(
                &self,
                document: &mut $crate::config::document::Document,
                path: &str,
                about: $crate::config::section::About<'_, Self>,
            ) {
                document.table(path, about.lines, &[$($doc),*]);
                $($crate::config::section::Entry::write(
                    &self.$field,
                    document,
                    &$crate::config::section::join(path, stringify!($field)),
                    $crate::config::section::About {
                        lines: &[$($about),*],
                        rule: $crate::config::section::rule!($($rule)?),
                    },
                );)*
            }
        }
    };
}

/// The optional rule of a key.
macro_rules! rule {
    () => {
        None
    };
    ($rule:expr) => {
        Some($rule)
    };
}

pub(super) use {rule, section};
