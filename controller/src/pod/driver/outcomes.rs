//! How operations ended, applied to state, store and view, and answered to whoever waits.

use std::sync::Arc;

use husk_cri_api::v1;
use pod_monitor_client::schema::Exit;
use tracing::Instrument as _;

use super::{Driver, Outcome, PodLimits, Reply, Request, Slot, answer_all};
use crate::container::{Begun, Made, Restored, exits};
use crate::error::PodError;
use crate::events;
use crate::fault;
use crate::monitors::{self, Trace};
use crate::pod::requests::Busy;
use crate::pod::teardown;
use crate::store::v1::{ContainerState, Created, Running, pack};
use crate::view::PodPhase;

impl Driver {
    pub(super) fn created(&mut self, key: &(String, u32), result: Result<Box<Made>, PodError>) {
        let waiters = self.creating.remove(key).unwrap_or_default();
        self.creating.shrink_to_fit();
        let result = result.map(|made| {
            let Made {
                record,
                escrow,
                hold,
            } = *made;
            let id = record.id.clone();
            self.pods.enter_container(&id, &self.record.id);
            let slot = Box::new(Slot::new(record, escrow));
            self.slots.insert(id.clone(), slot);
            self.publish();
            drop(hold);
            self.tell(&id, events::Kind::Created);
            id
        });
        let result = result.and_then(|id| {
            fault::point("container.create.answer")?;
            Ok(id)
        });
        self.unclaimed.retain(|id| !self.slots.contains_key(id));
        answer_all(waiters, result);
        self.delete_unclaimed();
    }

    /// Once no creation is under way, a container that the monitor told of and no record knows is
    /// one that nobody was told the id of: its creation was given up before it was over.
    pub(super) fn delete_unclaimed(&mut self) {
        let Some(monitor) = self.monitor.clone().filter(|_| self.creating.is_empty()) else {
            return;
        };
        for id in std::mem::take(&mut self.unclaimed) {
            tracing::info!(container = %id, "deleting a container that nobody asked for");
            let monitor = monitor.clone();
            let delete = async move {
                let deleted = monitor.delete(&Trace::default(), &id, true).await;
                if let Err(error) = deleted {
                    tracing::warn!(container = %id, %error, "a container of nobody is left");
                }
            };
            tokio::spawn(delete.in_current_span());
        }
    }

    pub(super) async fn started(&mut self, id: &str, asked: u32, result: Result<Begun, PodError>) {
        let result = result.map(|begun| {
            if let Some(restored) = begun.restored {
                self.restored(id, restored);
            }
            begun.at
        });
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.busy = Busy::Idle;
        let waiters = std::mem::take(&mut slot.waiters);
        if self.is_cut_off(&result) {
            self.again(waiters, |reply| Request::Start {
                id: id.to_owned(),
                trace: Trace::default(),
                reply,
            });
            return self.lost(asked).await;
        }
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let state = match (&result, slot.record.state()) {
            (Ok(started_at), ContainerState::Created(created)) => {
                ContainerState::Running(Running {
                    pid: created.pid,
                    started_at: *started_at,
                })
            }
            // It ended so fast that the event was here first.
            (Ok(started_at), ContainerState::Exited(exited)) => {
                ContainerState::Exited(crate::store::v1::Exited {
                    started_at: exited.finished_at.min(*started_at),
                    ..exited
                })
            }
            // The end of what could not be started may be seen before the failure is.
            (Err(error), ContainerState::Created(_) | ContainerState::Exited(_))
                if exits::is_fatal(error) =>
            {
                exits::start_failed(error)
            }
            (_, state) => state,
        };
        let ended = matches!(state, ContainerState::Exited(_));
        // It runs even where the call for it failed: its monitor said so, and the answer was lost.
        let runs = matches!(state, ContainerState::Running(_));
        let started = (result.is_ok() || runs).then_some(events::Kind::Started);
        let told = started
            .into_iter()
            .chain(ended.then_some(events::Kind::Stopped));
        self.set_state(id, state, told).await;
        self.tell_end(id);
        answer_all(waiters, result.map(drop));
    }

    /// What a container has only since its start.
    fn restored(&mut self, id: &str, restored: Restored) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let mut record = (*slot.record).clone();
        record.pipes = monitors::pipes(&restored.escrow);
        let pid = restored.pid;
        record.state = match record.state() {
            ContainerState::Created(created) => {
                Some(ContainerState::Created(Created { pid, ..created }))
            }
            ContainerState::Running(running) => {
                Some(ContainerState::Running(Running { pid, ..running }))
            }
            // It ended before the news of its start came here.
            ContainerState::Exited(_) => return self.let_go(id),
        };
        slot.escrow = restored.escrow;
        slot.record = Arc::new(record);
    }

    pub(super) async fn stop_ended(
        &mut self,
        id: &str,
        result: Result<Exit, PodError>,
        reply: Reply<()>,
    ) {
        if let Ok(exit) = &result {
            self.exited(id, exit).await;
        }
        self.stopped(id, result.map(drop), reply);
    }

    pub(super) async fn removed(
        &mut self,
        id: &str,
        asked: Option<u32>,
        result: Result<(), PodError>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.busy = Busy::Idle;
        let waiters = std::mem::take(&mut slot.waiters);
        if let Some(asked) = asked.filter(|_| self.is_cut_off(&result)) {
            self.again(waiters, |reply| Request::Remove {
                id: id.to_owned(),
                trace: Trace::default(),
                reply,
            });
            return self.lost(asked).await;
        }
        if result.is_ok() {
            self.let_go(id);
            self.slots.remove(id);
            self.pods.forget_container(id);
            self.publish();
            self.tell(id, events::Kind::Deleted);
        }
        answer_all(waiters, result);
    }

    pub(super) async fn updated(
        &mut self,
        id: &str,
        result: Result<v1::LinuxContainerResources, PodError>,
    ) -> Result<(), PodError> {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.busy = Busy::Idle;
            let mut record = (*slot.record).clone();
            let result = result.map(|resources| record.packed_resources = Some(pack(&resources)));
            slot.record = Arc::new(record);
            if result.is_ok() {
                self.keep(id).await;
                self.publish();
            }
            self.tell_end(id);
            return result;
        }
        Ok(())
    }

    pub(super) async fn pod_updated(
        &mut self,
        limits: PodLimits,
        result: Result<(), PodError>,
    ) -> Result<(), PodError> {
        self.changing.limits = false;
        result?;
        let mut record = (*self.record).clone();
        limits.apply(&mut record);
        self.record = Arc::new(record);
        self.publish();
        let kept = self.services().store.put_pod(&self.record).await;
        kept.map_err(|source| PodError::Store {
            id: self.record.id.clone(),
            source,
        })
    }

    pub(super) async fn pod_stopped(
        &mut self,
        stopped: teardown::Stopped,
        then_remove: Option<Trace>,
    ) {
        for (id, exit) in &stopped.exits {
            self.exited(id, exit).await;
        }
        if then_remove.is_none() {
            self.phase = PodPhase::NotReady;
        }
        self.clean = stopped.result.is_ok();
        Arc::make_mut(&mut self.record).clean = self.clean;
        if stopped.monitor_ended {
            self.monitor = None;
            self.events = None;
            self.all_lost("the pod sandbox was stopped").await;
        }
        self.set_not_ready(String::new()).await;
        let Some(trace) = then_remove else {
            return answer_all(std::mem::take(&mut self.stopping), stopped.result);
        };
        let (services, record) = (self.services(), self.record.clone());
        let containers: Vec<_> = self.slots.values().map(|s| s.record.clone()).collect();
        self.operations.spawn(async move {
            let left = stopped.result;
            let removed = teardown::remove(&services, &record, &containers, left, &trace).await;
            Outcome::PodRemoved(removed)
        });
    }

    pub(super) fn pod_removed(&mut self, result: Result<(), PodError>) -> bool {
        let gone = result.is_ok();
        if gone {
            self.pods.forget_pod(&self.record);
            for id in std::mem::take(&mut self.slots).into_keys() {
                self.publish();
                self.tell(&id, events::Kind::Deleted);
            }
            self.tell_pod(events::Kind::Deleted);
        } else {
            // What is left can be removed by asking again.
            self.phase = PodPhase::NotReady;
            self.clean = false;
            self.publish();
        }
        answer_all(std::mem::take(&mut self.removing), result);
        gone
    }
}
