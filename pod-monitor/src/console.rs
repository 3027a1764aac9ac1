//! How an OCI runtime hands over the controlling side of a terminal that it made: over a unix
//! socket that it was told the path of.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixListener;

use crate::runtime::{Runtime, Scratch};
use crate::sys::fdpass;

/// It was sent before the runtime ended, so this is generous.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that waits for one terminal.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: Scratch,
}

impl Console {
    /// # Errors
    /// The kernel's, among others where the run directory's path is too long for a socket.
    pub(crate) fn bind(runtime: &Runtime) -> io::Result<Console> {
        let path = runtime.scratch("tty");
        let listener = UnixListener::bind(path.path())?;
        Ok(Console { listener, path })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.path.path()
    }

    /// The terminal, after the runtime has ended with success.
    ///
    /// # Errors
    /// `TimedOut` where the runtime has sent none.
    pub(crate) async fn receive(self) -> io::Result<OwnedFd> {
        tokio::time::timeout(PATIENCE, async {
            let (socket, _) = self.listener.accept().await?;
            let received = socket
                .async_io(Interest::READABLE, || fdpass::receive(&socket))
                .await?;
            received.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
        .await?
    }
}
