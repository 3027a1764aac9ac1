//! What a client may use of the monitor at most.
//!
//! Owns: who may connect, how much of anything there may be, and the gate between a connection and
//! the RPC library, which by itself reads calls for as long as they come.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use futures::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// A number of places.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Rc<Cell<usize>>);

/// One of them, taken.
#[derive(Debug)]
pub(crate) struct Slot(Rc<Cell<usize>>);

impl Slots {
    pub(crate) fn new(free: usize) -> Slots {
        Slots(Rc::new(Cell::new(free)))
    }

    /// How many are left.
    pub(crate) fn free(&self) -> usize {
        self.0.get()
    }

    /// A place, while there is one.
    pub(crate) fn take(&self) -> Option<Slot> {
        let left = self.0.get().checked_sub(1)?;
        self.0.set(left);
        Some(Slot(Rc::clone(&self.0)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Whether the peer is root or runs as the monitor does.
pub(crate) fn is_trusted(socket: &UnixStream) -> bool {
    socket
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
}

/// Unfinished questions of one connection, beyond which the peer is not one that works.
const QUESTIONS_MAX: i64 = 8192;

/// Both halves of a connection. It is not read from while answers wait to be written: a client
/// that does not read stops being read, and its calls wait in its own memory.
#[derive(Debug)]
pub(crate) struct Gate {
    socket: UnixStream,
    blocked: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

/// The half that calls come from.
#[derive(Debug)]
pub(crate) struct Inbound {
    gate: Rc<Gate>,
    frames: Frames,
    questions: i64,
}

/// The half that answers go to.
#[derive(Debug)]
pub(crate) struct Outbound(Rc<Gate>);

/// Puts a gate in front of a connection.
pub(crate) fn split(socket: UnixStream) -> (Inbound, Outbound) {
    let gate = Rc::new(Gate {
        socket,
        blocked: Cell::new(false),
        reader: RefCell::new(None),
    });
    let inbound = Inbound {
        gate: Rc::clone(&gate),
        frames: Frames::default(),
        questions: 0,
    };
    (inbound, Outbound(gate))
}

impl AsyncRead for Inbound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.gate.blocked.get() {
            *self.gate.reader.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        loop {
            ready!(self.gate.socket.poll_read_ready(context))?;
            match self.gate.socket.try_read(buffer) {
                Ok(read) => {
                    self.count(buffer.get(..read).unwrap_or_default())?;
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Inbound {
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        let questions = &mut self.questions;
        self.frames.feed(bytes, |kind| match kind {
            Kind::Question => *questions += 1,
            Kind::Finish => *questions -= 1,
            Kind::Other => {}
        });
        if self.questions > QUESTIONS_MAX {
            return Err(io::Error::other("too many unfinished calls"));
        }
        Ok(())
    }
}

impl AsyncWrite for Outbound {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = &self.0;
        loop {
            if gate.socket.poll_write_ready(context)?.is_pending() {
                gate.blocked.set(true);
                return Poll::Pending;
            }
            match gate.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    gate.blocked.set(false);
                    if let Some(reader) = gate.reader.borrow_mut().take() {
                        reader.wake();
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What an RPC message means for the count of questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Question,
    Finish,
    Other,
}

/// Follows a stream of Cap'n Proto messages far enough to tell their kinds.
///
/// A message is a table of segment sizes (capnproto.org/encoding.html, "Serialization Over a
/// Stream") and the segments; the first begins with a pointer to the root struct, whose first two
/// bytes are the kind (`Message` in rpc.capnp).
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the message that need not be looked at.
    skip: u64,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Kind)) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() as u64);
                self.skip -= skipped;
                let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some((kind, left)) = judge(&self.head) {
                tell(kind);
                self.skip = left;
                self.head.clear();
            }
        }
    }
}

/// The kind of a message and how much of it is to come, once enough of it is there.
fn judge(head: &[u8]) -> Option<(Kind, u64)> {
    let segments = u64::from(word(head, 0)?) + 1;
    // The library refuses more; whatever follows is not understood any better than this.
    let table = (4 * (segments + 1)).next_multiple_of(8).min(4096);
    let start = usize::try_from(table).ok()?;
    if head.len() < start {
        return None;
    }
    let words: u64 = (1..=segments.min(512))
        .map_while(|index| word(head, usize::try_from(index * 4).ok()?))
        .map(u64::from)
        .sum();
    let body = words * 8;
    let seen = (head.len() - start) as u64;
    if body < 16 {
        return (seen == body).then_some((Kind::Other, 0));
    }
    if seen < 16 {
        return None;
    }
    // A pointer to a struct right behind it, which is what every writer makes.
    let kind = match (word(head, start)?, word(head, start + 8)? & 0xffff) {
        (0, 4) => Kind::Finish,
        // Unimplemented, abort, return, resolve, release, disembargo and the like.
        (0, 0 | 1 | 3 | 5 | 6 | 13) => Kind::Other,
        // Call and bootstrap, and what is unknown: counted, to be safe.
        _ => Kind::Question,
    };
    Some((kind, body - seen))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp_rpc::rpc_capnp::message;
    use proptest::prelude::*;

    fn frame(kind: Kind) -> Vec<u8> {
        let mut builder = capnp::message::Builder::new_default();
        let mut root = builder.init_root::<message::Builder<'_>>();
        match kind {
            Kind::Question => root.init_call().set_question_id(1),
            Kind::Finish => root.init_finish().set_question_id(1),
            Kind::Other => root.reborrow().init_return().set_answer_id(1),
        }
        capnp::serialize::write_message_to_words(&builder)
    }

    #[test]
    fn slots_come_back() {
        let slots = Slots::new(1);
        let slot = slots.take();
        assert!(slot.is_some() && slots.take().is_none());
        drop(slot);
        assert!(slots.take().is_some());
    }

    proptest! {
        #[test]
        fn kinds_are_told_whatever_the_reads(
            kinds in prop::collection::vec(
                prop_oneof![Just(Kind::Question), Just(Kind::Finish), Just(Kind::Other)], 0..20),
            read in 1usize..50,
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|kind| frame(*kind)).collect();
            let mut frames = Frames::default();
            let mut told = Vec::new();
            for chunk in bytes.chunks(read) {
                frames.feed(chunk, |kind| told.push(kind));
            }
            prop_assert_eq!(told, kinds);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            Frames::default().feed(&bytes, |_| ());
        }
    }
}
