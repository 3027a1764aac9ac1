//! The records of version 1, as they lie in the database.
//!
//! Protobuf, because the kubelet's own messages are kept inside as they came: fields may be added
//! with new numbers; a number is never reused and a meaning never changed.
//!
//! Records stay in memory for as long as their pods exist, and most of one is what the kubelet
//! sent, which is needed seldom. So that stays encoded there too, which takes a fraction of the room.

use husk_cri_api::v1;
use prost::{DecodeError, Message};

use crate::cgroup::{Cgroups, MonitorCgroup};

/// A pod sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// As the kubelet sent it: see [`Self::config`].
    #[prost(bytes = "vec", required, tag = "2")]
    pub packed_config: Vec<u8>,
    /// The runtime handler asked for; empty is the default one.
    #[prost(string, tag = "3")]
    pub handler: String,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// False once the sandbox was stopped or lost what it consists of.
    #[prost(bool, tag = "5")]
    pub ready: bool,
    /// Addresses in the order the network gave them; the first is the primary one.
    #[prost(string, repeated, tag = "6")]
    pub addresses: Vec<String>,
    /// The cgroup parent in use, also when the kubelet named none.
    #[prost(string, tag = "7")]
    pub cgroup_parent: String,
    /// The first process of a shared PID namespace, 0 where there is none.
    #[prost(uint32, tag = "8")]
    pub init_pid: u32,
    /// Why the sandbox is not ready, where that was not asked for.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// Whether a stop has left nothing of it on the node.
    #[prost(bool, tag = "10")]
    pub clean: bool,
    /// What its monitor's cgroup is below; empty in records of older releases, where the
    /// configuration in force says so.
    #[prost(string, tag = "11")]
    pub monitor_parent: String,
    /// The resources of the whole pod now in force, where they were updated.
    #[prost(message, optional, boxed, tag = "12")]
    pub resources: Option<Box<v1::LinuxContainerResources>>,
    /// The overhead now in force, where it was updated.
    #[prost(message, optional, boxed, tag = "13")]
    pub overhead: Option<Box<v1::LinuxContainerResources>>,
    /// What the pod's monitor was started with, as a message of its contract: another monitor needs
    /// the same. Empty in records of before it was kept.
    #[prost(bytes = "vec", tag = "14")]
    pub monitor: Vec<u8>,
    /// How often another monitor had to take the pod over.
    #[prost(uint32, tag = "15")]
    pub monitor_restarts: u32,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The pod it belongs to.
    #[prost(string, tag = "2")]
    pub pod_id: String,
    /// As the kubelet sent it: see [`Self::config`].
    #[prost(bytes = "vec", required, tag = "3")]
    pub packed_config: Vec<u8>,
    /// The image's id, `sha256:…`.
    #[prost(string, tag = "4")]
    pub image_id: String,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "5")]
    pub created_at: i64,
    /// Where the output goes; empty when nowhere.
    #[prost(string, tag = "6")]
    pub log_path: String,
    /// The user the first process was started as.
    #[prost(message, optional, tag = "7")]
    pub user: Option<v1::ContainerUser>,
    /// The signal a stop sends, by number.
    #[prost(uint32, tag = "8")]
    pub stop_signal: u32,
    /// The image as registries know it: a reference with its digest, or the id where none did.
    #[prost(string, tag = "12")]
    pub image_ref: String,
    /// The resources now in force; those of the configuration may have been updated since. See
    /// [`Self::resources`].
    #[prost(bytes = "vec", optional, tag = "13")]
    pub packed_resources: Option<Vec<u8>>,
    /// The ids of the images that its mounts show, in the order of those mounts.
    #[prost(string, repeated, tag = "14")]
    pub mounted_images: Vec<String>,
    /// The inode numbers of the pipes that are its standard input, output and error; 0 where there is
    /// none. By them what is left of a pipe is known for its own.
    #[prost(uint64, repeated, tag = "15")]
    pub pipes: Vec<u64>,
    /// Where its life stands.
    #[prost(oneof = "ContainerState", tags = "9, 10, 11")]
    pub state: Option<ContainerState>,
}

/// Where a container's life stands.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ContainerState {
    /// Made, its program not started.
    #[prost(message, tag = "9")]
    Created(Created),
    /// The program runs.
    #[prost(message, tag = "10")]
    Running(Running),
    /// The program ended, or never could start.
    #[prost(message, tag = "11")]
    Exited(Exited),
}

/// Data of a container that was not started.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Created {
    /// The process that waits to become the program.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Whether its program is what a checkpoint has. Before its start no monitor knows of it, and there
    /// is no process.
    #[prost(bool, tag = "2")]
    pub restores: bool,
}

/// Data of a container that runs.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Running {
    /// Its first process.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub started_at: i64,
}

/// Data of a container that ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exited {
    /// Nanoseconds since the epoch; 0 when it never ran.
    #[prost(int64, tag = "1")]
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub finished_at: i64,
    /// As a shell counts: 128 plus the signal's number for a signalled process.
    #[prost(int32, tag = "3")]
    pub code: i32,
    /// One word for machines, such as `Completed`, `Error`, `OOMKilled`.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// The cause for people, where there is more to say.
    #[prost(string, tag = "5")]
    pub message: String,
}

/// A message of the kubelet's as records keep it.
pub fn pack(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

/// Records are checked when they are read, so that nothing is left to be refused later.
fn unpack<M: Message + Default>(packed: &[u8]) -> M {
    M::decode(packed).unwrap_or_default()
}

/// A record that keeps a message of the kubelet's.
pub trait Packed {
    /// Whether that message can be read.
    ///
    /// # Errors
    /// What does not decode.
    fn check(&self) -> Result<(), DecodeError>;
}

impl Packed for PodRecord {
    fn check(&self) -> Result<(), DecodeError> {
        v1::PodSandboxConfig::decode(&*self.packed_config).map(drop)
    }
}

impl Packed for ContainerRecord {
    fn check(&self) -> Result<(), DecodeError> {
        v1::ContainerConfig::decode(&*self.packed_config)?;
        let resources = self.packed_resources.as_deref().unwrap_or_default();
        v1::LinuxContainerResources::decode(resources).map(drop)
    }
}

impl PodRecord {
    /// What the kubelet sent, decoded anew: who needs more than one thing of it keeps it.
    pub fn config(&self) -> v1::PodSandboxConfig {
        unpack(&self.packed_config)
    }

    /// The monitor's cgroup.
    pub fn monitor_cgroup(&self, cgroups: &Cgroups) -> MonitorCgroup {
        if self.monitor_parent.is_empty() {
            let parent = cgroups.monitor_parent(&self.cgroup_parent);
            return cgroups.monitor(&parent, &self.id);
        }
        cgroups.monitor(&self.monitor_parent, &self.id)
    }

    /// The pod's resources and its overhead: as last updated, or as the kubelet sent them first.
    pub fn limits(&self) -> (v1::LinuxContainerResources, v1::LinuxContainerResources) {
        let first = self.config().linux.unwrap_or_default();
        let updated = |limits: &Option<Box<_>>| limits.as_deref().cloned();
        let resources = updated(&self.resources).or(first.resources);
        let overhead = updated(&self.overhead).or(first.overhead);
        (resources.unwrap_or_default(), overhead.unwrap_or_default())
    }
}

impl ContainerRecord {
    /// What the kubelet sent, decoded anew: who needs more than one thing of it keeps it.
    pub fn config(&self) -> v1::ContainerConfig {
        unpack(&self.packed_config)
    }

    /// The resources now in force, where anything is known of them.
    pub fn resources(&self) -> Option<v1::LinuxContainerResources> {
        self.packed_resources.as_deref().map(unpack)
    }

    /// The state; a record without one (damaged, or of a newer version) counts as ended.
    pub fn state(&self) -> ContainerState {
        self.state.clone().unwrap_or_else(|| {
            ContainerState::Exited(Exited {
                code: 255,
                reason: "Unknown".into(),
                ..Exited::default()
            })
        })
    }

    /// The first process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        let pid = match &self.state {
            Some(ContainerState::Created(created)) => created.pid,
            Some(ContainerState::Running(running)) => running.pid,
            Some(ContainerState::Exited(_)) | None => 0,
        };
        (pid > 0).then_some(pid)
    }

    /// Whether no monitor knows of it yet, since its start restores it.
    pub fn awaits_restore(&self) -> bool {
        matches!(&self.state, Some(ContainerState::Created(created)) if created.restores)
    }

    /// Whether the program runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, Some(ContainerState::Running(_)))
    }

    /// Its state, for people.
    pub fn state_word(&self) -> &'static str {
        match &self.state {
            Some(ContainerState::Created(_)) => "created",
            Some(ContainerState::Running(_)) => "running",
            Some(ContainerState::Exited(_)) => "exited",
            None => "unknown",
        }
    }

    /// Whether nothing of it is alive.
    pub fn is_exited(&self) -> bool {
        matches!(self.state, Some(ContainerState::Exited(_)) | None)
    }

    /// The name and attempt that the kubelet knows it by within its pod.
    pub fn key(&self) -> (String, u32) {
        let metadata = self.config().metadata.unwrap_or_default();
        (metadata.name, metadata.attempt)
    }
}
