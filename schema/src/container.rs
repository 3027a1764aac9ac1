//! What a container is made from.

use std::path::PathBuf;

use crate::message::{path, path_text, text};
use crate::{Message, wire};

/// What the monitor needs to know to create a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Its id, which is also its name at the OCI runtime.
    pub id: String,
    /// Its OCI bundle: a directory with `config.json`.
    pub bundle: PathBuf,
    /// Whether it has a terminal. The bundle must say the same.
    pub terminal: bool,
    /// What it reads.
    pub stdin: Stdin,
    /// Where its output is kept; without it, output is read and thrown away.
    pub log_path: Option<PathBuf>,
    /// Whether to watch for OOM kills.
    pub memory_events: bool,
}

/// What a container reads from its standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    None,
    /// What attached clients write; it stays open when they go away.
    Open,
    /// What attached clients write; closed when the first that wrote closes it.
    Once,
}

/// A container's process as the OCI runtime made it. Its program does not run yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The container's first process.
    pub pid: u32,
    /// When, in nanoseconds since the Unix epoch.
    pub at: i64,
}

/// The container's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Since when, in nanoseconds since the Unix epoch.
    pub at: i64,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

impl Message for ContainerConfig {
    type Wire = wire::container_config::Owned;

    fn read(reader: wire::container_config::Reader<'_>) -> capnp::Result<Self> {
        let log_path = path(reader.get_log_path())?;
        Ok(Self {
            id: text(reader.get_id())?,
            bundle: path(reader.get_bundle())?,
            terminal: reader.get_terminal(),
            stdin: reader.get_stdin()?.into(),
            log_path: (!log_path.as_os_str().is_empty()).then_some(log_path),
            memory_events: reader.get_memory_events(),
        })
    }

    fn write(&self, mut builder: wire::container_config::Builder<'_>) {
        builder.set_id(&self.id);
        builder.set_bundle(path_text(&self.bundle));
        builder.set_terminal(self.terminal);
        builder.set_stdin(self.stdin.into());
        if let Some(log_path) = &self.log_path {
            builder.set_log_path(path_text(log_path));
        }
        builder.set_memory_events(self.memory_events);
    }
}

impl From<wire::Stdin> for Stdin {
    fn from(stdin: wire::Stdin) -> Self {
        match stdin {
            wire::Stdin::None => Self::None,
            wire::Stdin::Open => Self::Open,
            wire::Stdin::Once => Self::Once,
        }
    }
}

impl From<Stdin> for wire::Stdin {
    fn from(stdin: Stdin) -> Self {
        match stdin {
            Stdin::None => Self::None,
            Stdin::Open => Self::Open,
            Stdin::Once => Self::Once,
        }
    }
}

impl Message for Created {
    type Wire = wire::created::Owned;

    fn read(reader: wire::created::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            pid: reader.get_pid(),
            at: reader.get_created_at(),
        })
    }

    fn write(&self, mut builder: wire::created::Builder<'_>) {
        builder.set_pid(self.pid);
        builder.set_created_at(self.at);
    }
}

impl Message for Started {
    type Wire = wire::started::Owned;

    fn read(reader: wire::started::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            at: reader.get_started_at(),
        })
    }

    fn write(&self, mut builder: wire::started::Builder<'_>) {
        builder.set_started_at(self.at);
    }
}

impl Message for TerminalSize {
    type Wire = wire::terminal_size::Owned;

    fn read(reader: wire::terminal_size::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            columns: reader.get_columns(),
            rows: reader.get_rows(),
        })
    }

    fn write(&self, mut builder: wire::terminal_size::Builder<'_>) {
        builder.set_columns(self.columns);
        builder.set_rows(self.rows);
    }
}
