//! Events of pods and containers, for GetContainerEvents (KEP-3386).
//!
//! ```text
//!   pod drivers ── publish ──▶ Hub ──▶ one bounded queue per subscriber ──▶ cri/ ──▶ kubelet
//! ```
//! A pod's driver publishes after each change of its view, so an event and the view in it agree, and
//! the events of one pod come in the order of its changes: sandbox CREATED and STARTED, then of each
//! container CREATED, STARTED, STOPPED, DELETED, at last sandbox STOPPED and DELETED. An event is a
//! few shared pointers; the CRI's message is built when a subscriber takes it.
//!
//! Subscribers know nothing of each other. One that lets [`QUEUE`] events pile up loses its queue
//! and is told so: it has to list anew, which is what the kubelet does. Without a subscriber nothing
//! is built and nothing queues, with one exception: what happened while the controller was away is
//! found out before its socket is open, when nobody can listen yet. That news is kept, at most a
//! start and an end for each container and an end for each pod, until the first subscriber takes it
//! or the container is removed.
//!
//! Deliberately absent: history beyond that, and times that rise across pods or restarts of the
//! controller. The kubelet lists when it connects.

mod hub;

use std::sync::Arc;

pub use hub::{Ended, Hub, QUEUE, Subscription};

use crate::view::PodView;

/// What happened, to a container or to the pod itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Made.
    Created,
    /// Started; a pod is started once it is made.
    Started,
    /// Ended, or could not start; a pod is no longer ready.
    Stopped,
    /// Gone.
    Deleted,
}

/// One change, with the pod as it is after it.
#[derive(Debug, Clone)]
pub struct PodEvent {
    /// The container's id, or the pod's own.
    pub subject: String,
    /// What happened.
    pub kind: Kind,
    /// Nanoseconds since the epoch; rises strictly within a pod.
    pub created_at: i64,
    /// The pod at that time, without its monitor: an event must not keep a connection open.
    pub pod: Arc<PodView>,
}

/// The times of one pod's events. The node's clock may stand still or jump back; these do not.
#[derive(Debug, Default)]
pub struct EventClock {
    last: i64,
}

impl EventClock {
    /// The time of an event that happens `now`, in nanoseconds since the epoch.
    pub fn next(&mut self, now: i64) -> i64 {
        self.last = now.max(self.last.saturating_add(1));
        self.last
    }
}

#[cfg(test)]
mod tests;
