//! How a process ended.

use crate::{Message, wire};

/// The end of a container's first process, or of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// When, in nanoseconds since the Unix epoch.
    pub at: i64,
    /// Whether the kernel killed a process of this container because memory ran out.
    pub oom_killed: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
    /// It was killed because its time was over.
    TimedOut,
    /// It has ended, and nobody can say how.
    Lost,
}

impl Message for Exit {
    type Wire = wire::exit::Owned;

    fn read(reader: wire::exit::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            status: match reader.which()? {
                wire::exit::Code(code) => ExitStatus::Code(code),
                wire::exit::Signal(signal) => ExitStatus::Signal(signal),
                wire::exit::TimedOut(()) => ExitStatus::TimedOut,
                wire::exit::Lost(()) => ExitStatus::Lost,
            },
            at: reader.get_exited_at(),
            oom_killed: reader.get_oom_killed(),
        })
    }

    fn write(&self, mut builder: wire::exit::Builder<'_>) {
        match self.status {
            ExitStatus::Code(code) => builder.set_code(code),
            ExitStatus::Signal(signal) => builder.set_signal(signal),
            ExitStatus::TimedOut => builder.set_timed_out(()),
            ExitStatus::Lost => builder.set_lost(()),
        }
        builder.set_exited_at(self.at);
        builder.set_oom_killed(self.oom_killed);
    }
}
