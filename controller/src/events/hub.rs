//! Who listens, and what waits for each of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use super::{Kind, PodEvent};

/// Events that may wait for one subscriber. All containers of a full node may end at once, and a
/// subscriber that reads must not be cut off for that; an event in here is a few pointers.
pub const QUEUE: usize = 1024;

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The subscriber does not read.
    #[error(
        "{QUEUE} events were not read, and are lost: list pods and containers, subscribe again"
    )]
    Stalled,
    /// The controller is being stopped.
    #[error("the controller is being stopped")]
    Stopping,
}

/// Passes events on; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: Vec<Arc<Mutex<Queue>>>,
    /// What nobody could hear: see the module's description.
    missed: Vec<Arc<PodEvent>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<PodEvent>>,
    ended: Option<Ended>,
    waker: Option<Waker>,
}

/// The events since it was made. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    queue: Arc<Mutex<Queue>>,
    over: bool,
}

impl Hub {
    /// Tells every subscriber. `build` is called when there is one; it must not call the hub.
    pub fn publish(&self, subject: &str, kind: Kind, build: impl FnOnce() -> PodEvent) {
        let mut inner = lock(&self.inner);
        if inner.subscribers.is_empty() {
            if kind == Kind::Deleted {
                inner.forget(subject);
            }
            return;
        }
        let event = Arc::new(build());
        inner
            .subscribers
            .retain(|subscriber| lock(subscriber).push(&event));
    }

    /// Keeps what happened while the controller was away for the first subscriber.
    pub fn publish_missed(&self, event: PodEvent) {
        lock(&self.inner).missed.push(Arc::new(event));
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> Subscription {
        let mut inner = lock(&self.inner);
        let queue = Queue {
            events: std::mem::take(&mut inner.missed).into(),
            ended: inner.closed.then_some(Ended::Stopping),
            waker: None,
        };
        let queue = Arc::new(Mutex::new(queue));
        if !inner.closed {
            inner.subscribers.push(queue.clone());
        }
        Subscription {
            hub: self.clone(),
            queue,
            over: false,
        }
    }

    /// Ends all subscriptions, also those to come.
    pub fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        for subscriber in inner.subscribers.drain(..) {
            lock(&subscriber).end(Ended::Stopping);
        }
    }

    /// How many listen.
    #[cfg(test)]
    pub(super) fn subscribers(&self) -> usize {
        lock(&self.inner).subscribers.len()
    }
}

impl Inner {
    fn forget(&mut self, subject: &str) {
        self.missed
            .retain(|event| event.subject != subject && event.pod.record.id != subject);
    }
}

impl Queue {
    /// Whether the subscriber stays.
    fn push(&mut self, event: &Arc<PodEvent>) -> bool {
        if self.events.len() >= QUEUE {
            // The memory goes now: a client that reads nothing may keep the call open for long.
            self.events = VecDeque::new();
            self.end(Ended::Stalled);
            return false;
        }
        self.events.push_back(event.clone());
        self.wake();
        true
    }

    fn end(&mut self, why: Ended) {
        self.ended = Some(why);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Arc<PodEvent>, Ended>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let (event, ended) = {
            let mut queue = lock(&self.queue);
            let event = queue.events.pop_front();
            if event.is_none() && queue.ended.is_none() {
                queue.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            (event, queue.ended)
        };
        if let Some(event) = event {
            return Poll::Ready(Some(Ok(event)));
        }
        self.over = true;
        Poll::Ready(ended.map(Err))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = lock(&self.hub.inner);
        inner
            .subscribers
            .retain(|subscriber| !Arc::ptr_eq(subscriber, &self.queue));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks; if something did, the lists are whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
