//! TOML text to a tree whose every key remembers the file and line it was read from, and the merge
//! of several such trees. Pure but for [`read_files`], which finds and reads the files.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{Origin, Problem};

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Node>;

/// One key's value and the place that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) raw: Raw,
}

/// A value as TOML has it, before anything is known about what the key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Table(Table),
    List(Vec<Raw>),
    Text(String),
    /// Wider than TOML's 64 bits so that a number too big is refused by its key, with the range.
    Integer(i128),
    Boolean(bool),
    /// A float, a date, or an integer beyond 128 bits: nothing here takes one. Kept as written.
    Other(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(_) => f.write_str("{…}"),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Other(written) => f.write_str(written),
        }
    }
}

/// `text` as a TOML string literal.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Reads `main` and then the drop-ins of the directory `MAIN.d`, in lexical order, and merges them:
/// tables are merged key by key, anything else is replaced by the later file.
///
/// A missing `main` is a problem only when it is `required`, which it is when somebody named it.
/// Everything that is wrong goes to `problems`; what could be read is in the answer all the same.
pub(super) fn read_files(main: &Path, required: bool, problems: &mut Vec<Problem>) -> Table {
    let mut merged = Table::new();
    let drop_ins = drop_ins(&drop_in_directory(main)).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    for (index, file) in std::iter::once(main.to_owned()).chain(drop_ins).enumerate() {
        match std::fs::read_to_string(&file) {
            Ok(text) => merge(&mut merged, parse(&text, &file, problems)),
            Err(source) if index == 0 && !required && source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => problems.push(Problem::Read { file, source }),
        }
    }
    merged
}

/// The directory of drop-ins that belongs to the file `main`: its name with `.d` after it.
pub fn drop_in_directory(main: &Path) -> PathBuf {
    let mut name = main.as_os_str().to_owned();
    name.push(".d");
    PathBuf::from(name)
}

/// The `*.toml` files of `directory` in lexical order; none when the directory does not exist.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let failed = |source| Problem::Read {
        file: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The tree of one file's text. Syntax errors are added to `problems`, all of them.
pub(super) fn parse(text: &str, file: &Path, problems: &mut Vec<Problem>) -> Table {
    let place = Place {
        text,
        file: file.into(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(|error| Problem::Syntax {
        origin: place.origin(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    }));
    place.table(table.into_inner())
}

/// Puts `later` over `earlier`: tables key by key, everything else replaced whole.
pub(super) fn merge(earlier: &mut Table, later: Table) {
    for (key, node) in later {
        match (earlier.get_mut(&key), node) {
            (
                Some(Node {
                    raw: Raw::Table(below),
                    ..
                }),
                Node {
                    raw: Raw::Table(above),
                    ..
                },
            ) => merge(below, above),
            (_, node) => {
                earlier.insert(key, node);
            }
        }
    }
}

/// Turns byte offsets of one file into lines.
struct Place<'a> {
    text: &'a str,
    file: Arc<Path>,
}

impl Place<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        Origin {
            file: Arc::clone(&self.file),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
        }
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let entries = table.into_iter().map(|(key, value)| {
            let node = Node {
                origin: self.origin(key.span().start),
                raw: self.raw(value.into_inner()),
            };
            (key.into_inner().into_owned(), node)
        });
        entries.collect()
    }

    fn raw(&self, value: DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.into_owned()),
            DeValue::Integer(number) => integer(&number),
            DeValue::Float(number) => Raw::Other(number.to_string()),
            DeValue::Boolean(value) => Raw::Boolean(value),
            DeValue::Datetime(date) => Raw::Other(date.to_string()),
            DeValue::Array(items) => Raw::List(
                items
                    .into_iter()
                    .map(|item| self.raw(item.into_inner()))
                    .collect(),
            ),
            DeValue::Table(table) => Raw::Table(self.table(table)),
        }
    }
}

fn integer(number: &DeInteger<'_>) -> Raw {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| Raw::Other(number.to_string()), Raw::Integer)
}
