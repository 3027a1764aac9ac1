//! The pod's monitor itself: what is held for its successor, its death and who comes after it, and its
//! upgrade in place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ContainerPhase, Exit, ExitStatus, PodState};

use super::{Driver, Outcome, Reply, Request, answer, shielded};
use crate::chain::chain;
use crate::container;
use crate::monitors::{self, Escrow, Trace};
use crate::pod::requests::PodPhase;
use crate::pod::takeover::TakenOver;
use crate::pod::{PodError, Takeover, teardown};

/// How often the end of a process is told to a monitor that does not take it, and the pause between.
const SETTLE_ATTEMPTS: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

impl Driver {
    /// Asks the monitor that was found alive for what its containers depend on.
    pub(super) fn hold_all(&mut self) {
        let Some(monitor) = self.monitor.clone() else {
            return;
        };
        let missing = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.record.pid().is_some() && slot.escrow.process.is_none());
        for id in missing.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let (services, monitor) = (self.services(), monitor.clone());
            self.operations.spawn(async move {
                let escrow = container::escrow(&services, &monitor, &id, &Trace::default()).await;
                Outcome::Held { id, escrow }
            });
        }
    }

    pub(super) fn held(&mut self, id: &str, escrow: Escrow) {
        match self.slots.get_mut(id) {
            Some(slot) if !slot.record.is_exited() => slot.escrow = escrow,
            Some(_) | None => self.services().fd_store.remove(id),
        }
    }

    /// The container reads the end of its input when nobody holds the other end any more.
    pub(super) fn stdin_closed(&mut self, id: &str) {
        let services = self.services();
        if let Some(slot) = self.slots.get_mut(id) {
            slot.escrow.stdin = None;
            services.fd_store.put(id, &slot.escrow);
        }
    }

    /// What is held of a container that has exited, or is gone, is let go.
    pub(super) fn let_go(&mut self, id: &str) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.escrow = Escrow::default();
        }
        self.services().fd_store.remove(id);
    }

    /// The connection to the monitor ended without our doing.
    pub(super) async fn monitor_gone(&mut self) {
        self.events = None;
        if self.changing.monitor || matches!(self.phase, PodPhase::Stopping | PodPhase::Removing) {
            return;
        }
        let Some(monitor) = self.monitor.take() else {
            return;
        };
        self.publish();
        self.reap_containers();
        self.replace(Some(monitor), "the pod's monitor ended again and again")
            .await;
    }

    /// Starts another monitor, if that was not tried too often of late.
    async fn replace(&mut self, gone: Option<Monitor>, given_up: &str) {
        let Some(pause) = self.restarts.died(Instant::now()) else {
            return self.give_up(given_up).await;
        };
        tracing::warn!(?pause, "the pod's monitor is gone: starting another");
        let takeover = match self.takeover() {
            Ok(takeover) => takeover,
            Err(error) => return self.give_up(&chain(&error)).await,
        };
        self.changing.monitor = true;
        let id = self.record.id.clone();
        self.operations.spawn(async move {
            let work = async move {
                match gone {
                    Some(monitor) => takeover.succeed(monitor, pause).await,
                    None => {
                        tokio::time::sleep(pause).await;
                        takeover.run().await
                    }
                }
            };
            Outcome::TakenOver(shielded(&id, work).await.map(Box::new))
        });
    }

    fn takeover(&self) -> Result<Takeover, PodError> {
        let services = self.services();
        let hand_over = |slot: &super::Slot| {
            let held = slot.escrow.try_clone();
            let escrow =
                held.map_err(PodError::io("duplicating what is held of", &slot.record.id))?;
            let config = container::monitor_config(&services, &slot.record);
            Ok(monitors::handed_over(&slot.record, config, escrow))
        };
        let known = self.slots.values();
        let known = known.filter(|slot| !slot.record.awaits_restore());
        let containers: Result<_, PodError> = known.map(hand_over).collect();
        Ok(Takeover {
            containers: containers?,
            record: self.record.clone(),
            services,
        })
    }

    pub(super) async fn taken_over(&mut self, result: Result<Box<TakenOver>, PodError>) {
        self.changing.monitor = false;
        let taken = match result {
            Ok(taken) => *taken,
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the pod was not taken over");
                return Box::pin(self.replace(None, &error)).await;
            }
        };
        self.monitor = Some(taken.monitor);
        self.events = Some(taken.events);
        if taken.restarted {
            let pod = Arc::make_mut(&mut self.record);
            pod.monitor_restarts = pod.monitor_restarts.saturating_add(1);
            let restarts = pod.monitor_restarts;
            tracing::warn!(restarts, "another monitor has taken the pod over");
            self.keep_pod().await;
        }
        self.publish();
        self.note_exits(&taken.state).await;
        let reaped = self
            .slots
            .iter()
            .filter_map(|(id, slot)| Some((id, slot.reaped?)));
        for (id, exit) in reaped {
            self.settle(id, exit);
        }
    }

    /// What ended while nobody was told.
    pub(super) async fn note_exits(&mut self, state: &PodState) {
        for known in &state.containers {
            if let ContainerPhase::Exited { exit, .. } = &known.phase {
                self.exited(&known.id, exit).await;
            }
        }
    }

    /// There is no way to have a monitor: the pod is ended, for nobody could end it later.
    async fn give_up(&mut self, cause: &str) {
        tracing::error!(cause, "the pod has no monitor any more and is ended");
        self.clean = false;
        self.phase = PodPhase::NotReady;
        let containers = self.slots.keys().map(String::as_str);
        teardown::sweep(&self.services(), &self.record, containers).await;
        self.all_lost(cause).await;
        self.set_not_ready(cause.into()).await;
    }

    /// The processes of a dead monitor's containers are this process's children now, unless the
    /// monitor was started by an earlier daemon.
    fn reap_containers(&mut self) {
        let services = self.services();
        for (id, slot) in &mut self.slots {
            let process = slot.escrow.process.as_ref().filter(|_| !slot.is_reaped);
            let Some(Ok(process)) = process.map(|process| process.try_clone()) else {
                continue;
            };
            slot.is_reaped = true;
            let (services, id) = (services.clone(), id.clone());
            self.operations.spawn(async move {
                let status = services.monitors.reaped(process).await;
                Outcome::Reaped { id, status }
            });
        }
    }

    pub(super) fn reaped(&mut self, id: &str, status: ExitStatus) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if status == ExitStatus::Lost {
            // Somebody else's child: the kernel tells the monitor, where it can.
            return;
        }
        let exit = Exit {
            status,
            at: crate::pod::now(),
            oom_killed: false,
        };
        slot.reaped = Some(exit);
        self.settle(id, exit);
    }

    /// Tells the monitor, where there is one, how a process ended that it cannot wait for.
    fn settle(&self, id: &str, exit: Exit) {
        let Some(monitor) = self.monitor.clone() else {
            return;
        };
        let id = id.to_owned();
        tokio::spawn(async move {
            for _ in 0..SETTLE_ATTEMPTS {
                match monitor.settle(&Trace::default(), &id, exit).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(container = %id, %error, "an exit was not taken"),
                }
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        });
    }

    pub(super) fn upgrade(&mut self, reply: Reply<()>) {
        let Some(monitor) = self.monitor.clone() else {
            let error = self.no_monitor();
            return answer(reply, Err(error));
        };
        if self.occupied() || matches!(self.phase, PodPhase::Stopping | PodPhase::Removing) {
            return self.deferred.push(Request::Upgrade { reply });
        }
        self.changing.monitor = true;
        let (services, id) = (self.services(), self.record.id.clone());
        self.operations.spawn(async move {
            let subject = format!("pod {id}");
            let work = async move {
                let failed = |source| PodError::Monitor {
                    operation: "upgrade of the monitor",
                    subject: subject.clone(),
                    source: Box::new(source),
                };
                let trace = Trace::default();
                let events = services.monitors.upgrade(&monitor, &trace).await;
                let events = events.map_err(failed)?;
                let state = monitor.state(&trace).await.map_err(failed)?;
                Ok((events, state))
            };
            Outcome::Upgraded {
                result: shielded(&id, work).await.map(Box::new),
                reply,
            }
        });
    }

    pub(super) async fn upgraded(
        &mut self,
        result: Result<Box<(pod_monitor_client::Events, PodState)>, PodError>,
        reply: Reply<()>,
    ) {
        self.changing.monitor = false;
        let result = match result {
            Ok(upgraded) => {
                let (events, state) = *upgraded;
                self.events = Some(events);
                self.note_exits(&state).await;
                tracing::info!("the pod's monitor runs the current program");
                Ok(())
            }
            Err(error) => {
                // Where it refused, it goes on as it was, and so do its events.
                if self.events.is_none() {
                    self.monitor_gone().await;
                }
                Err(error)
            }
        };
        answer(reply, result);
    }
}
