//! An attached client: the ends that its output is written to, and how it ended.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use pod_monitor_schema::AttachEnd;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Streams;
use crate::log::Stream;
use crate::sys::watched::{self, Watched};

type End = Rc<Watched>;

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    stdout: RefCell<Option<End>>,
    stderr: RefCell<Option<End>>,
    ended: watch::Sender<Option<AttachEnd>>,
}

/// What became of bytes that a client was offered.
#[derive(Debug)]
pub(super) enum Offer {
    /// It has them, or does not want them.
    Taken,
    /// It has these many of them and no room for more now.
    Partly(usize),
    /// Its end is closed.
    Gone,
}

impl Client {
    pub(super) fn new(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> io::Result<Rc<Client>> {
        let end = |fd: Option<OwnedFd>| -> io::Result<_> {
            Ok(RefCell::new(match fd {
                Some(fd) => {
                    let interest = Interest::WRITABLE | Interest::ERROR;
                    Some(Rc::new(watched::watch(fd, interest)?))
                }
                None => None,
            }))
        };
        Ok(Rc::new(Client {
            stdout: end(stdout)?,
            stderr: end(stderr)?,
            ended: watch::Sender::new(None),
        }))
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&self) -> AttachEnd {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(AttachEnd::Detached),
            Err(_) => AttachEnd::Detached,
        }
    }

    /// Closes its ends; the first reason stays.
    pub(super) fn end(&self, end: AttachEnd) {
        self.stdout.take();
        self.stderr.take();
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(end);
            first
        });
    }

    fn slot(&self, stream: Stream) -> &RefCell<Option<End>> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// Closes one of its ends. Answers whether none is left.
    pub(super) fn close(&self, stream: Stream) -> bool {
        self.slot(stream).take();
        self.has_no_output()
    }

    /// Whether it gets no output, or no more.
    pub(super) fn has_no_output(&self) -> bool {
        self.stdout.borrow().is_none() && self.stderr.borrow().is_none()
    }

    /// Writes what fits, without waiting.
    pub(super) fn offer(&self, stream: Stream, bytes: &[u8]) -> Offer {
        let Some(end) = self.slot(stream).borrow().clone() else {
            return Offer::Taken;
        };
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(end.get_ref(), rest) {
                Ok(more) => taken += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Offer::Partly(taken),
                Err(_) => return Offer::Gone,
            }
        }
        Offer::Taken
    }

    /// Writes all, waiting for room until the deadline.
    pub(super) async fn push(
        &self,
        stream: Stream,
        bytes: &[u8],
        deadline: Instant,
    ) -> Option<AttachEnd> {
        let end = self.slot(stream).borrow().clone()?;
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let room = tokio::time::timeout_at(deadline, end.writable()).await;
            let mut room = match room {
                Err(_) => return Some(AttachEnd::Stalled),
                Ok(Err(_)) => return Some(AttachEnd::Detached),
                Ok(Ok(room)) => room,
            };
            match room.try_io(|end| Ok(rustix::io::write(end.get_ref(), rest)?)) {
                Ok(Ok(more)) => taken += more,
                Ok(Err(_)) => return Some(AttachEnd::Detached),
                Err(_would_block) => {}
            }
        }
        None
    }
}

/// Waits for the client to close its ends of the output, which a container that writes nothing
/// would not notice.
pub(super) fn watch_hangup(streams: &Rc<Streams>, client: &Rc<Client>, has_input: bool) {
    let (streams, client) = (Rc::downgrade(streams), Rc::clone(client));
    let outputs: Vec<(Stream, End)> = [Stream::Stdout, Stream::Stderr]
        .into_iter()
        .filter_map(|stream| Some((stream, client.slot(stream).borrow().clone()?)))
        .collect();
    if outputs.is_empty() {
        // Its input tells when it goes; with none of the three it is gone already.
        if !has_input && let Some(streams) = streams.upgrade() {
            streams.detach(&client, AttachEnd::Detached);
        }
        return;
    }
    tokio::task::spawn_local(async move {
        for (stream, end) in outputs {
            tokio::select! {
                _ = client.ended() => return,
                _ = hangup(end) => {}
            }
            client.close(stream);
        }
        if let Some(streams) = streams.upgrade() {
            streams.detach(&client, AttachEnd::Detached);
        }
    });
}

/// A pipe whose reader is gone is in error (pipe(7)).
async fn hangup(end: End) {
    // A descriptor that cannot be watched is as good as closed.
    drop(end.ready(Interest::ERROR).await);
}
