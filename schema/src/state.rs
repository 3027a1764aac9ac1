//! What a monitor knows about its containers.

use crate::message::{length, present, text};
use crate::{Exit, Message, wire};

/// All containers of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// Those that were created and not deleted.
    pub containers: Vec<ContainerState>,
    /// The sequence number of the newest event that this state includes; 0 before the first.
    pub last_event: u64,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// Its first process; another process may have the number once this one has exited.
    pub pid: u32,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// How far its life has come.
    pub phase: ContainerPhase,
    /// Log bytes that could not be written.
    pub log_bytes_lost: u64,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// How far a container's life has come. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Its program has not run yet.
    Created,
    /// Its program runs.
    Running {
        /// Since when.
        started_at: i64,
    },
    /// Its program is frozen.
    Paused {
        /// When it was started.
        started_at: i64,
    },
    /// Its first process has ended.
    Exited {
        /// When it was started; none where it ended before.
        started_at: Option<i64>,
        /// How it ended.
        exit: Exit,
    },
}

impl Message for PodState {
    type Wire = wire::pod_state::Owned;

    fn read(reader: wire::pod_state::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            containers: reader
                .get_containers()?
                .iter()
                .map(ContainerState::read)
                .collect::<capnp::Result<_>>()?,
            last_event: reader.get_last_event(),
        })
    }

    fn write(&self, mut builder: wire::pod_state::Builder<'_>) {
        builder.set_last_event(self.last_event);
        let mut containers = builder.init_containers(length(&self.containers));
        for (index, container) in (0..).zip(&self.containers) {
            container.write(containers.reborrow().get(index));
        }
    }
}

impl Message for ContainerState {
    type Wire = wire::container_state::Owned;

    fn read(reader: wire::container_state::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            id: text(reader.get_id())?,
            pid: reader.get_pid(),
            created_at: reader.get_created_at(),
            phase: read_phase(reader)?,
            log_bytes_lost: reader.get_log_bytes_lost(),
            terminal: reader.get_terminal(),
        })
    }

    fn write(&self, mut builder: wire::container_state::Builder<'_>) {
        builder.set_id(&self.id);
        builder.set_pid(self.pid);
        builder.set_created_at(self.created_at);
        builder.set_log_bytes_lost(self.log_bytes_lost);
        builder.set_terminal(self.terminal);
        match self.phase {
            ContainerPhase::Created => builder.set_created(()),
            ContainerPhase::Running { started_at } => {
                builder.init_running().set_started_at(started_at);
            }
            ContainerPhase::Paused { started_at } => {
                builder.init_paused().set_started_at(started_at);
            }
            ContainerPhase::Exited { started_at, exit } => {
                let mut exited = builder.init_exited();
                exited.set_started_at(started_at.unwrap_or_default());
                exit.write(exited.init_exit());
            }
        }
    }
}

fn read_phase(reader: wire::container_state::Reader<'_>) -> capnp::Result<ContainerPhase> {
    Ok(match reader.which()? {
        wire::container_state::Created(()) => ContainerPhase::Created,
        wire::container_state::Running(running) => ContainerPhase::Running {
            started_at: running.get_started_at(),
        },
        wire::container_state::Paused(paused) => ContainerPhase::Paused {
            started_at: paused.get_started_at(),
        },
        wire::container_state::Exited(exited) => ContainerPhase::Exited {
            started_at: present(exited.get_started_at()),
            exit: Exit::read(exited.get_exit()?)?,
        },
    })
}
