//! What a monitor goes on from when it takes a pod over: from itself as it was before it became
//! another program, or from one that died.
//!
//! Descriptors are numbers in the process that reads the message; there is none where it is `None`.

use std::time::Duration;

use crate::message::{length, milliseconds, present, text};
use crate::{ContainerConfig, ContainerState, Message, wire};

/// A pod in the middle of its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Its containers, those that have exited and were not deleted included.
    pub containers: Vec<ResumedContainer>,
    /// The number of the newest event.
    pub last_event: u64,
    /// The first process of its shared PID namespace.
    pub pod_pid: Option<u32>,
    /// Whether the containers are children of the process that reads this; else it adopts them.
    pub same_process: bool,
    /// The OOM score adjustment of the monitor's children, where it is not the monitor's.
    pub oom_score: Option<String>,
    /// The execs that run; only those that are children.
    pub execs: Vec<ResumedExec>,
    /// How many attachments there were so far.
    pub attachments: u32,
}

impl Resume {
    /// The numbers of all descriptors that it names.
    #[must_use]
    pub fn descriptors(&self) -> Vec<u32> {
        let containers = self.containers.iter().flat_map(|container| {
            let clients = container
                .clients
                .iter()
                .flat_map(|client| [client.stdin, client.stdout, client.stderr]);
            let own = [
                container.process,
                container.stdin,
                container.terminal,
                container.stdout.descriptor,
                container.stderr.descriptor,
                container.log.descriptor,
            ];
            own.into_iter().chain(clients)
        });
        let execs = self.execs.iter().map(|exec| exec.terminal);
        containers.chain(execs).flatten().collect()
    }
}

/// A container in the middle of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumedContainer {
    /// What it was created with.
    pub config: ContainerConfig,
    /// How far it has come.
    pub state: ContainerState,
    /// A pidfd of its first process, where that is no child.
    pub process: Option<u32>,
    /// The end to write its standard input to.
    pub stdin: Option<u32>,
    /// The controlling side of its terminal, in place of the outputs.
    pub terminal: Option<u32>,
    /// Its standard output, or what its terminal shows.
    pub stdout: ResumedOutput,
    /// Its standard error.
    pub stderr: ResumedOutput,
    /// Its log.
    pub log: ResumedLog,
    /// Whether an OOM kill was told of.
    pub oom_seen: bool,
    /// OOM kills that its group had counted before it was made.
    pub oom_baseline: u64,
    /// The attached clients.
    pub clients: Vec<ResumedClient>,
    /// Whether somebody holds duplicates of its streams.
    pub escrowed: bool,
}

/// A stream of a container that is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumedOutput {
    /// The end to read from; none for a terminal, and for a stream that has ended.
    pub descriptor: Option<u32>,
    /// What was read of a line that has not ended.
    pub unfinished: Vec<u8>,
}

/// A log in the middle of being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumedLog {
    /// The open file; without it the file is opened by its path.
    pub descriptor: Option<u32>,
    /// Bytes that were lost and that the log does not speak of yet, and the error number.
    pub unmarked: Option<(u64, i32)>,
    /// Whether the file ends within a line.
    pub torn: bool,
}

/// An attached client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumedClient {
    /// Its name within the monitor.
    pub number: u32,
    /// The end that its input is read from.
    pub stdin: Option<u32>,
    /// The end that its standard output is written to.
    pub stdout: Option<u32>,
    /// The end that its standard error is written to.
    pub stderr: Option<u32>,
    /// Whether it has written anything.
    pub wrote: bool,
    /// What was read from it and the container did not take yet.
    pub unwritten: Vec<u8>,
    /// What it did not take yet of the standard output.
    pub owed_stdout: Vec<u8>,
    /// What it did not take yet of the standard error.
    pub owed_stderr: Vec<u8>,
}

/// An exec that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumedExec {
    /// Its process, a child.
    pub pid: u32,
    /// The process's side of its terminal.
    pub terminal: Option<u32>,
    /// How long it may still run. To the millisecond.
    pub left: Option<Duration>,
}

impl Message for Resume {
    type Wire = wire::resume::Owned;

    fn read(reader: wire::resume::Reader<'_>) -> capnp::Result<Self> {
        let oom_score = text(reader.get_oom_score())?;
        Ok(Self {
            containers: reader
                .get_containers()?
                .iter()
                .map(ResumedContainer::read)
                .collect::<capnp::Result<_>>()?,
            last_event: reader.get_last_event(),
            pod_pid: present(reader.get_pod_pid()),
            same_process: reader.get_same_process(),
            oom_score: (!oom_score.is_empty()).then_some(oom_score),
            execs: reader
                .get_execs()?
                .iter()
                .map(ResumedExec::read)
                .collect::<capnp::Result<_>>()?,
            attachments: reader.get_attachments(),
        })
    }

    fn write(&self, mut builder: wire::resume::Builder<'_>) {
        let mut containers = builder.reborrow().init_containers(length(&self.containers));
        for (index, container) in (0..).zip(&self.containers) {
            container.write(containers.reborrow().get(index));
        }
        builder.set_last_event(self.last_event);
        builder.set_pod_pid(self.pod_pid.unwrap_or_default());
        builder.set_same_process(self.same_process);
        builder.set_oom_score(self.oom_score.as_deref().unwrap_or_default());
        let mut execs = builder.reborrow().init_execs(length(&self.execs));
        for (index, exec) in (0..).zip(&self.execs) {
            exec.write(execs.reborrow().get(index));
        }
        builder.set_attachments(self.attachments);
    }
}

impl Message for ResumedContainer {
    type Wire = wire::resumed_container::Owned;

    fn read(reader: wire::resumed_container::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            config: ContainerConfig::read(reader.get_config()?)?,
            state: ContainerState::read(reader.get_state()?)?,
            process: present(reader.get_process()),
            stdin: present(reader.get_stdin()),
            terminal: present(reader.get_terminal()),
            stdout: ResumedOutput::read(reader.get_stdout()?)?,
            stderr: ResumedOutput::read(reader.get_stderr()?)?,
            log: ResumedLog::read(reader.get_log()?)?,
            oom_seen: reader.get_oom_seen(),
            oom_baseline: reader.get_oom_baseline(),
            clients: reader
                .get_clients()?
                .iter()
                .map(ResumedClient::read)
                .collect::<capnp::Result<_>>()?,
            escrowed: reader.get_escrowed(),
        })
    }

    fn write(&self, mut builder: wire::resumed_container::Builder<'_>) {
        self.config.write(builder.reborrow().init_config());
        self.state.write(builder.reborrow().init_state());
        builder.set_process(self.process.unwrap_or_default());
        builder.set_stdin(self.stdin.unwrap_or_default());
        builder.set_terminal(self.terminal.unwrap_or_default());
        self.stdout.write(builder.reborrow().init_stdout());
        self.stderr.write(builder.reborrow().init_stderr());
        self.log.write(builder.reborrow().init_log());
        builder.set_oom_seen(self.oom_seen);
        builder.set_oom_baseline(self.oom_baseline);
        let mut clients = builder.reborrow().init_clients(length(&self.clients));
        for (index, client) in (0..).zip(&self.clients) {
            client.write(clients.reborrow().get(index));
        }
        builder.set_escrowed(self.escrowed);
    }
}

impl Message for ResumedOutput {
    type Wire = wire::resumed_output::Owned;

    fn read(reader: wire::resumed_output::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            descriptor: present(reader.get_descriptor()),
            unfinished: reader.get_unfinished()?.to_vec(),
        })
    }

    fn write(&self, mut builder: wire::resumed_output::Builder<'_>) {
        builder.set_descriptor(self.descriptor.unwrap_or_default());
        builder.set_unfinished(&self.unfinished);
    }
}

impl Message for ResumedLog {
    type Wire = wire::resumed_log::Owned;

    fn read(reader: wire::resumed_log::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            descriptor: present(reader.get_descriptor()),
            unmarked: present(reader.get_unmarked_bytes())
                .map(|bytes| (bytes, reader.get_unmarked_errno())),
            torn: reader.get_torn(),
        })
    }

    fn write(&self, mut builder: wire::resumed_log::Builder<'_>) {
        let (bytes, errno) = self.unmarked.unwrap_or_default();
        builder.set_descriptor(self.descriptor.unwrap_or_default());
        builder.set_unmarked_bytes(bytes);
        builder.set_unmarked_errno(errno);
        builder.set_torn(self.torn);
    }
}

impl Message for ResumedClient {
    type Wire = wire::resumed_client::Owned;

    fn read(reader: wire::resumed_client::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            number: reader.get_number(),
            stdin: present(reader.get_stdin()),
            stdout: present(reader.get_stdout()),
            stderr: present(reader.get_stderr()),
            wrote: reader.get_wrote(),
            unwritten: reader.get_unwritten()?.to_vec(),
            owed_stdout: reader.get_owed_stdout()?.to_vec(),
            owed_stderr: reader.get_owed_stderr()?.to_vec(),
        })
    }

    fn write(&self, mut builder: wire::resumed_client::Builder<'_>) {
        builder.set_number(self.number);
        builder.set_stdin(self.stdin.unwrap_or_default());
        builder.set_stdout(self.stdout.unwrap_or_default());
        builder.set_stderr(self.stderr.unwrap_or_default());
        builder.set_wrote(self.wrote);
        builder.set_unwritten(&self.unwritten);
        builder.set_owed_stdout(&self.owed_stdout);
        builder.set_owed_stderr(&self.owed_stderr);
    }
}

impl Message for ResumedExec {
    type Wire = wire::resumed_exec::Owned;

    fn read(reader: wire::resumed_exec::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            pid: reader.get_pid(),
            terminal: present(reader.get_terminal()),
            left: present(reader.get_left_ms()).map(Duration::from_millis),
        })
    }

    fn write(&self, mut builder: wire::resumed_exec::Builder<'_>) {
        builder.set_pid(self.pid);
        builder.set_terminal(self.terminal.unwrap_or_default());
        // 0 means none: what is over already has a last millisecond.
        let left = self.left.map(|left| milliseconds(left).max(1));
        builder.set_left_ms(left.unwrap_or_default());
    }
}
