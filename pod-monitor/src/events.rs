//! What happened, told to everybody who asked to be told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pod_monitor_schema::{Event, EventKind, Message, wire};
use tokio::sync::Notify;

use crate::say::say;
use crate::sys::clock;

/// Events that a subscriber may leave unanswered before it counts as stalled.
const UNANSWERED_MAX: usize = 256;

/// The pod's events.
#[derive(Default)]
pub(crate) struct Events {
    sequence: Cell<u64>,
    subscribers: RefCell<Vec<Subscriber>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

struct Subscriber {
    sink: wire::event_sink::Client,
    unanswered: Rc<Cell<usize>>,
    /// Ends its connection.
    hang_up: Rc<Notify>,
    /// Of the call that subscribed.
    request_id: String,
}

impl Events {
    /// The number of the newest event.
    pub(crate) fn last(&self) -> u64 {
        self.sequence.get()
    }

    /// Counts on from the newest event of another monitor.
    pub(crate) fn resume(&self, last: u64) {
        self.sequence.set(last);
    }

    /// Tells `sink` everything from now on. Where it stops answering, `hang_up` is called and it
    /// is told nothing more.
    pub(crate) fn subscribe(
        &self,
        sink: wire::event_sink::Client,
        hang_up: Rc<Notify>,
        request_id: String,
    ) {
        self.subscribers.borrow_mut().push(Subscriber {
            sink,
            unanswered: Rc::default(),
            hang_up,
            request_id,
        });
    }

    /// Forgets the subscribers of a connection that is gone.
    pub(crate) fn forget(&self, hang_up: &Rc<Notify>) {
        self.subscribers
            .borrow_mut()
            .retain(|subscriber| !Rc::ptr_eq(&subscriber.hang_up, hang_up));
    }

    /// Tells everybody.
    pub(crate) fn emit(&self, container_id: &str, kind: EventKind) {
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let event = Event {
            sequence,
            time: clock::now(),
            container_id: container_id.to_owned(),
            kind,
        };
        self.subscribers
            .borrow_mut()
            .retain(|subscriber| subscriber.tell(&event));
    }
}

impl Subscriber {
    /// False when it is one no longer.
    fn tell(&self, event: &Event) -> bool {
        if self.unanswered.get() >= UNANSWERED_MAX {
            let request = &self.request_id;
            say(format_args!(
                "dropped a client that takes no events (request {request})"
            ));
            self.hang_up.notify_one();
            return false;
        }
        let mut request = self.sink.event_request();
        event.write(request.get().init_event());
        let answer = request.send().promise;
        let unanswered = Rc::clone(&self.unanswered);
        unanswered.set(unanswered.get() + 1);
        tokio::task::spawn_local(async move {
            // An error answers too; when the connection is gone it is forgotten as a whole.
            drop(answer.await);
            unanswered.set(unanswered.get() - 1);
        });
        true
    }
}
