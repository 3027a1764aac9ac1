//! What a monitor is started with.

use std::path::PathBuf;
use std::time::Duration;

use crate::message::{length, milliseconds, path, path_text, text};
use crate::{Message, wire};

/// All that a monitor needs to know about its pod, as one message in a sealed memfd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartConfig {
    /// The pod's id.
    pub id: String,
    /// The monitor's own directory; see [`crate::layout`].
    pub run_directory: PathBuf,
    /// The OCI runtime and how to call it.
    pub runtime: RuntimeConfig,
    /// The namespaces of the pod.
    pub namespaces: Namespaces,
    /// The host name in the pod's UTS namespace; empty leaves the host's.
    pub hostname: String,
    /// Kernel parameters written inside the new namespaces: dotted name and value.
    pub sysctls: Vec<(String, String)>,
    /// Bounds; zeros ask for the monitor's defaults.
    pub limits: Limits,
}

/// The OCI runtime and how to call it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Its program.
    pub path: PathBuf,
    /// Its state directory, `--root`.
    pub root: PathBuf,
    /// Global options, before the command.
    pub options: Vec<String>,
    /// Whether it makes cgroups through systemd.
    pub systemd_cgroup: bool,
    /// How long one call may take; then it is killed and undone. To the millisecond.
    pub timeout: Duration,
}

/// Which namespaces the monitor makes for its pod; the others are the host's.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each namespace, independent of each other"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub net: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// One PID namespace for all containers, with an init that reaps.
    pub pid: bool,
    /// User ids; not empty makes a user namespace that owns the others.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of that user namespace.
    pub gid_mappings: Vec<IdMapping>,
}

/// A range of ids inside a user namespace and where it lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// The first id inside.
    pub container_id: u32,
    /// The first id outside.
    pub host_id: u32,
    /// How many.
    pub length: u32,
}

/// Bounds of a monitor. Zero asks for the monitor's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls that are carried out at the same time.
    pub calls_in_flight: u32,
    /// Bytes of one inbound message.
    pub message_bytes: u32,
    /// Clients at the same time.
    pub connections: u32,
    /// Bytes of a log line; a longer one is written in partial pieces of this size.
    pub log_line_bytes: u32,
    /// An unfinished line is written as partial when nothing followed for so many milliseconds.
    pub log_flush_ms: u32,
    /// An attached client that reads nothing for so many milliseconds is dropped.
    pub attach_stall_ms: u32,
    /// How many milliseconds streams wait to be fetched.
    pub token_ms: u32,
}

impl Message for StartConfig {
    type Wire = wire::start_config::Owned;

    fn read(reader: wire::start_config::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            id: text(reader.get_id())?,
            run_directory: path(reader.get_run_directory())?,
            runtime: RuntimeConfig::read(reader.get_runtime()?)?,
            namespaces: Namespaces::read(reader.get_namespaces()?)?,
            hostname: text(reader.get_hostname())?,
            sysctls: reader
                .get_sysctls()?
                .iter()
                .map(|pair| Ok((text(pair.get_key())?, text(pair.get_value())?)))
                .collect::<capnp::Result<_>>()?,
            limits: Limits::read(reader.get_limits()?)?,
        })
    }

    fn write(&self, mut builder: wire::start_config::Builder<'_>) {
        builder.set_id(&self.id);
        builder.set_run_directory(path_text(&self.run_directory));
        self.runtime.write(builder.reborrow().init_runtime());
        self.namespaces.write(builder.reborrow().init_namespaces());
        builder.set_hostname(&self.hostname);
        let mut sysctls = builder.reborrow().init_sysctls(length(&self.sysctls));
        for (index, (key, value)) in (0..).zip(&self.sysctls) {
            let mut pair = sysctls.reborrow().get(index);
            pair.set_key(key);
            pair.set_value(value);
        }
        self.limits.write(builder.init_limits());
    }
}

impl Message for RuntimeConfig {
    type Wire = wire::runtime_config::Owned;

    fn read(reader: wire::runtime_config::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            path: path(reader.get_path())?,
            root: path(reader.get_root())?,
            options: reader
                .get_options()?
                .iter()
                .map(text)
                .collect::<capnp::Result<_>>()?,
            systemd_cgroup: reader.get_systemd_cgroup(),
            timeout: Duration::from_millis(reader.get_timeout_ms()),
        })
    }

    fn write(&self, mut builder: wire::runtime_config::Builder<'_>) {
        builder.set_path(path_text(&self.path));
        builder.set_root(path_text(&self.root));
        let mut options = builder.reborrow().init_options(length(&self.options));
        for (index, option) in (0..).zip(&self.options) {
            options.set(index, option);
        }
        builder.set_systemd_cgroup(self.systemd_cgroup);
        builder.set_timeout_ms(milliseconds(self.timeout));
    }
}

impl Message for Namespaces {
    type Wire = wire::namespaces::Owned;

    fn read(reader: wire::namespaces::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            net: reader.get_net(),
            ipc: reader.get_ipc(),
            uts: reader.get_uts(),
            pid: reader.get_pid(),
            uid_mappings: reader
                .get_uid_mappings()?
                .iter()
                .map(IdMapping::read)
                .collect::<capnp::Result<_>>()?,
            gid_mappings: reader
                .get_gid_mappings()?
                .iter()
                .map(IdMapping::read)
                .collect::<capnp::Result<_>>()?,
        })
    }

    fn write(&self, mut builder: wire::namespaces::Builder<'_>) {
        builder.set_net(self.net);
        builder.set_ipc(self.ipc);
        builder.set_uts(self.uts);
        builder.set_pid(self.pid);
        let mut uids = builder
            .reborrow()
            .init_uid_mappings(length(&self.uid_mappings));
        for (index, mapping) in (0..).zip(&self.uid_mappings) {
            mapping.write(uids.reborrow().get(index));
        }
        let mut gids = builder.init_gid_mappings(length(&self.gid_mappings));
        for (index, mapping) in (0..).zip(&self.gid_mappings) {
            mapping.write(gids.reborrow().get(index));
        }
    }
}

impl Message for IdMapping {
    type Wire = wire::id_mapping::Owned;

    fn read(reader: wire::id_mapping::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            container_id: reader.get_container_id(),
            host_id: reader.get_host_id(),
            length: reader.get_length(),
        })
    }

    fn write(&self, mut builder: wire::id_mapping::Builder<'_>) {
        builder.set_container_id(self.container_id);
        builder.set_host_id(self.host_id);
        builder.set_length(self.length);
    }
}

impl Message for Limits {
    type Wire = wire::limits::Owned;

    fn read(reader: wire::limits::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            calls_in_flight: reader.get_calls_in_flight(),
            message_bytes: reader.get_message_bytes(),
            connections: reader.get_connections(),
            log_line_bytes: reader.get_log_line_bytes(),
            log_flush_ms: reader.get_log_flush_ms(),
            attach_stall_ms: reader.get_attach_stall_ms(),
            token_ms: reader.get_token_ms(),
        })
    }

    fn write(&self, mut builder: wire::limits::Builder<'_>) {
        builder.set_calls_in_flight(self.calls_in_flight);
        builder.set_message_bytes(self.message_bytes);
        builder.set_connections(self.connections);
        builder.set_log_line_bytes(self.log_line_bytes);
        builder.set_log_flush_ms(self.log_flush_ms);
        builder.set_attach_stall_ms(self.attach_stall_ms);
        builder.set_token_ms(self.token_ms);
    }
}
