//! The events that a monitor pushes.

use std::rc::Rc;

use pod_monitor_schema::wire::{event_sink, monitor};
use pod_monitor_schema::{Event, Message as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::remote::Remote;

/// Events that wait for the reader before the monitor is left waiting for receipts.
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
    unread: mpsc::Receiver<Box<Event>>,
    /// Keeps the connection open.
    _connection: Remote<monitor::Client>,
}

impl Events {
    pub(crate) fn new(
        unread: mpsc::Receiver<Box<Event>>,
        connection: Remote<monitor::Client>,
    ) -> Self {
        Self {
            unread,
            _connection: connection,
        }
    }

    /// The next event; none when the connection is gone and all that arrived was read.
    /// No event is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.unread.recv().await.map(|event| *event)
    }
}

type Receipt = oneshot::Sender<()>;

/// A queue has room for 32 of its items from the start on, and nearly always none of them, so
/// what is long is boxed.
type Arrived = (Box<Event>, Receipt);

/// The end that the monitor calls.
struct Sink(mpsc::Sender<Arrived>);

/// A sink on this thread and the reader's end of it.
pub(crate) fn channel(
    closed: CancellationToken,
) -> (event_sink::Client, mpsc::Receiver<Box<Event>>) {
    let (arrived, queue) = mpsc::channel(UNRECEIPTED);
    let (to_reader, unread) = mpsc::channel(UNREAD);
    tokio::task::spawn_local(pump(queue, to_reader, closed));
    (capnp_rpc::new_client(Sink(arrived)), unread)
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
            // A receipt that is dropped is one too: there is no reader any more.
            let _ = arrived?.await;
            Ok(())
        }
    }
}

impl Sink {
    fn accept(&self, event: Event) -> capnp::Result<oneshot::Receiver<()>> {
        let (receipt, receipted) = oneshot::channel();
        match self.0.try_send((Box::new(event), receipt)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(receipted),
            Err(mpsc::error::TrySendError::Full(_)) => Err(capnp::Error::overloaded(
                "too many events without a receipt".to_owned(),
            )),
        }
    }
}

/// Hands events to the reader one by one, and gives the receipt when the reader has room.
async fn pump(
    mut queue: mpsc::Receiver<Arrived>,
    to_reader: mpsc::Sender<Box<Event>>,
    closed: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = queue.recv() => next,
            () = closed.cancelled() => None,
        };
        let Some((event, receipt)) = next else { break };
        // A reader that went away does not want the events.
        let _ = to_reader.send(event).await;
        let _ = receipt.send(());
    }
}
