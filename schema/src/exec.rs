//! What an exec and an attach ask for.
//!
//! Their answers carry capabilities, so they have no owned type here: see `execStarted` and
//! `attached` in [`crate::wire`].

use std::time::Duration;

use crate::message::{milliseconds, present, text};
use crate::{Message, TerminalSize, wire};

/// A process to run in a container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    /// The container.
    pub container_id: String,
    /// The JSON of an OCI `process` object.
    pub process: Vec<u8>,
    /// Whether it gets a terminal; then its output is one stream. The process object must say
    /// the same.
    pub terminal: bool,
    /// The streams that the caller wants; the others are `/dev/null`.
    pub streams: StreamSet,
    /// The terminal's size at the start.
    pub size: Option<TerminalSize>,
    /// After which it and all that descend from it are killed. To the millisecond.
    pub timeout: Option<Duration>,
}

/// Which streams of a container to connect with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachConfig {
    /// The container.
    pub container_id: String,
    /// The streams that the caller wants.
    pub streams: StreamSet,
}

/// A choice of standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSet {
    /// To write to.
    pub stdin: bool,
    /// To read from.
    pub stdout: bool,
    /// To read from.
    pub stderr: bool,
}

/// Why an attachment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachEnd {
    /// The container exited, and all its output was handed over.
    ContainerExited,
    /// The client closed its ends.
    Detached,
    /// The client did not read for longer than the limit and was dropped: output is missing.
    Stalled,
}

impl Message for ExecConfig {
    type Wire = wire::exec_config::Owned;

    fn read(reader: wire::exec_config::Reader<'_>) -> capnp::Result<Self> {
        let size = TerminalSize::read(reader.get_size()?)?;
        Ok(Self {
            container_id: text(reader.get_container_id())?,
            process: reader.get_process()?.to_vec(),
            terminal: reader.get_terminal(),
            streams: StreamSet {
                stdin: reader.get_stdin(),
                stdout: reader.get_stdout(),
                stderr: reader.get_stderr(),
            },
            size: (size.columns > 0 && size.rows > 0).then_some(size),
            timeout: present(reader.get_timeout_ms()).map(Duration::from_millis),
        })
    }

    fn write(&self, mut builder: wire::exec_config::Builder<'_>) {
        builder.set_container_id(&self.container_id);
        builder.set_process(&self.process);
        builder.set_terminal(self.terminal);
        builder.set_stdin(self.streams.stdin);
        builder.set_stdout(self.streams.stdout);
        builder.set_stderr(self.streams.stderr);
        if let Some(size) = self.size {
            size.write(builder.reborrow().init_size());
        }
        // A timeout below the unit must not become "none".
        builder.set_timeout_ms(self.timeout.map_or(0, |t| milliseconds(t).max(1)));
    }
}

impl Message for AttachConfig {
    type Wire = wire::attach_config::Owned;

    fn read(reader: wire::attach_config::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            container_id: text(reader.get_container_id())?,
            streams: StreamSet {
                stdin: reader.get_stdin(),
                stdout: reader.get_stdout(),
                stderr: reader.get_stderr(),
            },
        })
    }

    fn write(&self, mut builder: wire::attach_config::Builder<'_>) {
        builder.set_container_id(&self.container_id);
        builder.set_stdin(self.streams.stdin);
        builder.set_stdout(self.streams.stdout);
        builder.set_stderr(self.streams.stderr);
    }
}

impl From<wire::AttachEnd> for AttachEnd {
    fn from(end: wire::AttachEnd) -> Self {
        match end {
            wire::AttachEnd::ContainerExited => Self::ContainerExited,
            wire::AttachEnd::Detached => Self::Detached,
            wire::AttachEnd::Stalled => Self::Stalled,
        }
    }
}

impl From<AttachEnd> for wire::AttachEnd {
    fn from(end: AttachEnd) -> Self {
        match end {
            AttachEnd::ContainerExited => Self::ContainerExited,
            AttachEnd::Detached => Self::Detached,
            AttachEnd::Stalled => Self::Stalled,
        }
    }
}
