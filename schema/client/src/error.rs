//! What a call of this crate fails with.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pod_monitor_schema::{Error, ErrorCode, ExitStatus};

/// Why a monitor could not be started or reached, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The monitor answered with an error.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The monitor is gone, or the connection to it; what was asked for may have been done.
    #[error("{operation}: the connection to the monitor is gone")]
    Disconnected {
        /// What was asked for.
        operation: &'static str,
    },
    /// The monitor is there and does not answer.
    #[error("{operation}: the monitor did not answer within {limit:?}")]
    Timeout {
        /// What was asked for.
        operation: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// A system call failed.
    #[error("{operation} {}", subject.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// What it was done to.
        subject: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The monitor's answer breaks the protocol.
    #[error("{operation}: the monitor's answer is not understood")]
    Protocol {
        /// What was asked for.
        operation: &'static str,
        /// What is wrong with it.
        #[source]
        source: capnp::Error,
    },
    /// Somebody else listens on the monitor's socket.
    #[error("connect: the monitor's socket belongs to user {uid}")]
    Foreign {
        /// The user that listens.
        uid: u32,
    },
    /// A monitor that was just started ended before it was ready.
    #[error("start the monitor: it ended before it was ready ({status:?})")]
    Ended {
        /// How it ended.
        status: ExitStatus,
    },
}

impl MonitorError {
    /// The code of what the monitor refused with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        if let Self::Refused(error) = self {
            Some(error.code)
        } else {
            None
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        subject: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            operation,
            subject: subject.into(),
            source: source.into(),
        }
    }

    /// Sorts what capnp reports: only the last kind is a fault of the peer.
    pub(crate) fn from_capnp(operation: &'static str, source: capnp::Error) -> Self {
        if source.kind == capnp::ErrorKind::Disconnected {
            Self::Disconnected { operation }
        } else if source.kind == capnp::ErrorKind::Unimplemented {
            Self::Refused(Error::new(
                ErrorCode::Unimplemented,
                operation,
                "",
                "this monitor is of a release that did not know the call",
            ))
        } else if source.kind == capnp::ErrorKind::Overloaded {
            Self::Refused(Error::new(
                ErrorCode::ResourceExhausted,
                operation,
                "",
                source.extra,
            ))
        } else {
            Self::Protocol { operation, source }
        }
    }
}
