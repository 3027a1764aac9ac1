//! Going on with a pod: taking over what another monitor left, and becoming another program.

use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use pod_monitor_schema::layout::{CONFIG_FD, RESUME_FD};
use pod_monitor_schema::streams::Token;
use pod_monitor_schema::{
    ContainerPhase, Error, EventKind, Resume, ResumedContainer, Started, to_bytes,
};
use tokio::time::Instant;

use super::Pod;
use crate::adopted::Adopted;
use crate::bounds::Slots;
use crate::container::Container;
use crate::errors;
use crate::log::writer::LogFile;
use crate::say::say;
use crate::stdio::{Connection, Remains, Streams};
use crate::sys::own::Kept;
use crate::sys::{clock, memfd, reexec};

/// How long an upgrade waits for a moment at which nothing is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the OCI runtime may take to say whether a container was started.
const STATE_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits before it looks again.
const ROUND: Duration = Duration::from_millis(5);
/// Rounds of the scheduler in which answers are written to their sockets, and the ends of
/// processes reach those who wait for them.
const QUIET_ROUNDS: usize = 64;

impl Pod {
    /// Goes on with the containers and execs. To be called in the runtime, before anything waits.
    pub(crate) fn go_on(self: &Rc<Pod>, resume: Resume, mut kept: Kept) {
        self.events.resume(resume.last_event);
        self.attachments.set(resume.attachments);
        for container in resume.containers {
            self.take_over(container, resume.same_process, &mut kept);
        }
        for exec in resume.execs {
            let terminal = kept.take(exec.terminal);
            let waiting = (&*self.reaper, self.bounds.token);
            self.execs.resume(exec, terminal, waiting);
        }
    }

    fn take_over(self: &Rc<Pod>, mut from: ResumedContainer, children: bool, kept: &mut Kept) {
        let container = Rc::new(Container::resume(&from));
        let id = container.id().to_owned();
        self.containers
            .borrow_mut()
            .insert(id.clone(), Rc::clone(&container));
        let Some(pid) = container.live_pid() else {
            return;
        };
        let log = self.reopen(&from, kept);
        let process = kept.take(from.process);
        let remains = Remains::take(&mut from, kept);
        let setup = self.setup(&container, log);
        match Streams::new(setup, Connection::Remains(remains)) {
            Ok(streams) => *container.streams.borrow_mut() = Some(streams),
            Err(error) => say(format_args!("take over the streams of {id}: {error}")),
        }
        match process.map(Adopted::new) {
            None if children => self.follow(container, pid, self.reaper.watch(pid)),
            Some(Ok(adopted)) => {
                let adopted = Rc::new(adopted);
                *container.adopted.borrow_mut() = Some(Rc::clone(&adopted));
                self.follow(container, pid, async move { adopted.ended().await });
            }
            lost @ (None | Some(Err(_))) => {
                let error = lost.and_then(Result::err);
                say(format_args!(
                    "the process of {id} cannot be watched: {error:?}"
                ));
                self.follow(container, pid, std::future::ready(None));
            }
        }
    }

    /// Finds out of the containers that another monitor had not told to be started whether they were
    /// all the same: it may have died in the middle of it. To be awaited before anybody asks.
    pub(crate) async fn look_for_cut_starts(&self) {
        let containers: Vec<_> = self.containers.borrow().values().cloned().collect();
        let unsure = containers.into_iter().filter(|container| {
            container.adopted.borrow().is_some()
                && container.life.borrow().phase() == Some(ContainerPhase::Created)
        });
        let looks = unsure.map(|container| async move {
            let asked = self.runtime.says_running(container.id());
            match tokio::time::timeout(STATE_PATIENCE, asked).await {
                Ok(Ok(true)) => {
                    let started = Started { at: clock::now() };
                    container.life.borrow_mut().run(started.at);
                    self.events
                        .emit(container.id(), EventKind::Started(started));
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => say(format_args!("state of {}: {error}", container.id())),
                Err(_) => say(format_args!("state of {}: no answer", container.id())),
            }
        });
        join_all(looks).await;
    }

    /// The log as it was left; none where it cannot be had, for the container goes before it.
    fn reopen(&self, from: &ResumedContainer, kept: &mut Kept) -> Option<LogFile> {
        let fd = kept.take(from.log.descriptor);
        let path = from.config.log_path.as_deref()?;
        let log = LogFile::resume(path, fd, &from.log, from.state.log_bytes_lost);
        log.inspect_err(|error| say(format_args!("open log {}: {error}", path.display())))
            .ok()
    }

    /// Becomes the program that was deposited. Returns only where that does not come about.
    pub(crate) async fn upgrade(
        self: Rc<Pod>,
        token: Option<Token>,
        calls: Slots,
    ) -> Result<(), Error> {
        let operation = "upgrade";
        let program = token.and_then(|token| self.vault.withdraw(&token));
        let Some(program) = program else {
            let why = "nothing was deposited under this token";
            return Err(errors::invalid(operation, &self.id, why));
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            for _ in 0..QUIET_ROUNDS {
                tokio::task::yield_now().await;
            }
            // From here to the end nothing waits.
            match self.occupation(&calls) {
                None => break,
                Some(why) if Instant::now() >= deadline => {
                    return Err(errors::not_now(operation, &self.id, why));
                }
                Some(_) => tokio::time::sleep(ROUND).await,
            }
        }
        let resume = self.hand_over();
        let message = memfd::sealed("resume", &to_bytes(&resume))
            .map_err(|error| Error::io("write the state", &self.id, &error))?;
        let mut numbers = resume.descriptors();
        numbers.extend((CONFIG_FD..=RESUME_FD).map(i32::unsigned_abs));
        let mut place = self.place.borrow_mut();
        let error = reexec::become_program(&program, &message, place.fd(), &numbers);
        Err(Error::io("execute", &self.id, &error))
    }

    /// What is under way that would not survive, besides the call that asks.
    fn occupation(&self, calls: &Slots) -> Option<&'static str> {
        let containers = self.containers.borrow();
        let ending = |container: &Rc<Container>| {
            let child = container.adopted.borrow().is_none();
            let alive = container.live_pid().filter(|_| child);
            container.is_changing() || alive.is_some_and(|pid| !self.reaper.awaits(pid))
        };
        if calls.free() + 1 < self.bounds.calls {
            Some("other calls are under way")
        } else if self.vault.has_streams() {
            Some("streams wait to be fetched")
        } else if containers.values().any(ending) || self.execs.is_changing(&self.reaper) {
            Some("a process is being made or is ending")
        } else {
            None
        }
    }

    fn hand_over(&self) -> Resume {
        let containers = self.containers.borrow();
        Resume {
            containers: containers.values().filter_map(|c| c.hand_over()).collect(),
            last_event: self.events.last(),
            pod_pid: self.init(),
            same_process: true,
            oom_score: self.runtime.oom_score().map(str::to_owned),
            execs: self.execs.hand_over(),
            attachments: self.attachments.get(),
        }
    }
}
