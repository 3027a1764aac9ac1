//! What every part of the controller works with, put together once at start.

use std::path::PathBuf;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::events;
use crate::monitors::{FdStore, Monitors};
use crate::network::Network;
use crate::spec::{HostFacts, SandboxFiles};
use crate::stats::Stats;
use crate::store::Store;

/// Shared by all pods; nothing in it changes while the controller runs.
#[derive(Debug)]
pub struct Services {
    /// The configuration, checked.
    pub config: Config,
    /// Where things lie.
    pub directories: Directories,
    /// What this host can do.
    pub host: HostFacts,
    /// The state on disk.
    pub store: Store,
    /// Images and root file systems.
    pub images: husk_image::Images,
    /// The pod network.
    pub network: Network,
    /// Pod-monitors and OCI runtimes.
    pub monitors: Monitors,
    /// systemd's store of descriptors.
    pub fd_store: FdStore,
    /// Where cgroups are.
    pub cgroups: Cgroups,
    /// Who is told of changes.
    pub events: events::Hub,
    /// The server behind exec, attach and port-forward.
    pub streaming: husk_streaming::Server,
    /// Plugins of the Node Resource Interface.
    pub nri: husk_nri::Nri,
    /// What containers and pods use.
    pub stats: Stats,
}

/// Where things lie on the node.
#[derive(Debug, Clone)]
pub struct Directories {
    /// What outlives a reboot.
    pub root: PathBuf,
    /// What ends with the boot.
    pub run: PathBuf,
}

impl Directories {
    /// The run directory of a pod: its monitor's sockets, namespaces, files, bundles.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.pods().join(id)
    }

    /// The parent of all pods' run directories.
    pub fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// A container's bundle: `config.json`, and `process.json` for exec.
    pub fn bundle(&self, pod: &str, container: &str) -> PathBuf {
        self.pod(pod).join("containers").join(container)
    }

    /// The pod's tmpfs for shared memory.
    pub fn shm(&self, pod: &str) -> PathBuf {
        self.pod(pod).join("shm")
    }

    /// Where the files are that a pod shares with its containers. Says nothing of whether they exist.
    pub fn shared_files(&self, pod: &str, host_ipc: bool) -> SandboxFiles {
        let directory = self.pod(pod);
        SandboxFiles {
            resolv_conf: Some(directory.join("resolv.conf")),
            hostname: Some(directory.join("hostname")),
            hosts: Some(directory.join("hosts")),
            shm: Some(if host_ipc {
                PathBuf::from("/dev/shm")
            } else {
                self.shm(pod)
            }),
        }
    }
}
