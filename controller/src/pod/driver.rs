//! The task that owns one pod: takes requests and the monitor's events one at a time, decides,
//! starts operations, applies their outcomes.
//!
//! Operations run beside the driver and never touch its state; they come back as an [`Outcome`].
//! So a container that takes its whole grace period to stop keeps no other request of the pod
//! waiting.

mod asked;
mod inbox;
mod monitor;
mod outcomes;
mod plugins;
mod slot;
mod states;
mod telling;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use futures::channel::mpsc;
use pod_monitor_client::schema::Event;
use pod_monitor_client::{Events, Monitor};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub(super) use self::inbox::{Reply, Request};

use self::inbox::Outcome;
use self::slot::Slot;
use super::limits::PodLimits;
use super::restarts::Restarts;
use super::{Pods, Recovered};
use crate::error::{Kind, PodError};
use crate::events::EventClock;
use crate::services::Services;
use crate::store::v1::PodRecord;
use crate::view::{PodPhase, PodView};

pub(super) struct Driver {
    pods: Pods,
    record: Arc<PodRecord>,
    phase: PodPhase,
    clean: bool,
    /// Whether plugins know that the pod is stopped, or are being told.
    stop_told: bool,
    changing: Changing,
    monitor: Option<Monitor>,
    events: Option<Events>,
    /// The monitor that died, until what was under way with it has ended and it can be replaced.
    gone: Option<Monitor>,
    restarts: Restarts,
    /// Boxed, as a map has room for eleven from the first one on.
    slots: BTreeMap<String, Box<Slot>>,
    creating: HashMap<(String, u32), Vec<Reply<String>>>,
    /// Containers that the monitor told of and nobody has answered for yet.
    unclaimed: BTreeSet<String>,
    stopping: Vec<Reply<()>>,
    removing: Vec<Reply<()>>,
    deferred: Vec<Request>,
    queue: mpsc::Receiver<Request>,
    operations: JoinSet<Outcome>,
    view: watch::Sender<Arc<PodView>>,
    clock: EventClock,
}

/// What of the pod itself is being changed at the moment.
#[derive(Default)]
struct Changing {
    limits: bool,
    /// The monitor is being replaced or upgraded; requests wait for that.
    monitor: bool,
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
        let mut escrows = recovered.escrows;
        let slots: BTreeMap<_, _> = recovered
            .containers
            .into_iter()
            .map(|record| {
                let escrow = escrows.remove(&record.id).unwrap_or_default();
                (record.id.clone(), Box::new(Slot::new(record, escrow)))
            })
            .collect();
        let record = Arc::new(recovered.record);
        let first = PodView {
            record: record.clone(),
            phase,
            containers: slots.values().map(|slot| slot.record.clone()).collect(),
            monitor: monitor.clone(),
            listed: OnceLock::new(),
        };
        let (view, reader) = watch::channel(Arc::new(first));
        let driver = Self {
            pods,
            record,
            phase,
            clean: recovered.clean,
            stop_told: phase != PodPhase::Ready,
            changing: Changing::default(),
            monitor,
            events,
            gone: None,
            restarts: Restarts::default(),
            slots,
            creating: HashMap::new(),
            unclaimed: BTreeSet::new(),
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
    ///
    /// A task is as large as all that it may ever wait for at once. What happens is boxed, so that
    /// the pod that nothing happens to, which is nearly every pod at any moment, is small. Nor does
    /// it have the driver itself in it, of which it would have several copies.
    #[tracing::instrument(name = "pod", skip_all, fields(id = %self.record.id))]
    pub(super) async fn run(mut self: Box<Self>) {
        self.hold_all();
        loop {
            match self.next().await {
                Turn::Request(None) => return,
                Turn::Request(Some(request)) => self.handle(request),
                Turn::Event(Some(event)) => Box::pin(self.event(event)).await,
                Turn::Event(None) => Box::pin(self.monitor_gone()).await,
                Turn::Outcome(outcome) => {
                    if Box::pin(self.outcome(outcome)).await {
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
            request = self.queue.next() => Turn::Request(request),
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
        if self.changing.monitor {
            return self.deferred.push(request);
        }
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
                change,
                trace,
                reply,
            } => self.update(id, *change, trace, reply),
            Request::UpdatePod { limits, reply } => self.update_pod(limits, reply),
            Request::StopPod { trace, reply } => self.stop_pod(trace, reply),
            Request::RemovePod { trace, reply } => self.remove_pod(trace, reply),
            Request::Upgrade { reply } => self.upgrade(reply),
        }
    }

    /// Applies how an operation ended; true says that the pod is gone.
    async fn outcome(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Created { key, result } => self.created(&key, result),
            Outcome::Started { id, asked, result } => self.started(&id, asked, result).await,
            Outcome::Stopped {
                id,
                asked,
                result,
                deadline,
                reply,
            } => {
                if self.is_cut_off(&result) {
                    self.stop_again(id, deadline, reply);
                    self.lost(asked).await;
                } else {
                    self.stop_ended(&id, result, reply).await;
                }
            }
            Outcome::Removed { id, asked, result } => self.removed(&id, asked, result).await,
            Outcome::Updated { id, result, reply } => {
                let result = self.updated(&id, result).await;
                answer(reply, result);
            }
            Outcome::Told { id } => self.told(&id),
            Outcome::PodUpdated {
                limits,
                result,
                reply,
            } => {
                let result = self.pod_updated(*limits, result).await;
                answer(reply, result);
            }
            Outcome::PodStopped {
                stopped,
                then_remove,
            } => self.pod_stopped(stopped, then_remove).await,
            Outcome::PodRemoved(result) => return self.pod_removed(result),
            Outcome::Held { id, escrow } => self.held(&id, escrow),
            Outcome::TakenOver(result) => self.taken_over(result).await,
            Outcome::Reaped { id, status } => self.reaped(&id, status),
            Outcome::Upgraded { result, reply } => self.upgraded(result, reply).await,
        }
        self.replace_gone().await;
        false
    }

    fn publish(&self) {
        self.view.send_replace(Arc::new(PodView {
            record: self.record.clone(),
            phase: self.phase,
            containers: self.slots.values().map(|s| s.record.clone()).collect(),
            monitor: self.monitor.clone(),
            listed: OnceLock::new(),
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

/// Runs an operation so that a panic in it becomes its error: whoever waits for it must be answered,
/// and the pod must stay usable.
async fn shielded<T: Send + 'static>(
    subject: &str,
    work: impl Future<Output = Result<T, PodError>> + Send + 'static,
) -> Result<T, PodError> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|_| {
            Err(PodError::Stopping {
                id: subject.to_owned(),
            })
        })
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
