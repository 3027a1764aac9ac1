//! What becomes of the pod and its containers: events of the monitor, and each change of a state, applied
//! to the store and the view.

use std::sync::Arc;

use pod_monitor_client::schema::{Event, EventKind, Exit};

use super::Driver;
use crate::container::exits;
use crate::events;
use crate::pod::requests::Busy;
use crate::store::v1::{ContainerState, Running};

impl Driver {
    pub(super) async fn event(&mut self, event: Event) {
        let id = event.container_id;
        match event.kind {
            EventKind::Exited(exit) => self.exited(&id, &exit).await,
            EventKind::LogLost { bytes } => {
                tracing::warn!(container = %id, bytes, "log output could not be written");
                self.services().stats.note_log_lost(&id, bytes);
            }
            EventKind::Oom => {
                tracing::info!(container = %id, "a process was killed: out of memory")
            }
            EventKind::Started(started) => self.runs(&id, started.at).await,
            EventKind::Created(_) if !self.slots.contains_key(&id) => {
                self.unclaimed.insert(id);
                self.delete_unclaimed();
            }
            EventKind::Deleted => {
                self.unclaimed.remove(&id);
            }
            // The driver made it happen; its outcome says so.
            EventKind::Created(_) => {}
            EventKind::StdinClosed => self.stdin_closed(&id),
        }
    }

    /// Notes that a container runs, which its start's outcome does not say when it failed half-way.
    /// While the start is under way that one tells of it.
    pub(super) async fn runs(&mut self, id: &str, started_at: i64) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let ContainerState::Created(created) = slot.record.state() else {
            return;
        };
        let told = (slot.busy != Busy::Starting).then_some(events::Kind::Started);
        let pid = created.pid;
        let state = ContainerState::Running(Running { pid, started_at });
        self.set_state(id, state, told).await;
    }

    /// Notes an exit; the second news of it, event or answer, changes nothing.
    pub(super) async fn exited(&mut self, id: &str, exit: &Exit) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        if let Some(state) = exits::after(&slot.record.state(), exit) {
            self.end(id, state).await;
        }
    }

    /// Notes the end of a container. While its start is under way, that one's outcome tells of both.
    pub(super) async fn end(&mut self, id: &str, state: ContainerState) {
        let starting = self.slots.get(id).is_some_and(|s| s.busy == Busy::Starting);
        let told = (!starting).then_some(events::Kind::Stopped);
        self.set_state(id, state, told).await;
        // Not before it is kept: a daemon that comes back with neither would not know of the end.
        self.let_go(id);
        self.tell_end(id);
    }

    /// Containers whose end nobody saw.
    pub(super) async fn all_lost(&mut self, message: &str) {
        let alive: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.record.is_exited())
            .map(|(id, _)| id.clone())
            .collect();
        for id in alive {
            let Some(slot) = self.slots.get(&id) else {
                continue;
            };
            let state = exits::lost(&slot.record.state(), message);
            self.end(&id, state).await;
        }
    }

    /// Shows a state, tells of it, and keeps it, in this order: nobody waits for the disk to hear of
    /// an exit, and what a crash takes away the monitor still knows.
    pub(super) async fn set_state(
        &mut self,
        id: &str,
        state: ContainerState,
        told: impl IntoIterator<Item = events::Kind>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let mut record = (*slot.record).clone();
        record.state = Some(state);
        slot.record = Arc::new(record);
        self.publish();
        for kind in told {
            self.tell(id, kind);
        }
        self.keep(id).await;
    }

    pub(super) async fn set_not_ready(&mut self, reason: String) {
        let was_ready = self.record.ready;
        let mut record = (*self.record).clone();
        record.ready = false;
        if !reason.is_empty() {
            record.reason = reason;
        }
        self.record = Arc::new(record);
        self.publish();
        if was_ready {
            self.tell_pod(events::Kind::Stopped);
        }
        self.keep_pod().await;
    }

    /// As [`Self::keep`], for the pod's own record.
    pub(super) async fn keep_pod(&self) {
        if let Err(error) = self.services().store.put_pod(&self.record).await {
            tracing::error!(error = %error, "the pod's state could not be kept");
        }
    }

    /// Writes a container's record. What cannot be written is still true: it is shown, and written
    /// with the next change.
    pub(super) async fn keep(&self, id: &str) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        if let Err(error) = self.services().store.put_container(&slot.record).await {
            tracing::error!(container = %id, error = %error, "the state could not be kept");
        }
    }
}
