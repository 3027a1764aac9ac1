//! How a registry disappoints.

use crate::digest::Digest;
use crate::kind::{ErrorKind, FileError};

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not know the repository, tag or digest.
    #[error("{host} has no {what}")]
    NotFound {
        /// `host[:port]`.
        host: String,
        /// The manifest or blob.
        what: String,
    },
    /// Credentials are missing, wrong or not enough.
    #[error("{host} refuses access{detail}")]
    Unauthorized {
        /// `host[:port]`.
        host: String,
        /// What the registry says, after a colon.
        detail: String,
    },
    /// Too many requests.
    #[error("{host} limits the rate of requests")]
    Throttled {
        /// `host[:port]`.
        host: String,
    },
    /// Any other unexpected status.
    #[error("{host} answers with HTTP status {status}{detail}")]
    Status {
        /// `host[:port]`.
        host: String,
        /// The status code.
        status: u16,
        /// What the registry says, after a colon.
        detail: String,
    },
    /// No connection, or it broke.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// `host[:port]`.
        host: String,
        /// The transport's error.
        #[source]
        source: reqwest::Error,
    },
    /// The connection stands but nothing comes.
    #[error("{host} sent nothing for {seconds} seconds")]
    Stalled {
        /// `host[:port]`.
        host: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The answer breaks the protocol.
    #[error("{host} answers {what}, which makes no sense")]
    Garbage {
        /// `host[:port]`.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// The content is not what its name says.
    #[error("{host} sends {what} with digest {actual} instead of {expected}")]
    Digest {
        /// `host[:port]`.
        host: String,
        /// The manifest or blob.
        what: &'static str,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The content is larger than allowed or announced.
    #[error("{host} sends {what} of more than {limit} bytes")]
    TooLarge {
        /// `host[:port]`.
        host: String,
        /// The manifest or blob.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Certificates or the client could not be prepared.
    #[error("preparing the connection to {host}: {reason}")]
    Setup {
        /// `host[:port]`.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// Stored credentials could not be read.
    #[error("reading the credentials for {host}: {reason}")]
    Credentials {
        /// `host[:port]`.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The download could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program ends.
    #[error("the program is shutting down")]
    Stopped,
}

impl RegistryError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Throttled { .. } => ErrorKind::Throttled,
            Self::Status { .. }
            | Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Garbage { .. } => ErrorKind::Unreachable,
            Self::Digest { .. } => ErrorKind::DigestMismatch,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Setup { .. } | Self::Credentials { .. } => ErrorKind::Configuration,
            Self::File(source) => source.kind(),
            Self::Stopped => ErrorKind::Internal,
        }
    }
}
