//! How a call of a plugin fails, in the words of the plugin. Pure.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;

use super::args::Command;
use super::result::ResultError;

/// Most bytes kept of an answer that should have been a report.
const MESSAGE_LIMIT: usize = 4 << 10;

/// A call of a plugin that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    #[error("CNI plugin {plugin} is in none of the plugin directories ({dirs})")]
    Missing { plugin: String, dirs: String },
    #[error("start CNI plugin {plugin} for {command}")]
    Start {
        plugin: String,
        command: Command,
        #[source]
        source: io::Error,
    },
    #[error("talk to CNI plugin {plugin} during {command}")]
    Talk {
        plugin: String,
        command: Command,
        #[source]
        source: io::Error,
    },
    #[error("CNI plugin {plugin} hung in {command}: killed after {limit:?}{stderr}")]
    Hung {
        plugin: String,
        command: Command,
        limit: Duration,
        stderr: Stderr,
    },
    #[error("CNI plugin {plugin} answered {command} with more than {limit} bytes{stderr}")]
    TooLong {
        plugin: String,
        command: Command,
        limit: usize,
        stderr: Stderr,
    },
    #[error("CNI plugin {plugin} failed {command} ({status}): {report}{stderr}")]
    Failed {
        plugin: String,
        command: Command,
        status: ExitStatus,
        report: Report,
        stderr: Stderr,
    },
    #[error("CNI plugin {plugin} answered {command} with garbage {answer:?}{stderr}")]
    Garbage {
        plugin: String,
        command: Command,
        /// The beginning of the answer.
        answer: String,
        stderr: Stderr,
        #[source]
        source: ResultError,
    },
}

/// What a plugin wrote about its failure. The codes are those of the specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Report {
    pub code: u64,
    pub msg: String,
    pub details: String,
}

/// What a plugin wrote to its standard error, made printable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stderr(pub String);

impl InvokeError {
    /// The plugin says that it does not know the pod, so there is nothing to delete: code 3 of the
    /// specification.
    pub(super) fn is_unknown_container(&self) -> bool {
        self.code() == Some(3)
    }

    /// The plugin does not speak the configuration's version: code 1 of the specification. Where
    /// ADD did not come to its end, such a plugin has done nothing that could be deleted; without
    /// this the pod could never be removed.
    pub(super) fn is_incompatible_version(&self) -> bool {
        self.code() == Some(1)
    }

    /// The code of the plugin's own error; 0 where it gave none.
    pub(super) fn code(&self) -> Option<u64> {
        match self {
            Self::Failed { report, .. } => Some(report.code),
            Self::Missing { .. }
            | Self::Start { .. }
            | Self::Talk { .. }
            | Self::Hung { .. }
            | Self::TooLong { .. }
            | Self::Garbage { .. } => None,
        }
    }
}

impl Report {
    /// Plugins that die early write no JSON: then what they wrote is the message.
    pub(super) fn read(stdout: &[u8]) -> Self {
        serde_json::from_slice(stdout).unwrap_or_else(|_| Report {
            msg: printable(&stdout[..stdout.len().min(MESSAGE_LIMIT)]),
            ..Report::default()
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.msg.as_str() {
            "" => f.write_str("no message")?,
            msg => f.write_str(msg)?,
        }
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        if self.code != 0 {
            write!(f, " (CNI code {})", self.code)?;
        }
        Ok(())
    }
}

impl Stderr {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Stderr(printable(bytes))
    }
}

impl fmt::Display for Stderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "; stderr: {}", self.0)
        }
    }
}

/// Text for one line of a log or a status: plugins must not move an operator's cursor.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
