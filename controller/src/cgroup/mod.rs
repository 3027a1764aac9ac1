//! Where cgroups are: the pod's parent, the container's, the monitor's own.
//!
//! The OCI runtime makes and limits the containers' cgroups. This module names them, makes the one
//! of the monitor (its cost is the pod's overhead), limits a pod whose cgroup is ours, and removes what it made. On cgroup v1 a cgroup
//! is a directory in each of several hierarchies, on v2 a single one.
//!
//! Deliberately absent: statistics (`stats/`), limits of containers.

mod kill;
mod limits;
mod parent;
mod systemd;
mod walk;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::spec::{CgroupFacts, CgroupPath, CgroupVersion};

pub use parent::ParentError;
pub use systemd::{ScopeError, Systemd};
pub use walk::below;

/// Who makes cgroups.
#[derive(Debug, Clone)]
pub enum Driver {
    /// Directories in the cgroup file system.
    Cgroupfs,
    /// Scopes in slices, over D-Bus.
    Systemd(Systemd),
}

/// The hierarchies of v1 that a monitor is accounted in.
const MONITOR_HIERARCHIES: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
/// The controllers of v2 that account and limit a monitor.
const MONITOR_CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// What pods without a cgroup parent of their own live under.
const OWN_PARENT: &str = "husk";
const OWN_SLICE: &str = "husk.slice";
/// What crun calls the cgroup below a scope.
const CRUNS_CGROUP: &str = "container";

/// The node's cgroups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    driver: Driver,
    version: CgroupVersion,
    /// Every mounted hierarchy's root; one on v2.
    roots: Vec<PathBuf>,
    monitors: Monitors,
}

/// Where the monitors' own cgroups are, and what they may use.
#[derive(Debug, Clone, Default)]
pub struct Monitors {
    /// One parent for all of them, instead of each pod's.
    pub parent: Option<String>,
    /// Bytes of memory of each; 0 is no limit.
    pub memory_limit: u64,
}

/// The monitor's cgroup of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorCgroup {
    /// Directories, one per hierarchy, relative to whose roots this is.
    Directory(PathBuf),
    /// A scope that is made once the monitor's pid is known.
    Scope {
        /// The slice it is in.
        slice: String,
        /// Its unit name.
        name: String,
    },
}

impl Cgroups {
    /// Cgroups below `mount`, as the kernel mounts them at `/sys/fs/cgroup`.
    ///
    /// # Errors
    /// When the mount point cannot be listed.
    pub fn new(
        mount: &Path,
        facts: &CgroupFacts,
        driver: Driver,
        monitors: Monitors,
    ) -> io::Result<Self> {
        let roots = match facts.version {
            CgroupVersion::V2 => vec![mount.to_owned()],
            CgroupVersion::V1 => v1_roots(mount)?,
        };
        Ok(Self {
            driver,
            version: facts.version,
            roots,
            monitors,
        })
    }

    /// Whether systemd makes the cgroups.
    pub fn systemd(&self) -> Option<&Systemd> {
        match &self.driver {
            Driver::Systemd(systemd) => Some(systemd),
            Driver::Cgroupfs => None,
        }
    }

    /// Who makes the cgroups.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The interface in use.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The parent of a pod's cgroups: the kubelet's wish, or one of our own.
    pub fn parent(&self, requested: &str, pod: &str) -> String {
        match (&self.driver, requested) {
            (Driver::Cgroupfs, "") => format!("/{OWN_PARENT}/{pod}"),
            (Driver::Systemd(_), "") => OWN_SLICE.into(),
            (_, parent) => parent.into(),
        }
    }

    /// Whether the parent was made for one pod by us.
    fn is_own(parent: &str) -> bool {
        Path::new(parent)
            .strip_prefix("/")
            .is_ok_and(|path| path.starts_with(OWN_PARENT))
    }

    /// A container's cgroup, for its spec.
    pub fn container(&self, parent: &str, id: &str) -> CgroupPath {
        match &self.driver {
            Driver::Cgroupfs => CgroupPath::Cgroupfs(Path::new(parent).join(id)),
            Driver::Systemd(_) => CgroupPath::Systemd {
                slice: parent::slice(parent),
                prefix: OWN_PARENT.into(),
                name: id.into(),
            },
        }
    }

    /// What the monitor's cgroup of a new pod is below: the operator's setting, or the pod's parent.
    pub fn monitor_parent(&self, pod_parent: &str) -> String {
        let own = self.monitors.parent.as_deref();
        own.unwrap_or(pod_parent).to_owned()
    }

    /// The monitor's cgroup of a pod. `parent` is what [`Self::monitor_parent`] said when the pod
    /// was made: the setting may have changed since.
    pub fn monitor(&self, parent: &str, pod: &str) -> MonitorCgroup {
        match &self.driver {
            Driver::Cgroupfs => {
                MonitorCgroup::Directory(relative(parent).join(format!("pod-monitor-{pod}")))
            }
            Driver::Systemd(_) => MonitorCgroup::Scope {
                slice: parent::slice_of_name(parent),
                name: format!("pod-monitor-{pod}.scope"),
            },
        }
    }

    /// Makes the directories of a monitor's cgroup and answers the files by which it enters them.
    ///
    /// # Errors
    /// When a directory cannot be made. A memory limit that the kernel refuses is only logged.
    pub fn make(&self, cgroup: &MonitorCgroup) -> io::Result<Vec<PathBuf>> {
        let MonitorCgroup::Directory(path) = cgroup else {
            return Ok(Vec::new());
        };
        let mut procs = Vec::new();
        for root in self.monitor_roots() {
            let directory = root.join(path);
            std::fs::create_dir_all(&directory)?;
            if self.version == CgroupVersion::V2 {
                enable_controllers(root, path);
            }
            procs.push(directory.join(self.entry()));
            self.limit(&directory);
        }
        Ok(procs)
    }

    /// What a process that is about to be a monitor writes itself to. It has one thread, and on v1
    /// that thread can move alone, which the kernel does at once. For whole processes it keeps all
    /// others from forking first, and waits some milliseconds until they know
    /// (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c).
    fn entry(&self) -> &'static str {
        match self.version {
            CgroupVersion::V1 => "tasks",
            CgroupVersion::V2 => "cgroup.procs",
        }
    }

    fn limit(&self, directory: &Path) {
        let name = match self.version {
            CgroupVersion::V1 => "memory.limit_in_bytes",
            CgroupVersion::V2 => "memory.max",
        };
        let file = directory.join(name);
        if self.monitors.memory_limit == 0 {
            return;
        }
        if !file.exists() {
            // On v1 only the hierarchy of the memory controller has the file.
            if self.version == CgroupVersion::V2 {
                warn_of_no_limit(&file);
            }
            return;
        }
        if let Err(error) = std::fs::write(&file, self.monitors.memory_limit.to_string()) {
            tracing::warn!(%error, file = %file.display(), "the monitor's memory is not limited");
        }
    }

    fn monitor_roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().filter(|root| {
            self.version == CgroupVersion::V2
                || MONITOR_HIERARCHIES.iter().any(|name| has(root, name))
        })
    }

    /// Removes a monitor's cgroup, and the pod's parent where that was ours. A cgroup that still
    /// has a process is left, and reported.
    ///
    /// # Errors
    /// The first directory that cannot be removed for another reason than being gone.
    pub fn remove(&self, cgroup: &MonitorCgroup, parent: &str) -> io::Result<()> {
        let mut outcome = Ok(());
        if let MonitorCgroup::Directory(path) = cgroup {
            for root in self.monitor_roots() {
                outcome = outcome.and(remove_directory(&root.join(path)));
            }
        }
        if Self::is_own(parent) {
            for root in &self.roots {
                outcome = outcome.and(remove_tree(&root.join(relative(parent))));
                // The parent of all our pods goes with the last of them.
                let _ = remove_directory(&root.join(OWN_PARENT));
            }
        }
        outcome
    }

    /// Where a container's cgroup is below each hierarchy's root.
    pub fn container_path(&self, parent: &str, id: &str) -> PathBuf {
        match self.container(parent, id) {
            CgroupPath::Cgroupfs(path) => relative(&path.to_string_lossy()),
            CgroupPath::Systemd {
                slice,
                prefix,
                name,
            } => systemd::slice_path(&slice).join(format!("{prefix}-{name}.scope")),
        }
    }

    /// Where the limits and the processes of a running container are: with systemd on version 2, crun as
    /// Debian has it puts them into a cgroup below the scope (`run.oci.systemd.subgroup` in crun(1)). A
    /// container that may write to its cgroups can make it look so, and is measured there; it is
    /// privileged, and root on the node.
    pub fn inner_path(&self, parent: &str, id: &str) -> PathBuf {
        let path = self.container_path(parent, id);
        let inner = path.join(CRUNS_CGROUP);
        let is_inner = self.version == CgroupVersion::V2
            && self.systemd().is_some()
            && self.roots.first().is_some_and(|root| {
                let procs = std::fs::read_to_string(root.join(&path).join("cgroup.procs"));
                root.join(&inner).is_dir() && procs.is_ok_and(|procs| procs.is_empty())
            });
        if is_inner { inner } else { path }
    }

    /// Where a pod's cgroup parent is below each hierarchy's root.
    pub fn parent_path(&self, parent: &str) -> PathBuf {
        match &self.driver {
            Driver::Cgroupfs => relative(parent),
            Driver::Systemd(_) => systemd::slice_path(&parent::slice(parent)),
        }
    }

    /// The root of the hierarchy that a controller is in: on version 2 always the only one.
    pub fn root(&self, controller: &str) -> Option<&Path> {
        let root = match self.version {
            CgroupVersion::V1 => self.roots.iter().find(|root| has(root, controller)),
            CgroupVersion::V2 => self.roots.first(),
        };
        root.map(PathBuf::as_path)
    }
}

/// The mounted v1 hierarchies: directories with a `cgroup.procs`, symbolic links left out.
fn v1_roots(mount: &Path) -> io::Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for entry in std::fs::read_dir(mount)? {
        let entry = entry?;
        let path = entry.path();
        let hierarchy = entry.file_type()?.is_dir()
            && path.join("cgroup.procs").exists()
            && !path.join("cgroup.controllers").exists();
        if hierarchy {
            roots.push(path);
        }
    }
    roots.sort();
    Ok(roots)
}

fn relative(parent: &str) -> PathBuf {
    Path::new(parent.trim_start_matches('/')).to_owned()
}

/// Whether a v1 hierarchy has a controller: co-mounted ones are named with commas between.
fn has(root: &Path, controller: &str) -> bool {
    let name = root.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.split(',').any(|part| part == controller))
}

/// Lets the controllers reach a cgroup of v2, which each cgroup above must hand down
/// (cgroup-v2.rst, "Enabling and Disabling"). One that refuses costs only the accounting.
fn enable_controllers(root: &Path, path: &Path) {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for directory in above.into_iter().map(|path| root.join(path)) {
        let words = |file| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        let (available, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let listed = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        // One by one: a refused controller would take the others with it.
        for name in MONITOR_CONTROLLERS {
            if !listed(&available, name) || listed(&enabled, name) {
                continue;
            }
            let written = write_existing(&directory, "cgroup.subtree_control", &format!("+{name}"));
            if let Err(error) = written {
                tracing::debug!(%error, cgroup = %directory.display(), name, "a controller is not enabled");
            }
        }
    }
}

/// Says once that monitors run without their limit, as it would be said for every pod.
fn warn_of_no_limit(file: &Path) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(file = %file.display(), "monitors' memory is not limited: no memory controller");
    });
}

/// Writes to a file of the kernel's; it is never made.
fn write_existing(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(directory.join(file))?
        .write_all(value.as_bytes())
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a cgroup and those below it, the deepest first. One with a process in it stays, with those
/// that it is in, and is the error; the rest is removed.
fn remove_tree(top: &Path) -> io::Result<()> {
    let tree: Vec<_> = walk::tree(top).collect();
    let removed = tree.iter().rev().map(|path| remove_directory(path));
    removed.fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests;
