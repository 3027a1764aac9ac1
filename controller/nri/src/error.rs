//! Why plugins cannot be had, and why one did not answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::merge::Conflict;

/// Why plugins cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be had.
    #[error("listening for NRI plugins on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The plugins to launch, or one's configuration, cannot be read.
    #[error("reading {}", path.display())]
    Discover {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a plugin did not answer a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It answered with an error.
    #[error("{message}")]
    Refused {
        /// A gRPC status code.
        code: i32,
        /// In the plugin's words.
        message: String,
    },
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
    /// What it sent is not the protocol.
    #[error("the answer cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    /// A message that the protocol has no room for.
    #[error("a message of {0} bytes is larger than the protocol permits")]
    TooLarge(usize),
}

impl CallError {
    /// Whether the plugin failed to answer, in contrast to answering with a refusal.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::TooLarge(_) => false,
            Self::Timeout(_) | Self::Closed | Self::Decode(_) => true,
        }
    }
}

/// Why a hook failed: the operation that it belongs to must not go on.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A plugin refused, or did not answer and wants that to count as a refusal.
    #[error("NRI plugin {plugin:?} failed {event}")]
    Plugin {
        /// Its index and name.
        plugin: String,
        /// The hook.
        event: &'static str,
        /// What it said.
        #[source]
        source: CallError,
    },
    /// Two plugins want different things, or one wants what cannot be.
    #[error("what NRI plugins ask for cannot be done")]
    Conflict(#[from] Conflict),
    /// What plugins asked for of another container could not be done.
    #[error("container {id} cannot be updated as NRI plugins ask")]
    Update {
        /// The other container.
        id: String,
    },
    /// A validator refused what the others ask for.
    #[error("NRI plugin {plugin:?} rejected the adjustment: {reason}")]
    Rejected {
        /// Its index and name.
        plugin: String,
        /// Why.
        reason: String,
    },
}

/// Why a plugin was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It did not register in its time.
    #[error("no registration within {} ms", .0.as_millis())]
    Unregistered(Duration),
    /// The connection ended before it registered.
    #[error("the connection closed before the registration")]
    Gone,
    /// Its name or index is none.
    #[error(
        "{0:?} is no plugin name: it takes two digits, a dash, and of letters, digits and _.+-"
    )]
    Name(String),
    /// It subscribed to events that do not exist.
    #[error("subscribed to unknown events {0:#x}")]
    Events(i32),
    /// It cannot take the state in parts, and the state does not fit into one message.
    #[error("cannot take the state in parts")]
    Parts,
    /// One pod or container is larger than a message.
    #[error("a pod or container of {0} bytes does not fit into a message")]
    TooLarge(usize),
    /// A call failed.
    #[error("{call}")]
    Call {
        /// Which one.
        call: &'static str,
        /// Why.
        #[source]
        source: CallError,
    },
    /// It could not be started.
    #[error("starting {}", path.display())]
    Launch {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
