//! The state machine of the containers.
//!
//! Created → Running ⇄ Paused → Exited, and Created → Exited. No I/O, except that events are put
//! into the queues of the subscribers.

use std::collections::BTreeMap;

use pod_monitor_schema::{
    ContainerConfig, ContainerPhase, ContainerState, Created, Error, ErrorCode, Event, EventKind,
    Exit, ExitStatus, PodState, Started, Stdin,
};
use tokio::sync::mpsc;

use super::{Output, now};

const SIGKILL: u8 = 9;

/// The first process number that is given out: above what any kernel does.
const FIRST_PID: u32 = 1 << 23;

/// A client that is attached to a container's output.
pub(super) type Attached = mpsc::Sender<(Output, Vec<u8>)>;

#[derive(Debug, Default)]
pub(super) struct Pod {
    containers: BTreeMap<String, Container>,
    last_event: u64,
    processes: u32,
    subscribers: Vec<mpsc::Sender<Event>>,
}

#[derive(Debug)]
struct Container {
    state: ContainerState,
    stdin: Stdin,
    ignores_signals: bool,
    oom: bool,
    attached: Vec<Attached>,
    input: Vec<u8>,
}

impl Pod {
    pub(super) fn state(&self) -> PodState {
        PodState {
            containers: self.containers.values().map(|c| c.state.clone()).collect(),
            last_event: self.last_event,
        }
    }

    pub(super) fn subscribe(&mut self, subscriber: mpsc::Sender<Event>) {
        self.subscribers.push(subscriber);
    }

    pub(super) fn create(&mut self, config: ContainerConfig) -> Result<Created, Error> {
        if self.containers.contains_key(&config.id) {
            return Err(refusal(ErrorCode::AlreadyExists, "create", &config.id, ""));
        }
        let pid = self.next_pid();
        let created = Created { pid, at: now() };
        let id = config.id.clone();
        let container = Container {
            state: ContainerState {
                id: config.id,
                pid,
                created_at: created.at,
                phase: ContainerPhase::Created,
                log_bytes_lost: 0,
                terminal: config.terminal,
            },
            stdin: config.stdin,
            ignores_signals: false,
            oom: false,
            attached: Vec::new(),
            input: Vec::new(),
        };
        self.containers.insert(id.clone(), container);
        self.tell(&id, EventKind::Created(created));
        Ok(created)
    }

    pub(super) fn start(&mut self, id: &str) -> Result<Started, Error> {
        let container = self.container("start", id)?;
        let started = Started { at: now() };
        match container.state.phase {
            ContainerPhase::Created => {
                container.state.phase = ContainerPhase::Running {
                    started_at: started.at,
                };
            }
            ContainerPhase::Running { .. }
            | ContainerPhase::Paused { .. }
            | ContainerPhase::Exited { .. } => {
                return Err(wrong("start", id, "it was started before"));
            }
        }
        self.tell(id, EventKind::Started(started));
        Ok(started)
    }

    pub(super) fn signal(&mut self, id: &str, signal: u8) -> Result<(), Error> {
        self.alive("kill", id)?;
        let deaf = self.container("kill", id)?.ignores_signals && signal != SIGKILL;
        if signal == 0 || deaf {
            return Ok(());
        }
        self.exit(id, ExitStatus::Signal(signal))
    }

    pub(super) fn exit(&mut self, id: &str, status: ExitStatus) -> Result<(), Error> {
        let container = self.alive("exit", id)?;
        let started_at = match container.state.phase {
            ContainerPhase::Running { started_at } | ContainerPhase::Paused { started_at } => {
                Some(started_at)
            }
            ContainerPhase::Created | ContainerPhase::Exited { .. } => None,
        };
        let exit = Exit {
            status,
            at: now(),
            oom_killed: container.oom,
        };
        container.state.phase = ContainerPhase::Exited { started_at, exit };
        // Attachments end when their queues are empty and closed.
        container.attached.clear();
        self.tell(id, EventKind::Exited(exit));
        Ok(())
    }

    /// How a container ended, once it has.
    pub(super) fn exit_of(&mut self, id: &str) -> Result<Option<Exit>, Error> {
        Ok(match self.container("stop", id)?.state.phase {
            ContainerPhase::Exited { exit, .. } => Some(exit),
            ContainerPhase::Created
            | ContainerPhase::Running { .. }
            | ContainerPhase::Paused { .. } => None,
        })
    }

    pub(super) fn delete(&mut self, id: &str, force: bool) -> Result<(), Error> {
        if !self.containers.contains_key(id) {
            return Ok(());
        }
        if self.exit_of(id)?.is_none() {
            if !force {
                return Err(wrong("delete", id, "it has not exited"));
            }
            self.exit(id, ExitStatus::Signal(SIGKILL))?;
        }
        self.containers.remove(id);
        self.tell(id, EventKind::Deleted);
        Ok(())
    }

    pub(super) fn pause(&mut self, id: &str) -> Result<(), Error> {
        let phase = &mut self.container("pause", id)?.state.phase;
        let ContainerPhase::Running { started_at } = *phase else {
            return Err(wrong("pause", id, "it does not run"));
        };
        *phase = ContainerPhase::Paused { started_at };
        Ok(())
    }

    pub(super) fn resume(&mut self, id: &str) -> Result<(), Error> {
        let phase = &mut self.container("resume", id)?.state.phase;
        let ContainerPhase::Paused { started_at } = *phase else {
            return Err(wrong("resume", id, "it is not paused"));
        };
        *phase = ContainerPhase::Running { started_at };
        Ok(())
    }

    pub(super) fn resize(&mut self, id: &str) -> Result<(), Error> {
        if self.alive("resize", id)?.state.terminal {
            return Ok(());
        }
        Err(wrong("resize", id, "it has no terminal"))
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<(), Error> {
        self.container("reopen log", id).map(drop)
    }

    pub(super) fn update(&mut self, id: &str) -> Result<(), Error> {
        self.alive("update", id).map(drop)
    }

    pub(super) fn shutdown(&mut self, force: bool) -> Result<(), Error> {
        if !force && !self.containers.is_empty() {
            return Err(wrong("shutdown", "", "containers are left"));
        }
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        ids.iter().try_for_each(|id| self.delete(id, true))
    }

    /// The number of a new process in a container that runs.
    pub(super) fn exec(&mut self, id: &str) -> Result<u32, Error> {
        let ContainerPhase::Running { .. } = self.container("exec", id)?.state.phase else {
            return Err(wrong("exec", id, "it does not run"));
        };
        Ok(self.next_pid())
    }

    /// Adds a client and says whether the container has a terminal, and whether it reads.
    pub(super) fn attach(&mut self, id: &str, client: Attached) -> Result<(bool, bool), Error> {
        let container = self.alive("attach", id)?;
        container.attached.push(client);
        Ok((container.state.terminal, container.stdin != Stdin::None))
    }

    pub(super) fn attached(&mut self, id: &str) -> Result<Vec<Attached>, Error> {
        Ok(self.alive("write output", id)?.attached.clone())
    }

    pub(super) fn take_input(&mut self, id: &str, bytes: &[u8]) {
        if let Some(container) = self.containers.get_mut(id) {
            container.input.extend_from_slice(bytes);
        }
    }

    pub(super) fn input(&self, id: &str) -> Vec<u8> {
        let container = self.containers.get(id);
        container.map_or_else(Vec::new, |container| container.input.clone())
    }

    pub(super) fn oom(&mut self, id: &str) -> Result<(), Error> {
        self.alive("oom", id)?.oom = true;
        self.tell(id, EventKind::Oom);
        Ok(())
    }

    pub(super) fn lose_log(&mut self, id: &str, bytes: u64) -> Result<(), Error> {
        let lost = &mut self.container("lose log", id)?.state.log_bytes_lost;
        *lost += bytes;
        let bytes = *lost;
        self.tell(id, EventKind::LogLost { bytes });
        Ok(())
    }

    pub(super) fn ignore_signals(&mut self, id: &str) -> Result<(), Error> {
        self.container("ignore signals", id)?.ignores_signals = true;
        Ok(())
    }

    fn container(&mut self, operation: &'static str, id: &str) -> Result<&mut Container, Error> {
        let found = self.containers.get_mut(id);
        found.ok_or_else(|| refusal(ErrorCode::NotFound, operation, id, "no such container"))
    }

    fn alive(&mut self, operation: &'static str, id: &str) -> Result<&mut Container, Error> {
        let container = self.container(operation, id)?;
        if matches!(container.state.phase, ContainerPhase::Exited { .. }) {
            return Err(wrong(operation, id, "it has exited"));
        }
        Ok(container)
    }

    fn next_pid(&mut self) -> u32 {
        self.processes += 1;
        FIRST_PID + self.processes
    }

    /// A subscriber that does not keep up is dropped, as a monitor does.
    fn tell(&mut self, id: &str, kind: EventKind) {
        self.last_event += 1;
        let event = Event {
            sequence: self.last_event,
            time: now(),
            container_id: id.to_owned(),
            kind,
        };
        self.subscribers
            .retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
    }
}

fn refusal(code: ErrorCode, operation: &str, subject: &str, detail: &str) -> Error {
    Error::new(code, operation, subject, detail)
}

fn wrong(operation: &str, id: &str, detail: &str) -> Error {
    refusal(ErrorCode::FailedPrecondition, operation, id, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_with(id: &str) -> Pod {
        let mut pod = Pod::default();
        let config = ContainerConfig {
            id: id.to_owned(),
            bundle: "/b".into(),
            terminal: false,
            stdin: Stdin::None,
            log_path: None,
            memory_events: false,
        };
        pod.create(config).unwrap();
        pod
    }

    /// One letter for each step; `!` after it where the step is refused.
    fn check(steps: &str, expect: &str) {
        let mut pod = pod_with("c");
        let mut answers = String::new();
        for step in steps.chars() {
            let answer = match step {
                's' => pod.start("c").map(drop),
                'k' => pod.signal("c", 15),
                'p' => pod.pause("c"),
                'r' => pod.resume("c"),
                'd' => pod.delete("c", false),
                'D' => pod.delete("c", true),
                'x' => pod.exec("c").map(drop),
                other => panic!("no step {other}"),
            };
            answers.push(step);
            if let Err(error) = answer {
                let mark = if error.code == ErrorCode::NotFound {
                    '?'
                } else {
                    '!'
                };
                answers.push(mark);
            }
        }
        assert_eq!(answers, expect);
    }

    #[test]
    fn every_phase_takes_what_fits_it() {
        check("xprd", "x!p!r!d!");
        check("ssrxd", "ss!r!xd!");
        check("spxsrp", "spx!s!rp");
        check("skkspd", "skk!s!p!d");
        check("kd", "kd");
        check("sDds", "sDds?");
    }

    #[test]
    fn events_count_without_a_gap_and_carry_oom() {
        let mut pod = pod_with("c");
        let (subscriber, mut events) = mpsc::channel(8);
        pod.subscribe(subscriber);
        pod.start("c").unwrap();
        pod.oom("c").unwrap();
        pod.exit("c", ExitStatus::Signal(9)).unwrap();
        pod.delete("c", false).unwrap();
        let mut kinds = Vec::new();
        for sequence in 2..=5 {
            let event = events.try_recv().unwrap();
            assert_eq!(event.sequence, sequence);
            kinds.push(event.kind);
        }
        assert!(matches!(kinds[2], EventKind::Exited(exit) if exit.oom_killed));
        assert_eq!(kinds[3], EventKind::Deleted);
    }
}
