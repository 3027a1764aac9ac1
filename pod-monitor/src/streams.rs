//! The streams socket: descriptors against one-time tokens.
//!
//! Owns: the descriptors of every exec and attach until they are fetched, their time is over, or the
//! connection has ended that was told their token.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use pod_monitor_schema::streams::{StreamMask, TOKEN_BYTES, Token};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::bounds::{Slots, is_trusted};
use crate::sys::fdpass;

/// How long a peer may take to say its token.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a deposit waits for the call that names it.
const DEPOSIT_TIME: Duration = Duration::from_secs(30);

/// What waits to be fetched.
#[derive(Debug)]
struct Entry {
    token: Token,
    mask: StreamMask,
    fds: Vec<OwnedFd>,
    expiry: AbortHandle,
    /// The connection that is told the token, by what ends it.
    connection: Option<Weak<Notify>>,
}

impl Entry {
    fn is_deposit(&self) -> bool {
        self.mask == StreamMask::default()
    }

    /// Whether nobody is there any more who could know the token.
    fn is_forgotten(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.strong_count() == 0)
    }
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
        self.keep(token, mask, fds, time);
        Ok(token)
    }

    fn keep(self: &Rc<Vault>, token: Token, mask: StreamMask, fds: Vec<OwnedFd>, time: Duration) {
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
            connection: None,
        });
    }

    /// Lets what waits under the token go with the connection that is told it.
    pub(crate) fn bind(&self, token: &Token, connection: Weak<Notify>) {
        let mut entries = self.0.borrow_mut();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.token == *token) {
            entry.connection = Some(connection);
        }
    }

    /// Keeps what a client deposited under a token of its own, in place of an earlier deposit.
    fn deposit(self: &Rc<Vault>, token: Token, fd: OwnedFd) {
        self.0.borrow_mut().retain(|entry| !entry.is_deposit());
        self.keep(token, StreamMask::default(), vec![fd], DEPOSIT_TIME);
    }

    /// What a client deposited.
    pub(crate) fn withdraw(&self, token: &Token) -> Option<OwnedFd> {
        let mut entry = self.take(token)?;
        entry.expiry.abort();
        entry.fds.pop().filter(|_| entry.is_deposit())
    }

    /// Whether streams wait that somebody may still fetch. Others are let go.
    pub(crate) fn has_streams(&self) -> bool {
        let mut entries = self.0.borrow_mut();
        for forgotten in entries.extract_if(.., |entry| entry.is_forgotten()) {
            forgotten.expiry.abort();
        }
        entries.iter().any(|entry| !entry.is_deposit())
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

async fn hand_out(socket: &UnixStream, vault: &Rc<Vault>) -> io::Result<()> {
    let mut token = [0; TOKEN_BYTES];
    let mut filled = 0;
    let mut deposit = None;
    while let Some(rest) = token.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = || fdpass::receive_bytes(socket, rest);
        let (read, fd) = socket.async_io(Interest::READABLE, read).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        deposit = deposit.or(fd);
    }
    if let Some(fd) = deposit {
        vault.deposit(Token(token), fd);
        let answer = || fdpass::send(socket, StreamMask::default().0, &[]);
        return socket.async_io(Interest::WRITABLE, answer).await;
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

    async fn fetch(vault: &Rc<Vault>, token: &[u8]) -> Option<OwnedFd> {
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
    fn a_deposit_is_taken_once_and_replaces_an_earlier_one() {
        local(async {
            let vault = Rc::new(Vault::default());
            let deposit = async |byte| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let fd = crate::sys::pipe::null().unwrap();
                for part in [&[byte; 10], &[byte; 6] as &[u8]] {
                    let mut space =
                        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
                    let fds = [fd.as_fd()];
                    if part.len() == 10 {
                        let rights = rustix::net::SendAncillaryMessage::ScmRights(&fds);
                        assert!(ancillary.push(rights));
                    }
                    let part = [io::IoSlice::new(part)];
                    let flags = rustix::net::SendFlags::empty();
                    rustix::net::sendmsg(&ours, &part, &mut ancillary, flags).unwrap();
                }
                hand_out(&theirs, &vault).await.unwrap();
                let mut answer = [1];
                ours.readable().await.unwrap();
                assert_eq!(ours.try_read(&mut answer).unwrap(), 1);
                assert_eq!(answer, [0]);
            };
            deposit(1).await;
            assert!(!vault.has_streams());
            deposit(2).await;
            assert!(vault.withdraw(&Token([1; TOKEN_BYTES])).is_none());
            assert!(vault.withdraw(&Token([2; TOKEN_BYTES])).is_some());
            assert!(vault.withdraw(&Token([2; TOKEN_BYTES])).is_none());
        });
    }

    #[test]
    fn what_nobody_can_fetch_any_more_is_not_waited_for() {
        local(async {
            let vault = Rc::new(Vault::default());
            let connection = Rc::new(Notify::new());
            let pipe = crate::sys::pipe::pipe().unwrap();
            let hour = Duration::from_secs(3600);
            let token = vault
                .put(StreamMask::STDIN, vec![pipe.write], hour)
                .unwrap();
            assert!(vault.has_streams());
            vault.bind(&token, Rc::downgrade(&connection));
            assert!(vault.has_streams());
            drop(connection);
            assert!(!vault.has_streams());
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
