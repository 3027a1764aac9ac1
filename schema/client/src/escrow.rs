//! What outlives a monitor: duplicates of the descriptors that its containers depend on, and how the
//! next monitor gets them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pod_monitor_schema::layout::FIRST_RESUMED_FD;
use pod_monitor_schema::streams::StreamMask;
use pod_monitor_schema::{
    ContainerConfig, ContainerState, Exit, Message as _, Resume, ResumedContainer, ResumedLog,
    ResumedOutput, TraceContext, wire::monitor,
};

use crate::connection::answer;
use crate::streams::fetch_all;
use crate::{Monitor, MonitorError};

/// Duplicates of a monitor's ends of one container's streams. While they are held, the container's
/// pipes do not break, whatever becomes of the monitor. They are to be dropped when the container
/// has exited; `stdin` already when [`pod_monitor_schema::EventKind::StdinClosed`] is told.
#[derive(Debug, Default)]
pub struct Escrow {
    /// The end that its standard input is written to.
    pub stdin: Option<OwnedFd>,
    /// The end that its standard output is read from.
    pub stdout: Option<OwnedFd>,
    /// The end that its standard error is read from.
    pub stderr: Option<OwnedFd>,
    /// The terminal's controlling side, in place of the three others.
    pub terminal: Option<OwnedFd>,
    /// A pidfd of its first process.
    pub process: Option<OwnedFd>,
}

/// What is known of a pod whose monitor has ended, for the monitor that takes its place.
#[derive(Debug, Default)]
pub struct Handover {
    /// The first process of its shared PID namespace; see
    /// [`pod_monitor_schema::Welcome::pod_pid`].
    pub pod_pid: Option<u32>,
    /// Its containers, those that have exited and were not deleted included.
    pub containers: Vec<HandedOver>,
}

/// One container of it.
#[derive(Debug)]
pub struct HandedOver {
    /// What it was created with.
    pub config: ContainerConfig,
    /// How far it had come.
    pub state: ContainerState,
    /// What it depends on; empty where it has exited. A container that lives and of which no
    /// process is known ends as lost.
    pub escrow: Escrow,
}

impl Handover {
    /// The message, and the descriptors that it names, in the order of their numbers.
    pub(crate) fn message(&self) -> (Resume, Vec<BorrowedFd<'_>>) {
        let mut next = FIRST_RESUMED_FD.unsigned_abs();
        let mut number = |fd: &Option<OwnedFd>| {
            fd.as_ref().map(|_| {
                next += 1;
                next - 1
            })
        };
        let containers = self.containers.iter().map(|container| {
            let escrow = &container.escrow;
            let output = |descriptor| ResumedOutput {
                descriptor,
                unfinished: Vec::new(),
            };
            ResumedContainer {
                config: container.config.clone(),
                state: container.state.clone(),
                stdin: number(&escrow.stdin),
                stdout: output(number(&escrow.stdout)),
                stderr: output(number(&escrow.stderr)),
                terminal: number(&escrow.terminal),
                process: number(&escrow.process),
                log: ResumedLog::default(),
                oom_seen: false,
                oom_baseline: 0,
                clients: Vec::new(),
                escrowed: true,
            }
        });
        let resume = Resume {
            containers: containers.collect(),
            pod_pid: self.pod_pid,
            ..Resume::default()
        };
        let escrows = self.containers.iter().map(|container| &container.escrow);
        let descriptors = escrows.flat_map(Escrow::descriptors);
        (resume, descriptors.collect())
    }
}

impl Escrow {
    /// Those that are there, in the order of the fields.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let all = [
            &self.stdin,
            &self.stdout,
            &self.stderr,
            &self.terminal,
            &self.process,
        ];
        all.into_iter().flatten().map(AsFd::as_fd)
    }

    /// Duplicates of the duplicates.
    ///
    /// # Errors
    /// When this process can have no more descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            stdin: copy(&self.stdin)?,
            stdout: copy(&self.stdout)?,
            stderr: copy(&self.stderr)?,
            terminal: copy(&self.terminal)?,
            process: copy(&self.process)?,
        })
    }
}

impl Monitor {
    /// Duplicates of what a container that lives depends on. To be asked for when it was created,
    /// and by who comes back.
    ///
    /// # Errors
    /// See [`MonitorError`]; `Unimplemented` from a monitor without
    /// [`pod_monitor_schema::capability::ESCROW`].
    pub async fn escrow(&self, trace: &TraceContext, id: &str) -> Result<Escrow, MonitorError> {
        let (trace, id, this) = (trace.clone(), id.to_owned(), self.clone());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.escrow_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            let escrowed = answer!("escrow", request, |escrowed| {
                Ok(escrowed.get_token()?.to_vec())
            });
            async move {
                let token = escrowed.await?;
                let mut fetched = fetch_all(this.run_directory(), &token).await?;
                Ok(Escrow {
                    stdin: fetched.take(StreamMask::STDIN),
                    stdout: fetched.take(StreamMask::STDOUT),
                    stderr: fetched.take(StreamMask::STDERR),
                    terminal: fetched.take(StreamMask::TERMINAL),
                    process: fetched.take(StreamMask::PROCESS),
                })
            }
        };
        self.call("escrow", call).await
    }

    /// Tells how the first process of a container ended that this monitor has adopted; see
    /// [`crate::Rpc::reaped`].
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn settle(
        &self,
        trace: &TraceContext,
        id: &str,
        exit: Exit,
    ) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.settle_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            exit.write(request.get().init_exit());
            answer!("settle", request)
        };
        self.call("settle", call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_monitor_schema::{ContainerPhase, Stdin};

    fn null() -> Option<OwnedFd> {
        Some(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn descriptors_are_numbered_in_the_order_in_which_they_are_passed() {
        let container = |id: &str, escrow| HandedOver {
            config: ContainerConfig {
                id: id.into(),
                bundle: "/b".into(),
                terminal: false,
                stdin: Stdin::None,
                log_path: None,
                memory_events: false,
            },
            state: ContainerState {
                id: id.into(),
                pid: 1,
                created_at: 1,
                phase: ContainerPhase::Created,
                log_bytes_lost: 0,
                terminal: false,
            },
            escrow,
        };
        let piped = Escrow {
            stdout: null(),
            stderr: null(),
            process: null(),
            ..Escrow::default()
        };
        let terminal = Escrow {
            terminal: null(),
            process: null(),
            ..Escrow::default()
        };
        let handover = Handover {
            pod_pid: Some(3),
            containers: vec![
                container("a", piped),
                container("b", Escrow::default()),
                container("c", terminal),
            ],
        };
        let (resume, descriptors) = handover.message();
        assert_eq!(resume.descriptors().len(), descriptors.len());
        let numbers = resume.containers.iter().map(|container| {
            let outputs = (container.stdout.descriptor, container.stderr.descriptor);
            (outputs, container.terminal, container.process)
        });
        let expected = [
            ((Some(7), Some(8)), None, Some(9)),
            ((None, None), None, None),
            ((None, None), Some(10), Some(11)),
        ];
        assert_eq!(Vec::from_iter(numbers), expected);
    }
}
