//! The task that owns one pod: takes requests and the monitor's events one at a time, decides,
//! starts operations, applies their outcomes.
//!
//! Operations run beside the driver and never touch its state; they come back as an [`Outcome`].
//! So a container that takes its whole grace period to stop keeps no other request of the pod
//! waiting.

mod telling;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use husk_cri_api::v1;
use pod_monitor_client::schema::{Event, EventKind, Exit};
use pod_monitor_client::{Events, Monitor};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::requests::{self, Busy, Decision, PodPhase};
use super::{Kind, PodError, PodView, Pods, Recovered, SharedError, teardown};
use crate::container::{self, exits};
use crate::events::{self, EventClock};
use crate::monitors::Trace;
use crate::services::Services;
use crate::store::v1::{ContainerRecord, ContainerState, PodRecord, Running};

pub(super) type Reply<T> = oneshot::Sender<Result<T, SharedError>>;

/// What may be asked of a pod.
#[derive(Debug)]
pub(super) enum Request {
    Create {
        config: Box<v1::ContainerConfig>,
        trace: Trace,
        reply: Reply<String>,
    },
    Start {
        id: String,
        trace: Trace,
        reply: Reply<()>,
    },
    Stop {
        id: String,
        grace: Duration,
        trace: Trace,
        reply: Reply<()>,
    },
    Remove {
        id: String,
        trace: Trace,
        reply: Reply<()>,
    },
    Update {
        id: String,
        resources: Box<v1::LinuxContainerResources>,
        trace: Trace,
        reply: Reply<()>,
    },
    StopPod {
        trace: Trace,
        reply: Reply<()>,
    },
    RemovePod {
        trace: Trace,
        reply: Reply<()>,
    },
}

/// How an operation ended.
#[derive(Debug)]
enum Outcome {
    Created {
        key: (String, u32),
        result: Result<Box<ContainerRecord>, PodError>,
    },
    Started {
        id: String,
        result: Result<i64, PodError>,
    },
    Stopped {
        id: String,
        result: Result<Exit, PodError>,
        reply: Reply<()>,
    },
    Removed {
        id: String,
        result: Result<(), PodError>,
    },
    Updated {
        id: String,
        result: Result<v1::LinuxContainerResources, PodError>,
        reply: Reply<()>,
    },
    PodStopped {
        stopped: teardown::Stopped,
        /// Set when the pod is to be removed now.
        then_remove: Option<Trace>,
    },
    PodRemoved(Result<(), PodError>),
}

#[derive(Debug)]
struct Slot {
    record: Arc<ContainerRecord>,
    busy: Busy,
    waiters: Vec<Reply<()>>,
}

impl Slot {
    fn new(record: ContainerRecord) -> Self {
        Self {
            record: Arc::new(record),
            busy: Busy::Idle,
            waiters: Vec::new(),
        }
    }
}

pub(super) struct Driver {
    pods: Pods,
    record: Arc<PodRecord>,
    phase: PodPhase,
    clean: bool,
    monitor: Option<Monitor>,
    events: Option<Events>,
    slots: BTreeMap<String, Slot>,
    creating: HashMap<(String, u32), Vec<Reply<String>>>,
    stopping: Vec<Reply<()>>,
    removing: Vec<Reply<()>>,
    deferred: Vec<Request>,
    queue: mpsc::Receiver<Request>,
    operations: JoinSet<Outcome>,
    view: watch::Sender<Arc<PodView>>,
    clock: EventClock,
}

enum Turn {
    Request(Option<Request>),
    Event(Option<Event>),
    Outcome(Outcome),
    Nothing,
}

impl Driver {
    pub(super) fn new(
        pods: Pods,
        recovered: Recovered,
        queue: mpsc::Receiver<Request>,
    ) -> (Self, watch::Receiver<Arc<PodView>>) {
        let (monitor, events) = recovered.monitor.unzip();
        let phase = if recovered.record.ready {
            PodPhase::Ready
        } else {
            PodPhase::NotReady
        };
        let slots: BTreeMap<_, _> = recovered
            .containers
            .into_iter()
            .map(|record| (record.id.clone(), Slot::new(record)))
            .collect();
        let record = Arc::new(recovered.record);
        let first = PodView {
            record: record.clone(),
            phase,
            containers: slots.values().map(|slot| slot.record.clone()).collect(),
            monitor: monitor.clone(),
        };
        let (view, reader) = watch::channel(Arc::new(first));
        let driver = Self {
            pods,
            record,
            phase,
            clean: recovered.clean,
            monitor,
            events,
            slots,
            creating: HashMap::new(),
            stopping: Vec::new(),
            removing: Vec::new(),
            deferred: Vec::new(),
            queue,
            operations: JoinSet::new(),
            view,
            clock: EventClock::default(),
        };
        (driver, reader)
    }

    /// Runs until the pod is removed or the controller ends.
    #[tracing::instrument(name = "pod", skip_all, fields(id = %self.record.id))]
    pub(super) async fn run(mut self) {
        loop {
            match self.next().await {
                Turn::Request(None) => return,
                Turn::Request(Some(request)) => self.handle(request),
                Turn::Event(Some(event)) => self.event(event).await,
                Turn::Event(None) => self.monitor_gone().await,
                Turn::Outcome(outcome) => {
                    if self.outcome(outcome).await {
                        return;
                    }
                    for request in std::mem::take(&mut self.deferred) {
                        self.handle(request);
                    }
                }
                Turn::Nothing => {}
            }
        }
    }

    async fn next(&mut self) -> Turn {
        let event = async {
            match &mut self.events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = self.queue.recv() => Turn::Request(request),
            event = event => Turn::Event(event),
            Some(outcome) = self.operations.join_next(), if !self.operations.is_empty() => {
                match outcome {
                    Ok(outcome) => Turn::Outcome(outcome),
                    Err(error) => {
                        tracing::error!(%error, "an operation of the pod was cut off");
                        Turn::Nothing
                    }
                }
            }
        }
    }

    fn services(&self) -> Arc<Services> {
        self.pods.services().clone()
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Create {
                config,
                trace,
                reply,
            } => self.create(*config, trace, reply),
            Request::Start { id, trace, reply } => self.start(id, trace, reply),
            Request::Stop {
                id,
                grace,
                trace,
                reply,
            } => self.stop(id, grace, trace, reply),
            Request::Remove { id, trace, reply } => self.remove(id, trace, reply),
            Request::Update {
                id,
                resources,
                trace,
                reply,
            } => self.update(id, *resources, trace, reply),
            Request::StopPod { trace, reply } => self.stop_pod(trace, reply),
            Request::RemovePod { trace, reply } => self.remove_pod(trace, reply),
        }
    }

    fn create(&mut self, config: v1::ContainerConfig, trace: Trace, reply: Reply<String>) {
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
            siblings: self.slots.values().map(|s| s.record.clone()).collect(),
            monitor,
            config,
            trace,
        };
        self.creating.insert(key.clone(), vec![reply]);
        self.operations.spawn(async move {
            let result = container::create(creation).await.map(Box::new);
            Outcome::Created { key, result }
        });
    }

    fn start(&mut self, id: String, trace: Trace, reply: Reply<()>) {
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
                self.operations.spawn(async move {
                    let result = container::start(&monitor, &id, &trace).await;
                    Outcome::Started { id, result }
                });
            }
        }
    }

    fn stop(&mut self, id: String, grace: Duration, trace: Trace, reply: Reply<()>) {
        let Some(slot) = self.slots.get(&id) else {
            return answer(reply, Err(unknown_container(&id)));
        };
        match requests::stop(&slot.record.state(), slot.busy) {
            Decision::AlreadyDone => answer(reply, Ok(())),
            Decision::Denied(state) => answer(reply, Err(denied("stop", &id, state))),
            Decision::Defer | Decision::Join => self.deferred.push(Request::Stop {
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
                let record = slot.record.clone();
                self.operations.spawn(async move {
                    let result = container::stop(&monitor, &record, grace, &trace).await;
                    Outcome::Stopped { id, result, reply }
                });
            }
        }
    }

    fn remove(&mut self, id: String, trace: Trace, reply: Reply<()>) {
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
                self.operations.spawn(async move {
                    let result = container::remove(&services, monitor, &record, &trace).await;
                    Outcome::Removed { id, result }
                });
            }
        }
    }

    fn update(
        &mut self,
        id: String,
        resources: v1::LinuxContainerResources,
        trace: Trace,
        reply: Reply<()>,
    ) {
        let Some(slot) = self.slots.get(&id) else {
            return answer(reply, Err(unknown_container(&id)));
        };
        if slot.record.is_exited() || slot.busy == Busy::Removing {
            let state = requests::word(&slot.record.state());
            return answer(reply, Err(denied("update the resources of", &id, state)));
        }
        let Some(monitor) = self.monitor.clone() else {
            let error = self.no_monitor();
            return answer(reply, Err(error));
        };
        let (services, record) = (self.services(), slot.record.clone());
        self.operations.spawn(async move {
            let result = container::update(&services, &monitor, &record, resources, &trace).await;
            Outcome::Updated { id, result, reply }
        });
    }

    fn stop_pod(&mut self, trace: Trace, reply: Reply<()>) {
        match requests::stop_pod(self.phase, self.clean) {
            Decision::AlreadyDone | Decision::Denied(_) => answer(reply, Ok(())),
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
                        stopped: teardown::stop(stop).await,
                        then_remove: None,
                    }
                });
            }
        }
    }

    fn remove_pod(&mut self, trace: Trace, reply: Reply<()>) {
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
                        stopped: teardown::stop(stop).await,
                        then_remove: Some(trace),
                    }
                });
            }
        }
    }

    /// Whether a container is being made, started or removed: the pod's own end waits for that.
    fn occupied(&self) -> bool {
        !self.creating.is_empty() || self.slots.values().any(|slot| slot.busy != Busy::Idle)
    }

    fn stop_operation(&self, trace: Trace) -> teardown::Stop {
        let alive = self.slots.values().filter(|s| !s.record.is_exited());
        teardown::Stop {
            services: self.services(),
            record: self.record.clone(),
            monitor: self.monitor.clone(),
            alive: alive.map(|slot| slot.record.clone()).collect(),
            trace,
        }
    }

    /// Applies how an operation ended; true says that the pod is gone.
    async fn outcome(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Created { key, result } => self.created(&key, result),
            Outcome::Started { id, result } => self.started(&id, result).await,
            Outcome::Stopped { id, result, reply } => {
                if let Ok(exit) = &result {
                    self.exited(&id, exit).await;
                }
                answer(reply, result.map(drop));
            }
            Outcome::Removed { id, result } => self.removed(&id, result),
            Outcome::Updated { id, result, reply } => {
                let result = self.updated(&id, result).await;
                answer(reply, result);
            }
            Outcome::PodStopped {
                stopped,
                then_remove,
            } => self.pod_stopped(stopped, then_remove).await,
            Outcome::PodRemoved(result) => return self.pod_removed(result),
        }
        false
    }

    fn created(&mut self, key: &(String, u32), result: Result<Box<ContainerRecord>, PodError>) {
        let waiters = self.creating.remove(key).unwrap_or_default();
        let result = result.map(|record| {
            let id = record.id.clone();
            self.pods.enter_container(&id, &self.record.id);
            self.slots.insert(id.clone(), Slot::new(*record));
            self.publish();
            self.tell(&id, events::Kind::Created);
            id
        });
        answer_all(waiters, result);
    }

    async fn started(&mut self, id: &str, result: Result<i64, PodError>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.busy = Busy::Idle;
        let waiters = std::mem::take(&mut slot.waiters);
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
                    started_at: *started_at,
                    ..exited
                })
            }
            (Err(error), ContainerState::Created(_)) => exits::start_failed(error),
            (_, state) => state,
        };
        let ended = matches!(state, ContainerState::Exited(_));
        let started = result.is_ok().then_some(events::Kind::Started);
        let told = started
            .into_iter()
            .chain(ended.then_some(events::Kind::Stopped));
        self.set_state(id, state, told).await;
        answer_all(waiters, result.map(drop));
    }

    fn removed(&mut self, id: &str, result: Result<(), PodError>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.busy = Busy::Idle;
        let waiters = std::mem::take(&mut slot.waiters);
        if result.is_ok() {
            self.slots.remove(id);
            self.pods.forget_container(id);
            self.publish();
            self.tell(id, events::Kind::Deleted);
        }
        answer_all(waiters, result);
    }

    async fn updated(
        &mut self,
        id: &str,
        result: Result<v1::LinuxContainerResources, PodError>,
    ) -> Result<(), PodError> {
        let resources = result?;
        if let Some(slot) = self.slots.get_mut(id) {
            let mut record = (*slot.record).clone();
            let linux = record.config.linux.get_or_insert_default();
            linux.resources = Some(resources);
            slot.record = Arc::new(record);
            self.keep(id).await;
            self.publish();
        }
        Ok(())
    }

    async fn pod_stopped(&mut self, stopped: teardown::Stopped, then_remove: Option<Trace>) {
        for (id, exit) in &stopped.exits {
            self.exited(id, exit).await;
        }
        if then_remove.is_none() {
            self.phase = PodPhase::NotReady;
        }
        self.clean = stopped.result.is_ok();
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

    fn pod_removed(&mut self, result: Result<(), PodError>) -> bool {
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

    async fn event(&mut self, event: Event) {
        let id = event.container_id;
        match event.kind {
            EventKind::Exited(exit) => self.exited(&id, &exit).await,
            EventKind::LogLost { bytes } => {
                tracing::warn!(container = %id, bytes, "log output could not be written");
            }
            EventKind::Oom => {
                tracing::info!(container = %id, "a process was killed: out of memory")
            }
            // The driver made these happen; their outcomes say so.
            EventKind::Created(_) | EventKind::Started(_) | EventKind::Deleted => {}
        }
    }

    /// Notes an exit; the second news of it, event or answer, changes nothing.
    async fn exited(&mut self, id: &str, exit: &Exit) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        if let Some(state) = exits::after(&slot.record.state(), exit) {
            self.end(id, state).await;
        }
    }

    /// Notes the end of a container. While its start is under way, that one's outcome tells of both.
    async fn end(&mut self, id: &str, state: ContainerState) {
        let starting = self.slots.get(id).is_some_and(|s| s.busy == Busy::Starting);
        let told = (!starting).then_some(events::Kind::Stopped);
        self.set_state(id, state, told).await;
    }

    /// The connection to the monitor ended without our doing.
    async fn monitor_gone(&mut self) {
        self.events = None;
        if matches!(self.phase, PodPhase::Stopping | PodPhase::Removing) {
            return;
        }
        tracing::error!("the pod's monitor is gone");
        self.monitor = None;
        self.clean = false;
        self.phase = PodPhase::NotReady;
        teardown::kill_leftovers(&self.services(), &self.record, self.slots.keys()).await;
        self.all_lost("the pod's monitor ended").await;
        self.set_not_ready("the pod's monitor ended".into()).await;
    }

    /// Containers whose end nobody saw.
    async fn all_lost(&mut self, message: &str) {
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
    async fn set_state(
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

    async fn set_not_ready(&mut self, reason: String) {
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
        if let Err(error) = self.services().store.put_pod(&self.record).await {
            tracing::error!(error = %error, "the pod's state could not be kept");
        }
    }

    /// Writes a container's record. What cannot be written is still true: it is shown, and written
    /// with the next change.
    async fn keep(&self, id: &str) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        if let Err(error) = self.services().store.put_container(&slot.record).await {
            tracing::error!(container = %id, error = %error, "the state could not be kept");
        }
    }

    fn publish(&self) {
        self.view.send_replace(Arc::new(PodView {
            record: self.record.clone(),
            phase: self.phase,
            containers: self.slots.values().map(|s| s.record.clone()).collect(),
            monitor: self.monitor.clone(),
        }));
    }

    fn denied(&self, operation: &'static str, state: &'static str) -> PodError {
        PodError::State {
            operation,
            kind: Kind::Pod,
            id: self.record.id.clone(),
            state,
        }
    }

    fn no_monitor(&self) -> PodError {
        PodError::NoMonitor {
            id: self.record.id.clone(),
        }
    }
}

fn denied(operation: &'static str, id: &str, state: &'static str) -> PodError {
    PodError::State {
        operation,
        kind: Kind::Container,
        id: id.to_owned(),
        state,
    }
}

fn unknown_container(id: &str) -> PodError {
    PodError::NotFound {
        kind: Kind::Container,
        id: id.to_owned(),
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
    if record.config != *config {
        return Err(exists("with another configuration"));
    }
    Ok(record.id.clone())
}

/// Answers one caller; a caller that went away lost only the answer.
fn answer<T>(reply: Reply<T>, result: Result<T, PodError>) {
    let _ = reply.send(result.map_err(Arc::new));
}

/// Gives everyone who joined a request the same answer.
fn answer_all<T: Clone>(waiters: Vec<Reply<T>>, result: Result<T, PodError>) {
    let result = result.map_err(Arc::new);
    for waiter in waiters {
        let _ = waiter.send(result.clone());
    }
}
