//! The pod's monitor itself: what is held for its successor, its death and who comes after it, and its
//! upgrade in place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ContainerPhase, Exit, ExitStatus, PodState};

use super::{Driver, Outcome, Reply, Request, answer, shielded};
use crate::chain::chain;
use crate::container;
use crate::error::PodError;
use crate::monitors::{self, Escrow, Trace};
use crate::pod::takeover::TakenOver;
use crate::pod::{Takeover, teardown};
use crate::view::PodPhase;

/// How often the end of a process is told to a monitor that does not take it, and the pause between.
const SETTLE_ATTEMPTS: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

impl Driver {
    /// Asks the monitor that was found alive for what its containers depend on. What came from systemd's
    /// store counts until then.
    pub(super) fn hold_all(&mut self) {
        let ids: Vec<String> = self.slots.keys().cloned().collect();
        let (exited, alive): (Vec<String>, Vec<String>) = ids
            .into_iter()
            .partition(|id| self.slots[id].record.is_exited());
        for id in exited {
            if self.slots[&id].escrow.descriptors().next().is_some() {
                self.let_go(&id);
            }
        }
        let Some(monitor) = self.monitor.clone() else {
            return;
        };
        // One that waits to be restored has no process yet.
        let has_process = |id: &String| self.slots[id].record.pid().is_some();
        for id in alive.into_iter().filter(has_process) {
            let (services, monitor) = (self.services(), monitor.clone());
            self.operations.spawn(async move {
                let escrow = container::escrow(&services, &monitor, &id, &Trace::default()).await;
                Outcome::Held {
                    id,
                    escrow: escrow.ok(),
                }
            });
        }
    }

    pub(super) fn held(&mut self, id: &str, escrow: Option<Escrow>) {
        let Some(escrow) = escrow else {
            return;
        };
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
        self.changing.monitor = true;
        self.gone = Some(monitor);
        self.replace_gone().await;
    }

    /// Whether the monitor's death is all that was wrong, so that the next one can be asked.
    pub(super) fn is_cut_off<T>(&self, result: &Result<T, PodError>) -> bool {
        let cut_off = result.as_ref().is_err_and(PodError::is_disconnected);
        cut_off && self.phase == PodPhase::Ready
    }

    /// Has requests that were cut off asked of the next monitor.
    pub(super) fn again(&mut self, waiters: Vec<Reply<()>>, like: impl Fn(Reply<()>) -> Request) {
        self.deferred.extend(waiters.into_iter().map(like));
    }

    /// As [`Self::again`], for a stop: with what is left of its grace period.
    pub(super) fn stop_again(&mut self, id: String, deadline: Instant, reply: Reply<()>) {
        self.deferred.push(Request::Stop {
            id,
            grace: deadline.saturating_duration_since(Instant::now()),
            trace: Trace::default(),
            reply,
        });
    }

    /// A monitor did not answer to the end. That may be known already, and another one be there.
    pub(super) async fn lost(&mut self, asked: u32) {
        if self.monitor.as_ref().map(Monitor::pid) == Some(asked) {
            self.monitor_gone().await;
        }
    }

    /// Replaces the monitor that died, once nothing is under way with it any more: what is undone then
    /// must not meet the next one, and that one has to know of what was made.
    pub(super) async fn replace_gone(&mut self) {
        if self.occupied() {
            return;
        }
        let Some(monitor) = self.gone.take() else {
            return;
        };
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
            let mut escrow =
                held.map_err(PodError::io("duplicating what is held of", &slot.record.id))?;
            if escrow.process.is_none() && !slot.record.is_exited() {
                // The monitor died before it was asked.
                escrow = monitors::from_process(&slot.record);
            }
            let config = container::monitor_config(&services, &slot.record);
            Ok(monitors::handed_over(&slot.record, config, escrow))
        };
        let known = self.slots.values();
        let known = known.filter(|slot| !slot.record.awaits_restore());
        let containers: Result<_, PodError> = known.map(|slot| hand_over(slot)).collect();
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
        self.note_state(&taken.state).await;
        let reaped = self
            .slots
            .iter()
            .filter_map(|(id, slot)| Some((id, slot.reaped?)));
        for (id, exit) in reaped {
            self.settle(id, exit);
        }
    }

    /// What started or ended while nobody was told.
    async fn note_state(&mut self, state: &PodState) {
        for known in &state.containers {
            match &known.phase {
                ContainerPhase::Exited { exit, .. } => self.exited(&known.id, exit).await,
                ContainerPhase::Running { started_at } => self.runs(&known.id, *started_at).await,
                ContainerPhase::Created | ContainerPhase::Paused { .. } => {}
            }
        }
    }

    /// There is no way to have a monitor: the pod is ended, for nobody could end it later.
    async fn give_up(&mut self, cause: &str) {
        tracing::error!(cause, "the pod has no monitor any more and is ended");
        self.changing.monitor = false;
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
            at: crate::clock::now(),
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
                self.note_state(&state).await;
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
