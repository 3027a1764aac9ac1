//! What is asked of the pod: decided by `requests.rs`, started here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_cri_api::v1;
use husk_nri::api::Event;
use pod_monitor_client::Monitor;

use super::{
    Driver, Outcome, PodLimits, Reply, Request, answer, denied, shielded, unknown_container,
};
use crate::container::{self, Change};
use crate::error::{Kind, PodError};
use crate::monitors::Trace;
use crate::nri::Subject;
use crate::pod::requests::{self, Busy, Decision};
use crate::pod::{limits, teardown};
use crate::store::v1::{ContainerRecord, ContainerState};
use crate::view::PodPhase;

impl Driver {
    pub(super) fn create(
        &mut self,
        config: v1::ContainerConfig,
        trace: Trace,
        reply: Reply<String>,
    ) {
        let metadata = config.metadata.clone().unwrap_or_default();
        let key = (metadata.name, metadata.attempt);
        if let Some(waiters) = self.creating.get_mut(&key) {
            waiters.push(reply);
            return;
        }
        if let Some(slot) = self.slots.values().find(|slot| slot.record.key() == key) {
            answer(reply, existing_container(&slot.record, &config));
            return;
        }
        let monitor = match requests::create(self.phase) {
            Decision::Denied(state) => Err(self.denied("create a container in", state)),
            Decision::Do | Decision::AlreadyDone | Decision::Join | Decision::Defer => {
                self.monitor.clone().ok_or_else(|| self.no_monitor())
            }
        };
        let monitor = match monitor {
            Ok(monitor) => monitor,
            Err(error) => return answer(reply, Err(error)),
        };
        let creation = container::Creation {
            services: self.services(),
            pod: self.record.clone(),
            sandbox: self.record.config(),
            siblings: self.slots.values().map(|s| s.record.clone()).collect(),
            monitor,
            config,
            trace,
        };
        self.creating.insert(key.clone(), vec![reply]);
        self.operations.spawn(async move {
            let result = shielded(&key.0, container::create(creation)).await;
            Outcome::Created {
                key,
                result: result.map(Box::new),
            }
        });
    }

    pub(super) fn start(&mut self, id: String, trace: Trace, reply: Reply<()>) {
        let services = self.services();
        let ready = self.phase == PodPhase::Ready;
        let Some(slot) = self.slots.get_mut(&id) else {
            return answer(reply, Err(unknown_container(&id)));
        };
        match requests::start(&slot.record.state(), slot.busy, ready) {
            Decision::Join => slot.waiters.push(reply),
            Decision::AlreadyDone => answer(reply, Ok(())),
            Decision::Defer => self.deferred.push(Request::Start { id, trace, reply }),
            Decision::Denied(state) => answer(reply, Err(denied("start", &id, state))),
            Decision::Do => {
                let Some(monitor) = self.monitor.clone() else {
                    let error = self.no_monitor();
                    return answer(reply, Err(error));
                };
                slot.busy = Busy::Starting;
                slot.waiters.push(reply);
                let plugins = Subject::container(&services, &self.record, &slot.record);
                let (record, asked) = (slot.record.clone(), monitor.pid());
                let work = async move {
                    container::start(&services, &monitor, &record, &trace, plugins).await
                };
                self.operations.spawn(async move {
                    let result = shielded(&id, work).await;
                    Outcome::Started { id, asked, result }
                });
            }
        }
    }

    pub(super) fn stop(&mut self, id: String, grace: Duration, trace: Trace, reply: Reply<()>) {
        let Some(slot) = self.slots.get(&id) else {
            return answer(reply, Err(unknown_container(&id)));
        };
        match requests::stop(&slot.record.state(), slot.busy) {
            Decision::AlreadyDone => answer(reply, Ok(())),
            Decision::Denied(state) => answer(reply, Err(denied("stop", &id, state))),
            Decision::Join => self.join(&id, reply),
            Decision::Defer => self.deferred.push(Request::Stop {
                id,
                grace,
                trace,
                reply,
            }),
            Decision::Do => {
                let Some(monitor) = self.monitor.clone() else {
                    let error = self.no_monitor();
                    return answer(reply, Err(error));
                };
                let (services, record) = (self.services(), slot.record.clone());
                let (now, asked) = (Instant::now(), monitor.pid());
                let deadline = now.checked_add(grace).unwrap_or(now);
                let work = async move {
                    container::stop(&services, &monitor, &record, grace, &trace).await
                };
                self.operations.spawn(async move {
                    let result = shielded(&id, work).await;
                    Outcome::Stopped {
                        id,
                        asked,
                        result,
                        deadline,
                        reply,
                    }
                });
            }
        }
    }

    pub(super) fn remove(&mut self, id: String, trace: Trace, reply: Reply<()>) {
        let services = self.services();
        let monitor = self.monitor.clone();
        let Some(slot) = self.slots.get_mut(&id) else {
            // Gone already: RemoveContainer is idempotent.
            return answer(reply, Ok(()));
        };
        match requests::remove(slot.busy) {
            Decision::Join => slot.waiters.push(reply),
            Decision::AlreadyDone => answer(reply, Ok(())),
            Decision::Denied(state) => answer(reply, Err(denied("remove", &id, state))),
            Decision::Defer => self.deferred.push(Request::Remove { id, trace, reply }),
            Decision::Do => {
                slot.busy = Busy::Removing;
                slot.waiters.push(reply);
                let record = slot.record.clone();
                let plugins = Subject::container(&services, &self.record, &record);
                let ends = !std::mem::replace(&mut slot.end_told, true);
                let asked = monitor.as_ref().map(Monitor::pid);
                let work = async move {
                    let removed = container::remove(&services, monitor, &record, &trace).await;
                    tell_removed(plugins, ends, removed.is_ok()).await;
                    removed
                };
                self.operations.spawn(async move {
                    let result = shielded(&id, work).await;
                    Outcome::Removed { id, asked, result }
                });
            }
        }
    }

    pub(super) fn update(&mut self, id: String, change: Change, trace: Trace, reply: Reply<()>) {
        let services = self.services();
        let Some(slot) = self.slots.get_mut(&id) else {
            return answer(reply, Err(unknown_container(&id)));
        };
        match requests::update(&slot.record.state(), slot.busy) {
            Decision::Denied(state) => {
                return answer(reply, Err(denied("update the resources of", &id, state)));
            }
            Decision::Defer => {
                return self.deferred.push(Request::Update {
                    id,
                    change: Box::new(change),
                    trace,
                    reply,
                });
            }
            Decision::Do | Decision::AlreadyDone | Decision::Join => {}
        }
        let Some(monitor) = self.monitor.clone() else {
            let error = self.no_monitor();
            return answer(reply, Err(error));
        };
        slot.busy = Busy::Updating;
        let record = slot.record.clone();
        let subject = id.clone();
        let work =
            async move { container::update(&services, &monitor, &record, &change, &trace).await };
        self.operations.spawn(async move {
            let result = shielded(&subject, work).await;
            Outcome::Updated { id, result, reply }
        });
    }

    /// One at a time, as each starts from what the one before left.
    pub(super) fn update_pod(&mut self, limits: Box<PodLimits>, reply: Reply<()>) {
        match requests::create(self.phase) {
            Decision::Denied(state) => {
                let error = self.denied("update the resources of", state);
                return answer(reply, Err(error));
            }
            _ if self.changing.limits => {
                return self.deferred.push(Request::UpdatePod { limits, reply });
            }
            Decision::Do | Decision::AlreadyDone | Decision::Join | Decision::Defer => {}
        }
        self.changing.limits = true;
        let (services, mut wanted) = (self.services(), (*self.record).clone());
        limits.apply(&mut wanted);
        self.operations.spawn(async move {
            let subject = wanted.id.clone();
            let result = shielded(&subject, limits::write(services, wanted)).await;
            Outcome::PodUpdated {
                limits,
                result,
                reply,
            }
        });
    }

    pub(super) fn stop_pod(&mut self, trace: Trace, reply: Reply<()>) {
        match requests::stop_pod(self.phase, self.clean) {
            Decision::AlreadyDone | Decision::Denied(_) => answer(reply, Ok(())),
            Decision::Join if self.phase == PodPhase::Removing => self.removing.push(reply),
            Decision::Join => self.stopping.push(reply),
            Decision::Defer => self.deferred.push(Request::StopPod { trace, reply }),
            Decision::Do if self.occupied() => {
                self.deferred.push(Request::StopPod { trace, reply });
            }
            Decision::Do => {
                self.stopping.push(reply);
                self.phase = PodPhase::Stopping;
                self.publish();
                let stop = self.stop_operation(trace);
                self.operations.spawn(async move {
                    Outcome::PodStopped {
                        stopped: teardown::stop(Arc::new(stop)).await,
                        then_remove: None,
                    }
                });
            }
        }
    }

    pub(super) fn remove_pod(&mut self, trace: Trace, reply: Reply<()>) {
        match requests::remove_pod(self.phase) {
            Decision::AlreadyDone | Decision::Denied(_) => answer(reply, Ok(())),
            Decision::Join => self.removing.push(reply),
            Decision::Defer => self.deferred.push(Request::RemovePod { trace, reply }),
            Decision::Do if self.occupied() => {
                self.deferred.push(Request::RemovePod { trace, reply });
            }
            Decision::Do => {
                self.removing.push(reply);
                self.phase = PodPhase::Removing;
                self.publish();
                let stop = self.stop_operation(trace.clone());
                self.operations.spawn(async move {
                    Outcome::PodStopped {
                        stopped: teardown::stop(Arc::new(stop)).await,
                        then_remove: Some(trace),
                    }
                });
            }
        }
    }

    /// Waits with whoever waits for what is being done with a container.
    fn join(&mut self, id: &str, reply: Reply<()>) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.waiters.push(reply);
        }
    }

    /// Whether a container is being made, started or removed: the pod's own end waits for that.
    pub(super) fn occupied(&self) -> bool {
        self.changing.limits
            || !self.creating.is_empty()
            || self.slots.values().any(|slot| slot.busy != Busy::Idle)
    }

    pub(super) fn stop_operation(&mut self, trace: Trace) -> teardown::Stop {
        let mut alive = Vec::new();
        for slot in self.slots.values_mut().filter(|s| !s.record.is_exited()) {
            slot.end_told = true;
            alive.push(slot.record.clone());
        }
        teardown::Stop {
            services: self.services(),
            record: self.record.clone(),
            tell: !std::mem::replace(&mut self.stop_told, true),
            monitor: self.monitor.clone(),
            alive,
            containers: self.slots.keys().cloned().collect(),
            trace,
        }
    }
}

/// Tells plugins of a container that was removed, and before that of its end where the removal was it.
async fn tell_removed(plugins: Option<Subject>, ends: bool, removed: bool) {
    let Some(gone) = plugins.map(Subject::stopped) else {
        return;
    };
    if ends {
        gone.tell(Event::StopContainer).await;
    }
    if removed {
        gone.tell(Event::RemoveContainer).await;
    }
}

/// A repeated CreateContainer gets the container that it made; a different wish does not.
fn existing_container(
    record: &ContainerRecord,
    config: &v1::ContainerConfig,
) -> Result<String, PodError> {
    let (name, attempt) = record.key();
    let exists = |why| PodError::Exists {
        kind: Kind::Container,
        name: format!("{name} (attempt {attempt})"),
        id: record.id.clone(),
        why,
    };
    if !matches!(record.state(), ContainerState::Created(_)) {
        return Err(exists("and was started already"));
    }
    if record.config() != *config {
        return Err(exists("with another configuration"));
    }
    Ok(record.id.clone())
}
