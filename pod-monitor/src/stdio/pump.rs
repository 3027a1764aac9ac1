//! The task that reads one stream of a container.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::{AttachEnd, EventKind};
use tokio::io::Interest;
use tokio::time::{Instant, Sleep};

use super::client::{Client, Offer};
use super::{Output, Streams};
use crate::log::writer::Stamp;
use crate::sys::{buffer, clock};

/// How long a stream that somebody else than the ended container's first process still holds may
/// be silent before it is given up on.
const QUIET_AFTER_END: Duration = Duration::from_millis(100);
/// And how long it may go on at most.
const TALK_AFTER_END: Duration = Duration::from_secs(2);
const TRIM_AFTER: Duration = Duration::from_millis(250);

thread_local! {
    /// Uses of more of the buffer than is kept, since it was last given back.
    static BIG_USES: Cell<u32> = const { Cell::new(0) };
}

/// What there was to wait for.
enum Happened {
    Readable,
    /// The container's first process is gone.
    Ended,
    /// Nothing came for as long as that means something.
    Silence,
}

/// What a read brought.
enum Taken {
    /// Bytes, and the clients that had no room for all of them.
    Bytes(Vec<Rc<Client>>),
    Nothing,
    End,
}

pub(super) async fn pump(streams: Rc<Streams>, output: Rc<Output>) {
    let mut pump = Pump {
        give_up: None,
        streams,
        output,
    };
    // Those who were slow when another monitor read the stream.
    let clients = pump.streams.clients.borrow().clone();
    let slow = clients
        .into_iter()
        .filter(|client| client.owes(pump.output.stream));
    let slow = slow.collect();
    // In a box, because hardly any stream ever has slow clients, and each would have the room.
    Box::pin(pump.deliver(slow)).await;
    while pump.step().await {}
    pump.flush();
    pump.streams.forget(&pump.output);
}

struct Pump {
    streams: Rc<Streams>,
    output: Rc<Output>,
    /// Set once the container's first process has ended.
    give_up: Option<Instant>,
}

impl Pump {
    /// Waits for something and does it. False when the stream is over.
    async fn step(&mut self) -> bool {
        match self.next().await {
            Happened::Readable => match self.take() {
                Taken::Bytes(slow) if !slow.is_empty() => Box::pin(self.deliver(slow)).await,
                Taken::Bytes(_) | Taken::Nothing => {}
                Taken::End => return false,
            },
            Happened::Ended => self.give_up = Some(Instant::now() + TALK_AFTER_END),
            Happened::Silence => {
                self.flush();
                return self.give_up.is_none();
            }
        }
        true
    }

    async fn next(&mut self) -> Happened {
        let mut timer = self
            .timer()
            .map(|moment| Box::pin(tokio::time::sleep_until(moment)));
        tokio::select! {
            biased;
            _ = self.output.source.readable() => Happened::Readable,
            () = self.streams.ended.wait(), if self.give_up.is_none() => Happened::Ended,
            () = over(timer.as_mut()) => Happened::Silence,
        }
    }

    /// When silence means something.
    fn timer(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.give_up {
            Some(limit) => Some(limit.min(now + QUIET_AFTER_END)),
            None if self.output.splitter.borrow().is_pending() => {
                Some(now + self.streams.bounds.flush)
            }
            None => None,
        }
    }

    fn take(&mut self) -> Taken {
        if self.give_up.is_some_and(|limit| Instant::now() >= limit) {
            return Taken::End;
        }
        let output = Rc::clone(&self.output);
        let taken = output.source.try_io(Interest::READABLE, |source| {
            buffer::with(|bytes| {
                let room = bytes.get_mut(..buffer::READ).unwrap_or_default();
                let read = rustix::io::read(source, room)?;
                let (bytes, behind) = bytes.split_at_mut(read);
                Ok(self.handle(bytes, behind))
            })?
        });
        match taken {
            Ok(taken) => taken,
            Err(error) if is_transient(&error) => Taken::Nothing,
            // A terminal whose other side was closed by all answers EIO.
            Err(_) => Taken::End,
        }
    }

    /// Hands a read to the log and to the clients. `behind` is the buffer's rest.
    fn handle(&mut self, bytes: &[u8], behind: &mut [u8]) -> Taken {
        if bytes.is_empty() {
            return Taken::End;
        }
        let stamp = self.stamp();
        let mut used = bytes.len();
        if let Some(log) = self.streams.log.borrow_mut().as_mut() {
            let mut splitter = self.output.splitter.borrow_mut();
            used += log.feed(&mut splitter, bytes, stamp, behind);
        }
        note_use(used);
        self.tell_loss();
        let clients = self.streams.clients.borrow().clone();
        let mut slow = Vec::new();
        for client in clients {
            match client.offer(self.output.stream, bytes) {
                Offer::Taken => {}
                Offer::Gone => self.lose_client(&client),
                Offer::Partly => slow.push(client),
            }
        }
        Taken::Bytes(slow)
    }

    /// Waits for the clients that were slow. Each has the same time, whatever the others do.
    async fn deliver(&mut self, slow: Vec<Rc<Client>>) {
        let deadline = Instant::now() + self.streams.bounds.stall;
        for client in slow {
            match client.push(self.output.stream, deadline).await {
                None => {}
                Some(AttachEnd::Stalled) => self.streams.detach(&client, AttachEnd::Stalled),
                Some(AttachEnd::Detached | AttachEnd::ContainerExited) => self.lose_client(&client),
            }
        }
    }

    fn lose_client(&self, client: &Rc<Client>) {
        if client.close(self.output.stream) {
            self.streams.detach(client, AttachEnd::Detached);
        }
    }

    fn flush(&mut self) {
        let stamp = self.stamp();
        if let Some(log) = self.streams.log.borrow_mut().as_mut() {
            log.flush(&mut self.output.splitter.borrow_mut(), stamp);
        }
        self.tell_loss();
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            stream: self.output.stream,
            now: clock::now(),
        }
    }

    /// Once when bytes begin to be lost, and once when the log takes them again.
    fn tell_loss(&self) {
        let (losing, lost) = match self.streams.log.borrow().as_ref() {
            Some(log) => (log.is_losing(), log.lost()),
            None => return,
        };
        if self.streams.losing.replace(losing) != losing {
            (self.streams.tell)(EventKind::LogLost { bytes: lost });
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy
    )
}

async fn over(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// Sees to it that the buffer's pages go back to the kernel when little of it was used for a while.
fn note_use(bytes: usize) {
    if bytes <= buffer::KEPT || BIG_USES.replace(BIG_USES.get().wrapping_add(1).max(1)) > 0 {
        return;
    }
    tokio::task::spawn_local(async {
        loop {
            let before = BIG_USES.get();
            tokio::time::sleep(TRIM_AFTER).await;
            if BIG_USES.get() == before {
                BIG_USES.set(0);
                return buffer::trim();
            }
        }
    });
}
