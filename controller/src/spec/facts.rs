//! What the spec needs to know about the world outside of the kubelet's request, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxBlockIo, PosixRlimit};

use super::devices::ResolvedDevice;
use super::seccomp::Architecture;

/// What this host can do. Read once when the daemon starts, by `host.rs`.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// How resources are controlled.
    pub cgroups: CgroupFacts,
    /// The capabilities in our own bounding set: nobody can be given more.
    pub bounding: Vec<Capability>,
    /// Whether the kernel filters system calls.
    pub seccomp: bool,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// Whether user namespaces can be made, and mounts of all usual file systems mapped into them.
    pub user_namespaces: bool,
    /// AppArmor, where it is on.
    pub apparmor: Option<AppArmorFacts>,
    /// Limits of block I/O that the operator gave names.
    pub block_io_classes: BTreeMap<String, LinuxBlockIo>,
    /// Resource limits that every container gets; empty means those of the monitor.
    pub rlimits: Vec<PosixRlimit>,
    /// The capabilities of a container that adds and drops none.
    pub default_capabilities: Vec<Capability>,
    /// The processes and threads that one container may have; 0 is no limit.
    pub pids_limit: u64,
    /// The lowest `oom_score_adj` that we may give: −1000 with `CAP_SYS_RESOURCE`, else our own.
    pub oom_score_adj_floor: i32,
    /// The device nodes under /dev that a privileged container sees.
    pub devices: Vec<ResolvedDevice>,
    /// The processor family, for the seccomp profile.
    pub architecture: Architecture,
    /// The running kernel.
    pub kernel: KernelVersion,
    /// The node's own name.
    pub hostname: String,
}

impl HostFacts {
    /// Whether a mount and all below it can be made read-only at once, by mount_setattr(2) of
    /// Linux 5.12.
    #[must_use]
    pub fn recursive_read_only(&self) -> bool {
        (self.kernel.major, self.kernel.minor) >= (5, 12)
    }
}

/// What of an OCI runtime's abilities a container may need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// The mount option `rro`.
    pub recursive_read_only: bool,
    /// `uidMappings` and `gidMappings` of mounts.
    pub idmapped_mounts: bool,
    /// Checkpoints, and going on from one.
    pub checkpoints: bool,
}

/// The first two numbers of the kernel's release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The number before the first dot.
    pub major: u32,
    /// The number after the first dot.
    pub minor: u32,
}

/// AppArmor on a host that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppArmorFacts {
    /// The profile for containers that ask for the runtime's default, if one is loaded.
    pub default_profile: Option<String>,
}

/// Which of the two cgroup interfaces the OCI runtime writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller; also hybrid hosts, where v2 carries no resource of ours.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How this host controls resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFacts {
    /// The interface in use.
    pub version: CgroupVersion,
    /// Whether controllers are in a v2 hierarchy beside v1, which crun refuses.
    pub hybrid: bool,
    /// The controllers of the interface in use, as the kernel names them.
    pub controllers: BTreeSet<String>,
    /// Whether swap is counted.
    pub swap: bool,
    /// Hugepage sizes such as `2MB`; empty where hugetlb is not mounted.
    pub hugepage_sizes: BTreeSet<String>,
}

/// Where a container's cgroup is, in the words of the cgroup driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// A path under each hierarchy's root.
    Cgroupfs(PathBuf),
    /// A scope that systemd makes: `prefix-name.scope` in `slice`.
    Systemd {
        /// The slice's unit name.
        slice: String,
        /// What the scope's name begins with.
        prefix: String,
        /// The container's id.
        name: String,
    },
}

impl CgroupPath {
    /// The form that `linux.cgroupsPath` has; OCI runtimes split the systemd form at the colons.
    pub(super) fn to_spec(&self) -> PathBuf {
        match self {
            Self::Cgroupfs(path) => path.clone(),
            Self::Systemd {
                slice,
                prefix,
                name,
            } => format!("{slice}:{prefix}:{name}").into(),
        }
    }
}

/// The files that a pod's containers share. `None` means that nothing is mounted there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFiles {
    /// For /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// For /etc/hostname.
    pub hostname: Option<PathBuf>,
    /// For /etc/hosts; the kubelet mounts its own, other clients do not.
    pub hosts: Option<PathBuf>,
    /// For /dev/shm: the pod's tmpfs, or the host's /dev/shm where the IPC namespace is the host's.
    pub shm: Option<PathBuf>,
}

/// What an image's configuration says, untrusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// `KEY=value` entries.
    pub env: Vec<String>,
    /// The command, used where the kubelet gives none.
    pub entrypoint: Vec<String>,
    /// The arguments, used where the kubelet gives neither command nor arguments.
    pub cmd: Vec<String>,
    /// The working directory, used where the kubelet gives none.
    pub working_dir: String,
    /// Declared volumes; they stay directories of the root filesystem.
    pub volumes: Vec<String>,
    /// A signal's name or number.
    pub stop_signal: String,
}
