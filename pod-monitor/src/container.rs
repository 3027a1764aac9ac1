//! One container: its configuration, its life, its streams, and the task that sees its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pod_monitor_schema::{ContainerConfig, ContainerState, Exit};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::cgroup::{self, Groups};
use crate::exec::exit_of;
use crate::oom;
use crate::reaper::Ended;
use crate::say::say;
use crate::state::{Life, Request, Verdict};
use crate::stdio::Streams;
use crate::sys::signal;

/// A container of the pod.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) config: ContainerConfig,
    /// Held by what makes or removes it: one such at a time.
    pub(crate) gate: Mutex<()>,
    /// Held by a start until it has told of it, so that an end is not told before.
    pub(crate) starting: Mutex<()>,
    pub(crate) life: RefCell<Life>,
    pub(crate) streams: RefCell<Option<Rc<Streams>>>,
    pub(crate) ended: watch::Sender<Option<Exit>>,
    /// Of the stop that is under way.
    pub(crate) deadline: RefCell<Option<watch::Sender<Instant>>>,
    oom_seen: Cell<bool>,
}

impl Container {
    pub(crate) fn new(config: ContainerConfig) -> Container {
        Container {
            config,
            gate: Mutex::new(()),
            starting: Mutex::new(()),
            life: RefCell::new(Life::Creating),
            streams: RefCell::new(None),
            ended: watch::Sender::new(None),
            deadline: RefCell::new(None),
            oom_seen: Cell::new(false),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.config.id
    }

    pub(crate) fn judge(&self, request: Request) -> Verdict {
        self.life.borrow().judge(request)
    }

    pub(crate) fn live_pid(&self) -> Option<i32> {
        self.life.borrow().live_pid()
    }

    /// Its exit, once it has ended and its output was read.
    pub(crate) async fn wait(&self) -> Option<Exit> {
        let mut ended = self.ended.subscribe();
        ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit)
    }

    /// What the contract says of it; nothing while it is being created.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        let Life::Made {
            pid,
            created_at,
            phase,
        } = *self.life.borrow()
        else {
            return None;
        };
        Some(ContainerState {
            id: self.config.id.clone(),
            pid: u32::try_from(pid).unwrap_or(0),
            created_at,
            phase,
            log_bytes_lost: self.streams.borrow().as_ref().map_or(0, |s| s.lost()),
            terminal: self.config.terminal,
        })
    }

    /// Waits for its end and for its output's, and answers how it ended. `on_oom` is called the
    /// first time that the kernel kills one of its processes for memory.
    pub(crate) async fn supervise(
        &self,
        pid: i32,
        ended: impl Future<Output = Option<Ended>>,
        on_oom: impl Fn(),
    ) -> Exit {
        let groups = cgroup::of(pid).unwrap_or(Groups {
            memory: None,
            any: None,
        });
        let oom = self.watch_memory(&groups);
        let streams = self.streams.borrow().clone();
        let output = streams
            .clone()
            .map(|streams| tokio::task::spawn_local(streams.run()));
        let ended = {
            let mut ended = std::pin::pin!(ended);
            tokio::select! {
                ended = &mut ended => ended,
                () = killed(oom.as_ref()) => {
                    self.see_oom(&on_oom);
                    ended.await
                }
            }
        };
        end_group(&groups);
        if let Some(streams) = streams {
            streams.end();
        }
        if let Some(output) = output {
            // A cancelled task has written what it had.
            drop(output.await);
        }
        if oom.is_some_and(|oom| oom.has_killed()) {
            self.see_oom(&on_oom);
        }
        Exit {
            oom_killed: self.oom_seen.get(),
            ..exit_of(ended)
        }
    }

    fn watch_memory(&self, groups: &Groups) -> Option<oom::Watch> {
        if !self.config.memory_events {
            return None;
        }
        let watch = oom::Watch::new(groups.memory.as_ref()?);
        if let Err(error) = &watch {
            say(format_args!("watch the memory of {}: {error}", self.id()));
        }
        watch.ok()
    }

    fn see_oom(&self, on_oom: &impl Fn()) {
        if !self.oom_seen.replace(true) {
            on_oom();
        }
    }
}

async fn killed(oom: Option<&oom::Watch>) {
    match oom {
        Some(oom) => oom.killed().await,
        None => std::future::pending().await,
    }
}

/// Kills what the first process has left behind in the container's group, which it can where the
/// PID namespace is not the container's own. Nothing is done about a group that the monitor is in.
fn end_group(groups: &Groups) {
    let Some(group) = &groups.any else {
        return;
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let processes = cgroup::processes(group);
    if processes.contains(&own) {
        return;
    }
    for pid in processes {
        // Who is gone by now needs no signal.
        drop(signal::kill(pid, 9));
    }
}
