//! What every part of the controller works with, put together once at start.

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::directories::Directories;
use crate::events;
use crate::monitors::{FdStore, Monitors};
use crate::network::Network;
use crate::spec::HostFacts;
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
