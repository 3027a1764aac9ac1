//! One container: its configuration, its life, its streams, and the task that sees its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pod_monitor_schema::{ContainerConfig, ContainerState, Exit, ResumedContainer};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::adopted::Adopted;
use crate::cgroup::{self, Groups};
use crate::exec::exit_of;
use crate::oom;
use crate::outcome::Outcome;
use crate::reaper::Ended;
use crate::say::say;
use crate::state::{Life, Request, Verdict};
use crate::stdio::Streams;
use crate::sys::{pidfd, pipe, signal};

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
    /// Its exit, once it has ended and its output was read.
    pub(crate) ended: Outcome<Exit>,
    /// Of the stop that is under way.
    pub(crate) deadline: RefCell<Option<watch::Sender<Instant>>>,
    /// Its first process, where that is no child.
    pub(crate) adopted: RefCell<Option<Rc<Adopted>>>,
    /// Between the end of its first process and the news of it.
    ending: Cell<bool>,
    oom_seen: Cell<bool>,
    oom_baseline: Cell<Option<u64>>,
    /// Log bytes that were lost before this monitor had it.
    lost_before: u64,
}

impl Container {
    pub(crate) fn new(config: ContainerConfig) -> Container {
        Container {
            config,
            gate: Mutex::new(()),
            starting: Mutex::new(()),
            life: RefCell::new(Life::Creating),
            streams: RefCell::new(None),
            ended: Outcome::new(None),
            deadline: RefCell::new(None),
            adopted: RefCell::new(None),
            ending: Cell::new(false),
            oom_seen: Cell::new(false),
            oom_baseline: Cell::new(None),
            lost_before: 0,
        }
    }

    /// One that another monitor has made.
    pub(crate) fn resume(from: &ResumedContainer) -> Container {
        let state = &from.state;
        let mut container = Container::new(from.config.clone());
        container.life = RefCell::new(Life::Made {
            pid: i32::try_from(state.pid).unwrap_or(0),
            created_at: state.created_at,
            phase: state.phase,
        });
        container.ended = Outcome::new(container.life.borrow().exit());
        container.oom_seen = Cell::new(from.oom_seen);
        container.oom_baseline = Cell::new(Some(from.oom_baseline));
        container.lost_before = state.log_bytes_lost;
        container
    }

    /// What another monitor needs to go on with it; nothing while it is being created.
    pub(crate) fn hand_over(&self) -> Option<ResumedContainer> {
        let adopted = self.adopted.borrow();
        let mut container = ResumedContainer {
            config: self.config.clone(),
            state: self.state()?,
            process: adopted.as_ref().map(|a| pipe::number(a.process())),
            stdin: None,
            terminal: None,
            stdout: Default::default(),
            stderr: Default::default(),
            log: Default::default(),
            oom_seen: self.oom_seen.get(),
            oom_baseline: self.oom_baseline.get().unwrap_or(0),
            clients: Vec::new(),
            escrowed: false,
        };
        let streams = self.streams.borrow();
        if let Some(streams) = streams.as_ref().filter(|_| self.live_pid().is_some()) {
            streams.hand_over(&mut container);
        }
        Some(container)
    }

    /// Whether its first process has ended and that was not told yet, or a stop is under way.
    pub(crate) fn is_changing(&self) -> bool {
        let made = self.life.borrow().phase().is_some();
        !made || self.ending.get() || self.deadline.borrow().is_some()
    }

    /// A descriptor of its first process.
    pub(crate) fn process(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        if let Some(adopted) = self.adopted.borrow().as_ref() {
            return adopted.process().try_clone();
        }
        let pid = self.live_pid().ok_or(std::io::ErrorKind::NotFound)?;
        pidfd::open(pid)
    }

    /// Whether what was just read of its first process by its number was of that one. An adopted
    /// process may have ended long ago, and its number be a stranger's by now, whose group is not to
    /// be ended. A child is reaped by this process alone.
    fn has_its_number(&self) -> bool {
        let adopted = self.adopted.borrow();
        let process = adopted.as_ref().map(|adopted| adopted.process());
        process.is_none_or(pidfd::has_its_number)
    }

    /// Sends a signal to its first process. One that is gone is no error.
    pub(crate) fn signal(&self, number: u8) -> std::io::Result<()> {
        if let Some(adopted) = self.adopted.borrow().as_ref() {
            return pidfd::signal(adopted.process(), number);
        }
        match self.live_pid() {
            // The process is the monitor's child and not reaped: the number is still its own.
            Some(pid) => signal::kill(pid, number),
            None => Ok(()),
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
            log_bytes_lost: self.lost(),
            terminal: self.config.terminal,
        })
    }

    fn lost(&self) -> u64 {
        let streams = self.streams.borrow();
        streams.as_ref().map_or(self.lost_before, |s| s.lost())
    }

    /// Waits for its end and for its output's, and answers how it ended. `on_oom` is called the
    /// first time that the kernel kills one of its processes for memory.
    pub(crate) async fn supervise(
        &self,
        pid: i32,
        ended: impl Future<Output = Option<Ended>>,
        on_oom: impl Fn(),
    ) -> Exit {
        let groups = cgroup::of(pid).ok().filter(|_| self.has_its_number());
        let groups = groups.unwrap_or(Groups {
            memory: None,
            any: None,
        });
        let oom = self.watch_memory(&groups);
        let streams = self.streams.borrow().clone();
        let output = streams.as_ref().map_or_else(Vec::new, Streams::read);
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
        self.ending.set(true);
        end_group(&groups);
        if let Some(streams) = streams {
            streams.end();
        }
        for task in output {
            // A cancelled task has written what it had.
            drop(task.await);
        }
        if oom.is_some_and(|oom| oom.has_killed()) {
            self.see_oom(&on_oom);
        }
        Exit {
            oom_killed: self.oom_seen.get(),
            ..exit_of(ended)
        }
    }

    /// Its exit was told.
    pub(crate) fn has_ended(&self, exit: Exit) {
        self.ending.set(false);
        self.adopted.take();
        self.ended.set(exit);
    }

    fn watch_memory(&self, groups: &Groups) -> Option<oom::Watch> {
        if !self.config.memory_events {
            return None;
        }
        let watch = oom::Watch::new(groups.memory.as_ref()?, self.oom_baseline.get());
        if let Ok(watch) = &watch {
            self.oom_baseline.set(Some(watch.baseline()));
        }
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
