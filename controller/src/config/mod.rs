//! The configuration: TOML files to one typed, validated [`Config`], once, before anything binds.
//!
//! ```text
//! husk.toml ─┐ raw: a tree whose keys     section!: defaults, types,     check: what only
//! *.d/*.toml ┴▶ remember file and line ──▶ permitted ranges, unknown ──▶ goes together ──▶ Config
//!              (merged, later wins)        keys with the nearest one
//! ```
//!
//! Every key is declared in this file, once: its documentation, its default and what it permits.
//! `husk config default` and `packaging/husk.toml` are generated from the same declaration.
//! All problems of all files are reported at once.
//!
//! Deliberately absent: anything that looks at the host. Whether a path exists or a runtime works is
//! the business of `husk check` and of the module that uses it.

mod check;
mod derived;
mod document;
mod error;
mod kinds;
mod raw;
mod rule;
mod section;
#[cfg(test)]
mod tests;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::error::{ConfigError, Origin, Problem};
pub use self::kinds::{Capabilities, Handlers, MonitorCgroup, Rlimit, Rlimits, Sysctls};
pub use self::raw::drop_in_directory;
pub use self::value::Size;

use self::document::Document;
use self::raw::Node;
use self::rule::{
    absolute, absolute_if_set, absolute_list, log_levels, none_or_within, program, socket, within,
};
use self::section::{About, Entry, Reader, Slot, section};
use self::value::choice;

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/husk/husk.toml";

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

section! {
    /// Husk's configuration. Every key is shown with its default.
    ///
    /// Files are read in this order, and a later one wins: husk.toml, then husk.toml.d/*.toml in
    /// lexical order. Tables are merged key by key; a list is replaced whole.
    /// Durations are written "500ms", "4s", "1m30s"; sizes "64KiB", "1MiB" or a number of bytes.
    Config {
        /// The state that outlives a reboot: images, the database.
        root: PathBuf = PathBuf::from("/var/lib/husk"), absolute();
        /// What ends with the boot: run directories of pods, pinned namespaces, monitor sockets.
        run: PathBuf = PathBuf::from("/run/husk"), absolute();
        /// The unix socket of the CRI, for the kubelet's containerRuntimeEndpoint. `husk status` and
        /// `husk image` use it too.
        socket: PathBuf = PathBuf::from("/run/husk/husk.sock"), socket();
        /// The daemon's own log. Containers' logs are the kubelet's business.
        log: Log = Log::default();
        /// OCI runtimes.
        runtime: Runtime = Runtime::default();
        /// Control groups.
        cgroup: Cgroup = Cgroup::default();
        /// The process that watches over one pod.
        monitor: Monitor = Monitor::default();
        /// CNI.
        network: Network = Network::default();
        /// Plugins of the Node Resource Interface, which adjust containers.
        nri: Nri = Nri::default();
        /// Devices of vendors, by the Container Device Interface.
        cdi: Cdi = Cdi::default();
        /// Pulling and storing images.
        image: Image = Image::default();
        /// The HTTP server for exec, attach and port-forward, which the kubelet connects to.
        streaming: Streaming = Streaming::default();
        /// Bounds of the CRI server.
        limits: Limits = Limits::default();
        /// What a container gets when its pod does not say otherwise.
        defaults: Defaults = Defaults::default();
    }
}

section! {
    /// The daemon's own log.
    Log {
        /// The least severe level that is written, for all modules or for some.
        level: String = "info".to_owned(), log_levels();
        /// human and json go to standard error; journald keeps fields apart in the journal.
        format: LogFormat = LogFormat::Human;
    }
}

choice! {
    /// How the daemon's log is written.
    LogFormat {
        /// A line for people, on standard error.
        Human = "human",
        /// A JSON object a line, on standard error.
        Json = "json",
        /// Entries of the systemd journal.
        Journald = "journald",
    }
}

section! {
    /// OCI runtimes.
    Runtime {
        /// The handler of pods that name none: one of [runtime.handlers], or "auto" for crun where it
        /// works on this host and runc elsewhere.
        default: String = AUTO.to_owned();
        /// How long a create or start may take before it is given up and cleaned.
        start_timeout: Duration = Duration::from_secs(90), within(SECOND, HOUR);
        /// How long a container may take to go after SIGKILL before its stop is reported as failed.
        kill_timeout: Duration = Duration::from_secs(30), within(SECOND, Duration::from_secs(30));
        /// Whether CreateContainer restores a container where its image is a checkpoint. Its processes
        /// go on with the privileges that they had, whatever their new pod permits: who may name an
        /// image for a pod is root on the node then.
        restore: bool = false;
        /// A runtime handler: what a RuntimeClass's `handler` names. crun and runc are built in; any
        /// table [runtime.handlers.NAME] adds one or changes one.
        handlers: Handlers = Handlers::default();
    }
}

/// The value of `runtime.default` that leaves the choice to a probe of the host at start.
pub const AUTO: &str = "auto";

section! {
    /// One runtime handler.
    Handler {
        /// The program: an absolute path, or a name that is looked up in /usr/local/sbin,
        /// /usr/local/bin, /usr/sbin, /usr/bin, /sbin and /bin. Unset in a new handler, it is the
        /// handler's name.
        path: PathBuf = PathBuf::from("runc"), program();
        /// Which runtime it is like: crun, runc, or other. What it can do is assumed by that where it
        /// does not tell. By the program's name when unset.
        kind: Option<HandlerKind> = None;
        /// Global options that go before the subcommand.
        options: Vec<String> = Vec::new();
        /// The runtime's own state directory. A directory under `run` when unset.
        root: Option<PathBuf> = None, absolute_if_set();
    }
}

choice! {
    /// Which runtime another one is like.
    HandlerKind {
        /// crun.
        Crun = "crun",
        /// runc.
        Runc = "runc",
        /// Any other: only what all OCI runtimes share is used.
        Other = "other",
    }
}

section! {
    /// Control groups.
    Cgroup {
        /// Who makes the pods' cgroups. The kubelet asks and follows. auto is systemd where systemd is
        /// the init system, else cgroupfs.
        driver: CgroupDriver = CgroupDriver::Auto;
    }
}

choice! {
    /// Who makes the pods' cgroups.
    CgroupDriver {
        /// Decided at start by what the host runs.
        Auto = "auto",
        /// Directories in the cgroup file system.
        Cgroupfs = "cgroupfs",
        /// Slices and scopes, over D-Bus.
        Systemd = "systemd",
    }
}

section! {
    /// The process that watches over one pod.
    Monitor {
        /// Its program. When unset: beside the husk program, else /usr/libexec/husk/pod-monitor.
        path: Option<PathBuf> = None, absolute_if_set();
        /// How monitors that run get a new program, while their pods run on: with "on-start" each start
        /// of the daemon gives its own to those that run another one, with "manual" `husk
        /// upgrade-monitors` does.
        upgrade: MonitorUpgrade = MonitorUpgrade::Manual;
        /// "pod" puts it under the pod's own cgroup, so that its cost is the pod's overhead; a path
        /// such as "/husk-monitors" puts all monitors in that one.
        cgroup: MonitorCgroup = MonitorCgroup::Pod;
        /// The limit of a monitor's memory cgroup. The OCI runtime runs in it too, while it creates or
        /// starts a container.
        memory_limit: Size = Size::mib(128), none_or_within(Size::bytes(0), Size::mib(16), Size::gib(16));
        /// A log line longer than this is written in parts.
        log_line_limit: Size = Size::kib(64), within(Size::kib(1), Size::mib(1));
        /// How long the start of a line waits for its rest, before it is written as a part.
        log_flush_timeout: Duration = Duration::from_millis(200), within(Duration::from_millis(10), Duration::from_secs(60));
        /// How long an attached client may stall a container's output before it is dropped.
        attach_stall_timeout: Duration = Duration::from_secs(10), within(Duration::from_millis(100), HOUR);
    }
}

choice! {
    /// When monitors that run get a new program.
    MonitorUpgrade {
        /// When somebody asks for it.
        Manual = "manual",
        /// At each start of the daemon.
        OnStart = "on-start",
    }
}

section! {
    /// CNI.
    Network {
        /// Network configurations; the first in lexical order is used, and changes are noticed.
        conf_dir: PathBuf = PathBuf::from("/etc/cni/net.d"), absolute();
        /// Where plugins are looked for, in this order.
        bin_dirs: Vec<PathBuf> = paths(&["/opt/cni/bin", "/usr/lib/cni"]), absolute_list();
        /// How long one plugin may take.
        timeout: Duration = Duration::from_secs(60), within(SECOND, HOUR);
    }
}

section! {
    /// Pulling and storing images.
    Image {
        /// Mirrors, blocked and insecure registries, short names: containers-registries.conf(5), with
        /// its drop-ins in the directory of the same name with .d after it.
        registries_conf: PathBuf = PathBuf::from("/etc/containers/registries.conf"), absolute();
        /// Certificates by registry: containers-certs.d(5). The first directory that has the
        /// registry's host and port wins.
        certs_dirs: Vec<PathBuf> = paths(&["/etc/containers/certs.d", "/etc/docker/certs.d"]), absolute_list();
        /// Credentials for pulls that bring none: containers-auth.json(5).
        auth_file: Option<PathBuf> = None, absolute_if_set();
        /// Images that are never collected: full references; a `*` at the end stands for any ending.
        pinned: Vec<String> = Vec::new();
        /// How many layers are fetched and unpacked at once, over all pulls.
        parallel_layers: u32 = 4, within(1, 64);
        /// How long a pull may go without a byte before it fails.
        pull_progress_timeout: Duration = Duration::from_secs(60), within(SECOND, HOUR);
        /// The largest manifest, image index or image configuration that is read.
        manifest_limit: Size = Size::mib(4), within(Size::kib(64), Size::mib(64));
        /// The largest size of one layer as it is fetched.
        layer_fetch_limit: Size = Size::gib(32), within(Size::mib(1), Size::gib(1024));
        /// The largest size of one layer, unpacked.
        layer_limit: Size = Size::gib(64), within(Size::mib(1), Size::gib(4096));
        /// The most files of one layer.
        layer_files_limit: u64 = 4_000_000, within(1_000, 100_000_000);
        /// How many times larger than fetched a layer may unpack to. gzip reaches about 1000, honest
        /// layers stay below 100.
        layer_ratio_limit: u64 = 500, within(10, 100_000);
        /// The largest size of one image's layers that are not in the store yet, unpacked.
        image_limit: Size = Size::gib(128), within(Size::mib(1), Size::gib(16_384));
    }
}

section! {
    /// The HTTP server for exec, attach and port-forward, which the kubelet connects to.
    Streaming {
        /// Where it listens; port 0 takes a free one. Anything but a loopback address needs TLS.
        address: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        /// The server's certificate chain, PEM. Set together with tls_key.
        tls_cert: Option<PathBuf> = None, absolute_if_set();
        /// The certificate's private key, PEM.
        tls_key: Option<PathBuf> = None, absolute_if_set();
        /// How long a session may be without traffic before it is ended.
        idle_timeout: Duration = Duration::from_secs(4 * 3600), within(SECOND, DAY);
        /// How long the address that the kubelet is given may be used, once.
        token_timeout: Duration = Duration::from_secs(60), within(SECOND, HOUR);
    }
}

section! {
    /// Bounds of the CRI server.
    Limits {
        /// The largest gRPC message. The kubelet itself reads at most 16 MiB.
        grpc_message: Size = Size::mib(16), within(Size::mib(1), Size::mib(256));
        /// Calls that one connection may have in flight.
        grpc_streams: u32 = 1024, within(16, 65_536);
        /// What is kept of each of ExecSync's two outputs; the rest is discarded.
        exec_sync_output: Size = Size::mib(16), within(Size::kib(1), Size::mib(16));
    }
}

section! {
    /// What a container gets when its pod does not say otherwise.
    Defaults {
        /// Resource limits, as in { nofile = "1024:524288", core = 0 }. Unset ones are the daemon's.
        rlimits: Rlimits = Rlimits::default();
        /// Sysctls of the pod's own namespaces, as in { "net.ipv4.ping_group_range" = "0 2147483647" }.
        sysctls: Sysctls = Sysctls::default();
        /// The seccomp profile that RuntimeDefault means, as JSON. The built-in one when unset.
        seccomp_profile: Option<PathBuf> = None, absolute_if_set();
        /// Capabilities of a container that adds and drops none.
        capabilities: Capabilities = Capabilities::of(&[
            "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
            "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
        ]);
        /// Processes and threads of one container.
        pids_limit: u64 = 0, none_or_within(0, 16, 4_194_304);
    }
}

section! {
    /// Plugins of the Node Resource Interface, which adjust containers.
    Nri {
        /// Whether there may be any. Where none is connected, nothing is done for them.
        enable: bool = true;
        /// The unix socket that plugins connect to. Whoever can is root on the node.
        socket: PathBuf = PathBuf::from("/var/run/nri/nri.sock"), socket();
        /// Programs named NN-name, which are started as plugins and are told of events in this order.
        plugin_dir: PathBuf = PathBuf::from("/opt/nri/plugins"), absolute();
        /// Their configurations, NN-name.conf or name.conf, of which they are told the text.
        plugin_config_dir: PathBuf = PathBuf::from("/etc/nri/conf.d"), absolute();
        /// The classes of block I/O that plugins may give containers, as goresctrl has them. None when
        /// unset. Read when the daemon starts.
        blockio_config_file: Option<PathBuf> = None, absolute_if_set();
        /// How long a plugin may take to register, and again to take in the pods and containers that there
        /// are. New ones wait meanwhile.
        registration_timeout: Duration = Duration::from_secs(5), within(Duration::from_millis(100), Duration::from_secs(60));
        /// How long a plugin may take to answer. One that takes longer is disconnected and the request
        /// goes on without it, unless it asked for something else when it was configured.
        request_timeout: Duration = Duration::from_secs(2), within(Duration::from_millis(100), Duration::from_secs(60));
    }
}

section! {
    /// Devices of vendors, by the Container Device Interface.
    Cdi {
        /// Where vendors' files are. A device of a later directory goes before one of an earlier.
        dirs: Vec<PathBuf> = paths(&["/etc/cdi", "/var/run/cdi"]), absolute_list();
    }
}

impl Config {
    /// Reads `file` and its drop-ins; without a `file`, [`DEFAULT_FILE`], which may be missing.
    ///
    /// # Errors
    /// All that is wrong with all files. Nothing is half applied: there is no configuration then.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let main = file.unwrap_or(Path::new(DEFAULT_FILE));
        let table = raw::read_files(main, file.is_some(), &mut problems);
        Self::from_table(table, problems)
    }

    /// Reads `text` as the one file, called `name` in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &Path) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let table = raw::parse(text, name, &mut problems);
        Self::from_table(table, problems)
    }

    fn from_table(table: raw::Table, mut problems: Vec<Problem>) -> Result<Self, ConfigError> {
        let mut reader = Reader::default();
        let top = Node {
            origin: Origin {
                file: Path::new("").into(),
                line: 0,
            },
            raw: raw::Raw::Table(table),
        };
        let slot = Slot {
            base: Self::default(),
            rule: None,
        };
        let config = Self::read(&mut reader, "", Some(top), slot);
        problems.extend(reader.finish());
        problems.extend(check::together(&config));
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// The configuration as a commented TOML file, which reads back as itself.
    pub fn to_toml(&self) -> String {
        let mut document = Document::default();
        let about = About {
            lines: &[],
            rule: None,
        };
        self.write(&mut document, "", about);
        document.finish()
    }
}

fn paths(list: &[&str]) -> Vec<PathBuf> {
    list.iter().map(PathBuf::from).collect()
}
