//! An attached client: the ends that its output is written to, and how it ended.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use pod_monitor_schema::{AttachEnd, ResumedClient};
use tokio::io::Interest;
use tokio::time::Instant;

use super::Streams;
use crate::log::Stream;
use crate::memory;
use crate::outcome::Outcome;
use crate::sys::pipe::number;
use crate::sys::watched::{self, Watched};

type End = Rc<Watched>;

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its name within the monitor.
    pub(crate) number: u32,
    stdout: Side,
    stderr: Side,
    pub(super) input: Input,
    ended: Outcome<AttachEnd>,
}

/// One of its outputs.
#[derive(Debug)]
struct Side {
    end: RefCell<Option<End>>,
    /// What it had no room for.
    owed: RefCell<Vec<u8>>,
}

impl Side {
    fn new(end: Option<OwnedFd>, owed: Vec<u8>) -> io::Result<Side> {
        let interest = Interest::WRITABLE | Interest::ERROR;
        let end = end.map(|fd| watched::watch(fd, interest).map(Rc::new));
        Ok(Side {
            end: RefCell::new(end.transpose()?),
            owed: RefCell::new(owed),
        })
    }

    fn close(&self) {
        self.end.take();
        self.owed.take();
    }

    fn number(&self) -> Option<u32> {
        self.end.borrow().as_ref().map(|end| number(end.get_ref()))
    }
}

/// Its way to the container's input. What is here is whole whenever the task that carries it
/// waits, so that another monitor can go on with it.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) source: RefCell<Option<Rc<Watched>>>,
    /// Whether it has written anything.
    pub(super) wrote: Cell<bool>,
    /// What was read and the container did not take yet.
    pub(super) unwritten: RefCell<Vec<u8>>,
}

/// What became of bytes that a client was offered.
#[derive(Debug)]
pub(super) enum Offer {
    /// It has them, or does not want them.
    Taken,
    /// It has no room for all of them now, and owes the taking of the rest.
    Partly,
    /// Its end is closed.
    Gone,
}

impl Client {
    pub(super) fn new(
        number: u32,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<Rc<Client>> {
        let like = ResumedClient {
            number,
            ..ResumedClient::default()
        };
        Client::resume(like, stdout, stderr)
    }

    /// Goes on with a client whose ends these are.
    pub(super) fn resume(
        like: ResumedClient,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<Rc<Client>> {
        Ok(Rc::new(Client {
            number: like.number,
            stdout: Side::new(stdout, like.owed_stdout)?,
            stderr: Side::new(stderr, like.owed_stderr)?,
            input: Input {
                source: RefCell::default(),
                wrote: Cell::new(like.wrote),
                unwritten: RefCell::new(like.unwritten),
            },
            ended: Outcome::new(None),
        }))
    }

    /// What another monitor needs to go on with it.
    pub(super) fn state(&self) -> ResumedClient {
        let source = self.input.source.borrow();
        ResumedClient {
            number: self.number,
            stdin: source.as_ref().map(|source| number(source.get_ref())),
            stdout: self.stdout.number(),
            stderr: self.stderr.number(),
            wrote: self.input.wrote.get(),
            unwritten: self.input.unwritten.borrow().clone(),
            owed_stdout: self.stdout.owed.borrow().clone(),
            owed_stderr: self.stderr.owed.borrow().clone(),
        }
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&self) -> AttachEnd {
        self.ended.wait().await
    }

    /// Closes its ends; the first reason stays.
    pub(super) fn end(&self, end: AttachEnd) {
        self.stdout.close();
        self.stderr.close();
        self.ended.set(end);
    }

    fn side(&self, stream: Stream) -> &Side {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// Closes one of its ends. Answers whether none is left.
    pub(super) fn close(&self, stream: Stream) -> bool {
        self.side(stream).close();
        self.has_no_output()
    }

    /// Whether it gets no output, or no more.
    pub(super) fn has_no_output(&self) -> bool {
        self.stdout.end.borrow().is_none() && self.stderr.end.borrow().is_none()
    }

    /// Whether there are bytes of the stream that it did not take yet.
    pub(super) fn owes(&self, stream: Stream) -> bool {
        !self.side(stream).owed.borrow().is_empty()
    }

    /// Writes what fits, without waiting.
    pub(super) fn offer(&self, stream: Stream, bytes: &[u8]) -> Offer {
        let side = self.side(stream);
        let Some(end) = side.end.borrow().clone() else {
            return Offer::Taken;
        };
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(end.get_ref(), rest) {
                Ok(more) => taken += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    side.owed.replace(memory::copy(rest));
                    return Offer::Partly;
                }
                Err(_) => return Offer::Gone,
            }
        }
        Offer::Taken
    }

    /// Writes what it had no room for, waiting for room until the deadline.
    pub(super) async fn push(&self, stream: Stream, deadline: Instant) -> Option<AttachEnd> {
        let side = self.side(stream);
        let end = side.end.borrow().clone()?;
        while self.owes(stream) {
            let room = tokio::time::timeout_at(deadline, end.writable()).await;
            let mut room = match room {
                Err(_) => return Some(AttachEnd::Stalled),
                Ok(Err(_)) => return Some(AttachEnd::Detached),
                Ok(Ok(room)) => room,
            };
            let mut owed = side.owed.borrow_mut();
            match room.try_io(|end| Ok(rustix::io::write(end.get_ref(), &owed)?)) {
                Ok(Ok(taken)) => drop(owed.drain(..taken)),
                Ok(Err(_)) => return Some(AttachEnd::Detached),
                Err(_would_block) => {}
            }
        }
        // What was much goes back to the kernel.
        side.owed.take();
        None
    }
}

/// Waits for the client to close its ends of the output, which a container that writes nothing
/// would not notice.
pub(super) fn watch_hangup(streams: &Rc<Streams>, client: &Rc<Client>, has_input: bool) {
    let (streams, client) = (Rc::downgrade(streams), Rc::clone(client));
    let outputs: Vec<(Stream, End)> = [Stream::Stdout, Stream::Stderr]
        .into_iter()
        .filter_map(|stream| Some((stream, client.side(stream).end.borrow().clone()?)))
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
