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

use crate::frames::{Frames, Kind};

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
    questions: Cell<i64>,
    blocked: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

/// The half that calls come from.
#[derive(Debug)]
pub(crate) struct Inbound {
    gate: Rc<Gate>,
    frames: Frames,
}

/// The half that answers go to.
#[derive(Debug)]
pub(crate) struct Outbound {
    gate: Rc<Gate>,
    frames: Frames,
}

/// Puts a gate in front of a connection.
pub(crate) fn split(socket: UnixStream) -> (Inbound, Outbound) {
    let gate = Rc::new(Gate {
        socket,
        questions: Cell::new(0),
        blocked: Cell::new(false),
        reader: RefCell::new(None),
    });
    let inbound = Inbound {
        gate: Rc::clone(&gate),
        frames: Frames::default(),
    };
    let outbound = Outbound {
        gate,
        frames: Frames::default(),
    };
    (inbound, outbound)
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
        let questions = &self.gate.questions;
        self.frames.feed(bytes, |kind| match kind {
            Kind::Question => questions.set(questions.get() + 1),
            Kind::Finish => questions.set(questions.get() - 1),
            Kind::LastReturn | Kind::Other => {}
        });
        if questions.get() > QUESTIONS_MAX {
            return Err(io::Error::other("too many unfinished calls"));
        }
        Ok(())
    }
}

impl AsyncWrite for Outbound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { gate, frames } = &mut *self;
        loop {
            if gate.socket.poll_write_ready(context)?.is_pending() {
                gate.blocked.set(true);
                return Poll::Pending;
            }
            match gate.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    let written = *result.as_ref().unwrap_or(&0);
                    // The library keeps nothing of a call whose answer holds no capability, and its client then
                    // sends no finish.
                    frames.feed(bytes.get(..written).unwrap_or_default(), |kind| {
                        if kind == Kind::LastReturn {
                            gate.questions.set(gate.questions.get() - 1);
                        }
                    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let slots = Slots::new(1);
        let slot = slots.take();
        assert!(slot.is_some() && slots.take().is_none());
        drop(slot);
        assert!(slots.take().is_some());
    }
}
