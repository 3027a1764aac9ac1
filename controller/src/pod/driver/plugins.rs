//! How plugins are told that a container has ended: once, after whatever else they are told of it, and
//! before the container is removed or whoever stopped it is answered.

use husk_nri::api::Event;

use super::{Driver, Outcome, Reply, answer, answer_all};
use crate::error::PodError;
use crate::nri::Subject;
use crate::pod::requests::Busy;

impl Driver {
    /// Tells of the end of a container that has ended, unless something is being done with it: then
    /// the outcome of that comes back here.
    pub(super) fn tell_end(&mut self, id: &str) {
        let services = self.services();
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.end_told || slot.busy != Busy::Idle || !slot.record.is_exited() {
            return;
        }
        slot.end_told = true;
        let Some(ended) = Subject::container(&services, &self.record, &slot.record) else {
            return;
        };
        slot.busy = Busy::Telling;
        let id = id.to_owned();
        self.operations.spawn(async move {
            ended.tell(Event::StopContainer).await;
            Outcome::Told { id }
        });
    }

    pub(super) fn told(&mut self, id: &str) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.busy = Busy::Idle;
            answer_all(std::mem::take(&mut slot.waiters), Ok(()));
        }
    }

    /// Answers who stopped a container, once plugins know.
    pub(super) fn stopped(&mut self, id: &str, result: Result<(), PodError>, reply: Reply<()>) {
        match self.slots.get_mut(id) {
            Some(slot) if slot.busy == Busy::Telling && result.is_ok() => slot.waiters.push(reply),
            Some(_) | None => answer(reply, result),
        }
    }
}
