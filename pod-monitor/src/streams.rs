//! The streams socket: descriptors against one-time tokens.
//!
//! Owns: the descriptors of every exec and attach until they are fetched or their time is over.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::streams::{StreamMask, TOKEN_BYTES, Token};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

use crate::bounds::{Slots, is_trusted};
use crate::sys::fdpass;

/// How long a peer may take to say its token.
const PATIENCE: Duration = Duration::from_secs(5);

/// What waits to be fetched.
#[derive(Debug)]
struct Entry {
    token: Token,
    mask: StreamMask,
    fds: Vec<OwnedFd>,
    expiry: AbortHandle,
}

/// All that waits to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Vault(RefCell<Vec<Entry>>);

impl Vault {
    /// Keeps the descriptors until they are fetched, or for `time`. Where they are not fetched
    /// they are closed, as if the client had closed them.
    ///
    /// # Errors
    /// Where the kernel has no random bytes.
    pub(crate) fn put(
        self: &Rc<Vault>,
        mask: StreamMask,
        fds: Vec<OwnedFd>,
        time: Duration,
    ) -> io::Result<Token> {
        let mut bytes = [0; TOKEN_BYTES];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let token = Token(bytes);
        let vault = Rc::downgrade(self);
        let expiry = tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            if let Some(vault) = vault.upgrade() {
                drop(vault.take(&token));
            }
        });
        self.0.borrow_mut().push(Entry {
            token,
            mask,
            fds,
            expiry: expiry.abort_handle(),
        });
        Ok(token)
    }

    fn take(&self, token: &Token) -> Option<Entry> {
        let mut entries = self.0.borrow_mut();
        let index = entries.iter().position(|entry| entry.token == *token)?;
        let entry = entries.swap_remove(index);
        if entries.is_empty() {
            *entries = Vec::new();
        }
        Some(entry)
    }
}

/// Serves the socket for ever.
pub(crate) async fn serve(listener: UnixListener, vault: Rc<Vault>, slots: Slots) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: it may be better in a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(slot) = slots.take().filter(|_| is_trusted(&socket)) else {
            continue;
        };
        let vault = Rc::clone(&vault);
        tokio::task::spawn_local(async move {
            // Whatever goes wrong, the peer sees its connection closed.
            drop(tokio::time::timeout(PATIENCE, hand_out(&socket, &vault)).await);
            drop(slot);
        });
    }
}

async fn hand_out(socket: &UnixStream, vault: &Vault) -> io::Result<()> {
    let mut token = [0; TOKEN_BYTES];
    let mut filled = 0;
    while let Some(rest) = token.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        socket.readable().await?;
        match socket.try_read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let Some(entry) = vault.take(&Token(token)) else {
        return Ok(());
    };
    entry.expiry.abort();
    let fds: Vec<_> = entry.fds.iter().map(AsFd::as_fd).collect();
    socket
        .async_io(Interest::WRITABLE, || {
            fdpass::send(socket, entry.mask.0, &fds)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    async fn fetch(vault: &Vault, token: &[u8]) -> Option<OwnedFd> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.try_write(token).unwrap();
        drop(hand_out(&theirs, vault).await);
        drop(theirs);
        ours.readable().await.unwrap();
        ours.try_io(Interest::READABLE, || fdpass::receive(&ours))
            .unwrap()
    }

    #[test]
    fn a_token_is_good_once() {
        local(async {
            let vault = Rc::new(Vault::default());
            let pipe = crate::sys::pipe::pipe().unwrap();
            let hour = Duration::from_secs(3600);
            let token = vault
                .put(StreamMask::STDIN, vec![pipe.write], hour)
                .unwrap();
            assert!(fetch(&vault, &[0; TOKEN_BYTES]).await.is_none());
            assert!(fetch(&vault, &token.0).await.is_some());
            assert!(fetch(&vault, &token.0).await.is_none());
        });
    }

    #[test]
    fn what_is_not_fetched_in_time_is_closed() {
        local(async {
            let vault = Rc::new(Vault::default());
            let pipe = crate::sys::pipe::pipe().unwrap();
            let soon = Duration::from_millis(1);
            let token = vault
                .put(StreamMask::STDIN, vec![pipe.write], soon)
                .unwrap();
            // The read ends when the pipe's last writer is closed.
            crate::sys::pipe::unblock(&pipe.read).unwrap();
            let read = crate::sys::watched::watch(pipe.read, Interest::READABLE).unwrap();
            drop(read.readable().await.unwrap());
            assert!(fetch(&vault, &token.0).await.is_none());
        });
    }
}
