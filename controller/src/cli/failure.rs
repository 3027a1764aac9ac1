//! Why a command failed, and the exit status that says so to a script.
//!
//! The statuses are those of `sysexits.h`: 64 for a command line or configuration that cannot be
//! used, 65 for input that is not what it should be, 66 for a missing input file, 69 for a daemon
//! that does not answer, 70 for a daemon that ended in error, 71 for the system, 74 for output that
//! cannot be written, 77 for what the caller may not do. A command that found something amiss,
//! as `husk check` may, ends with 1.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::logging::LogError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The log cannot be set up.
    #[error("setting up the log")]
    Log(#[from] LogError),
    /// The system refused something that the program needs to run at all.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that was named cannot be read.
    #[error("reading {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("writing the output")]
    Output(#[from] io::Error),
    /// Nobody answers at the daemon's socket.
    #[error("connecting to the daemon at {}: is `husk serve` running?", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The daemon answered with an error.
    #[error("{operation}: {} ({:?})", status.message(), status.code())]
    Call {
        /// What was asked of it.
        operation: String,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// The daemon ended in error.
    #[error("serving")]
    Serve(#[source] Box<dyn Error + Send + Sync>),
    /// The command did its work and found something amiss, which it has already said.
    #[error("{0}")]
    Amiss(String),
}

impl Failure {
    /// The exit status, after `sysexits.h`.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Amiss(_) => 1,
            Self::Config(_) | Self::Usage(_) => 64,
            Self::Input { .. } => 66,
            Self::Connect { .. } => 69,
            Self::Call { status, .. } => call_status(status.code()),
            Self::Serve(_) => 70,
            Self::System { .. } | Self::Log(_) => 71,
            Self::Output(_) => 74,
        }
    }

    /// For `map_err` on a call of the daemon.
    pub fn call(operation: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let operation = operation.into();
        move |status| Self::Call {
            operation,
            status: Box::new(status),
        }
    }
}

fn call_status(code: tonic::Code) -> u8 {
    use tonic::Code;
    match code {
        Code::InvalidArgument | Code::OutOfRange => 65,
        Code::Unavailable | Code::DeadlineExceeded | Code::Unimplemented => 69,
        Code::PermissionDenied | Code::Unauthenticated => 77,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::chain;

    #[test]
    fn statuses_follow_sysexits() {
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let call = |status: tonic::Status| Failure::call("pulling")(status);
        let cases = [
            (
                Failure::Config(ConfigError {
                    problems: Vec::new(),
                }),
                64,
            ),
            (Failure::Usage("no".to_owned()), 64),
            (
                Failure::Input {
                    path: "/x".into(),
                    source: refused(),
                },
                66,
            ),
            (Failure::Output(refused()), 74),
            (Failure::Amiss("2 checks failed".to_owned()), 1),
            (call(tonic::Status::not_found("no image")), 1),
            (call(tonic::Status::invalid_argument("bad name")), 65),
            (call(tonic::Status::unauthenticated("wrong password")), 77),
            (call(tonic::Status::unavailable("gone")), 69),
        ];
        for (failure, status) in cases {
            assert_eq!(failure.exit_status(), status, "{failure}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("writing: {0}")]
    struct Repeating(#[source] io::Error);

    #[test]
    fn the_chain_is_one_line_and_repeats_nothing() {
        let source = io::Error::other("disk on fire");
        let failure = Failure::Input {
            path: "/etc/x".into(),
            source,
        };
        assert_eq!(chain(&failure), "reading /etc/x: disk on fire");
        let repeating = Repeating(io::Error::other("disk on fire"));
        assert_eq!(chain(&repeating), "writing: disk on fire");
        let call = Failure::call("pulling busybox")(tonic::Status::not_found("no such tag"));
        assert_eq!(chain(&call), "pulling busybox: no such tag (NotFound)");
    }
}
