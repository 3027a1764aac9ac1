//! What a monitor tells without being asked.

use crate::message::text;
use crate::{Created, Exit, Message, Started, wire};

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1 without a gap, for as long as the monitor lives.
    pub sequence: u64,
    /// When, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// The container.
    pub container_id: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The container exists; its program does not run yet.
    Created(Created),
    /// Its program runs.
    Started(Started),
    /// It has exited, and the last byte of its output is in the log.
    Exited(Exit),
    /// The kernel killed one of its processes because memory ran out.
    Oom,
    /// Output could not be written to the log.
    LogLost {
        /// Bytes lost so far, in all.
        bytes: u64,
    },
    /// The monitor has forgotten it.
    Deleted,
    /// Its standard input is closed: who holds a duplicate is to drop it.
    StdinClosed,
}

impl Message for Event {
    type Wire = wire::event::Owned;

    fn read(reader: wire::event::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            sequence: reader.get_sequence(),
            time: reader.get_time(),
            container_id: text(reader.get_container_id())?,
            kind: match reader.which()? {
                wire::event::Created(created) => EventKind::Created(Created::read(created?)?),
                wire::event::Started(started) => EventKind::Started(Started::read(started?)?),
                wire::event::Exited(exit) => EventKind::Exited(Exit::read(exit?)?),
                wire::event::Oom(()) => EventKind::Oom,
                wire::event::LogLost(lost) => EventKind::LogLost {
                    bytes: lost.get_bytes(),
                },
                wire::event::Deleted(()) => EventKind::Deleted,
                wire::event::StdinClosed(()) => EventKind::StdinClosed,
            },
        })
    }

    fn write(&self, mut builder: wire::event::Builder<'_>) {
        builder.set_sequence(self.sequence);
        builder.set_time(self.time);
        builder.set_container_id(&self.container_id);
        match self.kind {
            EventKind::Created(created) => created.write(builder.init_created()),
            EventKind::Started(started) => started.write(builder.init_started()),
            EventKind::Exited(exit) => exit.write(builder.init_exited()),
            EventKind::Oom => builder.set_oom(()),
            EventKind::LogLost { bytes } => builder.init_log_lost().set_bytes(bytes),
            EventKind::Deleted => builder.set_deleted(()),
            EventKind::StdinClosed => builder.set_stdin_closed(()),
        }
    }
}
