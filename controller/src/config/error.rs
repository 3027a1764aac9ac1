//! What can be wrong with a configuration. All problems are gathered, so that an operator mends a
//! file once and not once per mistake.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a key was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as it was named or found.
    pub file: Arc<Path>,
    /// The line, counted from one.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file or the directory of drop-ins could not be read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The text is not TOML.
    #[error("{origin}: not valid TOML: {message}")]
    Syntax {
        /// The place at which reading failed.
        origin: Origin,
        /// What the parser says of it.
        message: String,
    },
    /// A key that nothing reads: almost always a typing error.
    #[error("{origin}: unknown key `{key}`; the nearest known key is `{nearest}`")]
    UnknownKey {
        /// Where it is.
        origin: Origin,
        /// Its full path.
        key: String,
        /// The full path of the known key most like it.
        nearest: String,
    },
    /// A value of the wrong type or outside what is permitted.
    #[error("{origin}: `{key} = {value}`: {reason}")]
    Value {
        /// Where it is.
        origin: Origin,
        /// The key's full path.
        key: String,
        /// The value as written.
        value: String,
        /// What the key takes.
        reason: String,
    },
    /// Values that are each in order, but not together.
    #[error("`{keys}`: {reason}")]
    Together {
        /// The keys, with commas between.
        keys: String,
        /// Why not.
        reason: String,
    },
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError {
    /// At least one problem, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "the configuration has {count} problem{plural}")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
            let mut cause = problem.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl Error for ConfigError {}
