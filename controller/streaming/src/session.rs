//! What the server is handed: how to open a session once its client is really there.
//!
//! Nothing here knows what a container or a pod is. The opener does, and it is
//! called at most once per token, so a request that nobody follows up costs nothing.

use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

pub use crate::resize::Size;

/// A future that can be stored and moved between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The streams that a client asked for, as the CRI names them.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the request has exactly these four"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSet {
    /// The client sends input.
    pub stdin: bool,
    /// The client takes output; of a terminal, all of it.
    pub stdout: bool,
    /// The client takes errors; never together with `tty`.
    pub stderr: bool,
    /// The process has a terminal.
    pub tty: bool,
}

/// A combination of streams that no protocol can carry: an invalid argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamSetError {
    /// Nothing would flow.
    #[error("none of stdin, stdout and stderr was asked for")]
    Nothing,
    /// A terminal has one output only.
    #[error("a terminal has no separate stderr")]
    TerminalStderr,
}

impl StreamSet {
    /// Checks the combination.
    ///
    /// # Errors
    /// [`StreamSetError`], which the CRI wants to be told as an invalid argument.
    pub fn check(self) -> Result<(), StreamSetError> {
        if self.tty && self.stderr {
            return Err(StreamSetError::TerminalStderr);
        }
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(StreamSetError::Nothing);
        }
        Ok(())
    }
}

/// An exec or attach that waits for its client.
pub struct RemoteSession {
    /// What the client may open.
    pub streams: StreamSet,
    /// Starts the process or attaches to it.
    pub opener: Box<dyn Opener>,
}

/// A port-forward that waits for its client.
pub struct PortForwardSession {
    /// Ports of the request; WebSocket clients cannot name theirs later.
    pub ports: Vec<u16>,
    /// Connects to a port.
    pub connector: Box<dyn Connector>,
}

/// Opens what an exec or attach was asked for.
pub trait Opener: Send {
    /// Called once, when the client has opened all its streams. The future is always
    /// run to its end: where the client is gone by then, the result is abandoned.
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>>;
}

/// Connects to the ports of one network namespace.
pub trait Connector: Send + Sync {
    /// Called once per connection of the client, many at a time.
    fn connect(&self, port: u16) -> BoxFuture<Result<Box<dyn ByteStream>, SessionError>>;
}

/// A connection to a port; a TCP stream, for example.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A running process, or one that was attached to.
pub struct Opened {
    /// Its streams.
    pub stdio: Stdio,
    /// Resolves with the exit code, 0 for an attach that ended well.
    pub exit: BoxFuture<Result<i32, SessionError>>,
    /// Called when the client went away before `exit` resolved.
    pub abandon: Option<Box<dyn FnOnce() + Send>>,
}

/// Sets the size of a terminal that somebody else holds.
pub type Resize = Box<dyn Fn(Size) + Send + Sync>;

/// Our ends of a process's streams. All fds become non-blocking.
pub enum Stdio {
    /// Separate pipes; a missing one reads as empty and swallows writes.
    Pipes {
        /// Writable; closed when the client closes its input.
        stdin: Option<OwnedFd>,
        /// Readable.
        stdout: Option<OwnedFd>,
        /// Readable.
        stderr: Option<OwnedFd>,
        /// Where sizes go, when a terminal is behind the pipes.
        resize: Option<Resize>,
    },
    /// A terminal.
    Terminal {
        /// Its controlling side, readable and writable; sizes are set on it.
        terminal: OwnedFd,
        /// What becomes of the process's input when the client closes its own.
        on_stdin_end: StdinEnd,
    },
}

/// A terminal has no half to close, so the end of input has to be typed, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinEnd {
    /// Type the end-of-file character, unless the process reads raw. For an exec.
    Type,
    /// Leave the process waiting. For an attach, which others may join.
    Leave,
}

/// Why a session could not be opened or did not end well; shown to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SessionError(String);

impl SessionError {
    /// An error with a text for the person at the client.
    pub fn new(message: impl Into<String>) -> SessionError {
        SessionError(message.into())
    }
}

impl fmt::Debug for RemoteSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSession")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PortForwardSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortForwardSession")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("stdio", &self.stdio)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
                ..
            } => f
                .debug_struct("Pipes")
                .field("stdin", stdin)
                .field("stdout", stdout)
                .field("stderr", stderr)
                .finish_non_exhaustive(),
            Stdio::Terminal {
                terminal,
                on_stdin_end,
            } => f
                .debug_struct("Terminal")
                .field("terminal", terminal)
                .field("on_stdin_end", on_stdin_end)
                .finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_sets_are_checked_as_the_cri_demands() {
        let none = StreamSet::default();
        let tty = StreamSet {
            stdout: true,
            tty: true,
            ..none
        };
        let rows = [
            (none, Err(StreamSetError::Nothing)),
            (
                StreamSet { tty: true, ..none },
                Err(StreamSetError::Nothing),
            ),
            (
                StreamSet {
                    stdin: true,
                    ..none
                },
                Ok(()),
            ),
            (tty, Ok(())),
            (
                StreamSet {
                    stderr: true,
                    ..tty
                },
                Err(StreamSetError::TerminalStderr),
            ),
        ];
        for (set, expected) in rows {
            assert_eq!(set.check(), expected, "{set:?}");
        }
    }
}
