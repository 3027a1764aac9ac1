//! Where the files of pods and containers lie.

use std::path::PathBuf;

use crate::spec::SandboxFiles;

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
