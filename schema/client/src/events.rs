//! The events that a monitor pushes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::channel::{mpsc, oneshot};
use futures::{FutureExt as _, StreamExt as _};
use pod_monitor_schema::wire::{event_sink, monitor};
use pod_monitor_schema::{Event, Message as _};
use tokio_util::sync::CancellationToken;

use crate::remote::Remote;

/// Events that wait for the reader before the monitor is left waiting for receipts until they are read.
const UNREAD: usize = 64;

/// Events without a receipt that a monitor may have sent. One that sends more breaks its promise
/// to keep few, and its events would otherwise fill the memory.
const UNRECEIPTED: usize = 1024;

/// What happens at one monitor, in order, from the moment of connecting on.
///
/// The monitor waits for a reader that is slow and drops the connection of one that stops
/// reading. Events that nobody wants are best dropped with this handle.
#[derive(Debug)]
pub struct Events {
    unread: Unread,
    /// Keeps the connection open.
    _connection: Remote<monitor::Client>,
}

impl Events {
    pub(crate) fn new(unread: Unread, connection: Remote<monitor::Client>) -> Self {
        Self {
            unread,
            _connection: connection,
        }
    }

    /// The next event; none when the connection is gone and all that arrived was read.
    /// No event is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        let unread = &mut self.unread;
        let arrived = tokio::select! {
            biased;
            arrived = unread.queue.next() => arrived,
            () = unread.closed.cancelled() => unread.queue.next().now_or_never().flatten(),
        };
        let (event, receipt) = arrived?;
        unread.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(receipt) = receipt {
            let _ = receipt.send(());
        }
        Some(event)
    }
}

/// An event, and its receipt where it is given only when the event is read.
type Arrived = (Event, Option<oneshot::Sender<()>>);

/// The reader's end of a sink. There is one for every pod and nearly always nothing in it, so this
/// queue takes its room when something comes; tokio's take a kilobyte from the start on.
#[derive(Debug)]
pub(crate) struct Unread {
    queue: mpsc::Receiver<Arrived>,
    count: Arc<AtomicUsize>,
    closed: CancellationToken,
}

/// The end that the monitor calls.
struct Sink {
    queue: RefCell<mpsc::Sender<Arrived>>,
    /// Of events in the queue.
    unread: Arc<AtomicUsize>,
}

/// A sink on this thread and the reader's end of it.
pub(crate) fn channel(closed: CancellationToken) -> (event_sink::Client, Unread) {
    let (sender, queue) = mpsc::channel(UNRECEIPTED);
    let count = Arc::new(AtomicUsize::new(0));
    let sink = Sink {
        queue: RefCell::new(sender),
        unread: Arc::clone(&count),
    };
    let unread = Unread {
        queue,
        count,
        closed,
    };
    (capnp_rpc::new_client(sink), unread)
}

impl event_sink::Server for Sink {
    // Not an `async fn`: calls are made in the order of their arrival, but nothing promises that
    // their futures are polled in that order.
    fn event(
        self: Rc<Self>,
        params: event_sink::EventParams,
        _: event_sink::EventResults,
    ) -> impl Future<Output = capnp::Result<()>> + 'static {
        let arrived = params
            .get()
            .and_then(|params| Event::read(params.get_event()?))
            .and_then(|event| self.accept(event));
        async move {
            if let Some(read) = arrived? {
                // A receipt that is dropped is one too: there is no reader any more.
                let _ = read.await;
            }
            Ok(())
        }
    }
}

impl Sink {
    /// Queues an event. The receipt is to wait for what is answered: nothing while the reader is not
    /// far behind.
    fn accept(&self, event: Event) -> capnp::Result<Option<oneshot::Receiver<()>>> {
        let unread = self.unread.fetch_add(1, Ordering::Relaxed);
        let (receipt, read) = (unread >= UNREAD).then(oneshot::channel).unzip();
        match self.queue.borrow_mut().try_send((event, receipt)) {
            Err(error) if error.is_full() => Err(capnp::Error::overloaded(
                "too many events without a receipt".to_owned(),
            )),
            Ok(()) | Err(_) => Ok(read),
        }
    }
}
