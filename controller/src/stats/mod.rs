//! What containers and pods use: CPU, memory, swap, pressure, disk, network.
//!
//! ```text
//!   cri/ ── question ──▶ Stats ──▶ one short-lived thread ──▶ cgroup files, kept open (files.rs)
//!    ▲                    │                             └──▶ each pod's network namespace
//!    └──── usages ◀───────┴──▶ disk.rs: walks root file systems, remembers what it found
//! ```
//! Everything is read when it is asked for; nothing polls. A question is answered by one thread of
//! its own, because it goes from one network namespace into the next, which no thread of the runtime
//! may, and because its reads are system calls that need no runtime. It asks no process and takes no
//! lock that another operation holds for long, so a frozen or dying container delays nobody: what it
//! has no longer is left out of the answer.
//!
//! A pod's numbers are those of its cgroup parent, which is the pod's own under a kubelet. Where
//! several pods share a parent they are the sum over the pod's containers.
//!
//! Deliberately absent: monitors (they know nothing that a cgroup file does not), CRI answers
//! (`cri/`), timers, history beyond the last two samples of CPU time.

mod cgroup;
mod disk;
mod files;
mod network;
mod parse;
mod process;
mod usage;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use husk_cri_api::v1::NamespaceMode;
use husk_image::Images;
use tokio::sync::{OnceCell, oneshot};

pub use disk::{FileSystem, Written};
pub use parse::{DeviceIo, Interface, Pressure, Psi, Traffic};
pub use usage::{Cpu, Details, HugePages, Memory, NetworkUsage, Usage};

use crate::cgroup::Cgroups;
use crate::clock::now;
use crate::directories::Directories;
use crate::store::v1::ContainerRecord;
use crate::view::{PodPhase, PodView};
use cgroup::{Meter, Pool};
use disk::Disk;
use files::{CgroupFiles, Desk, Kept};

/// Files of cgroups that may stay open; beyond it they are opened each time.
const KEPT_FILES: usize = 8192;
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// No thread.
    #[error("starting a thread that reads statistics")]
    Thread(#[source] io::Error),
    /// The thread ended without an answer.
    #[error("the thread that reads statistics ended early")]
    Lost,
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Containers only.
    Containers,
    /// Pods too, with their network.
    Pods,
    /// All that metrics tell.
    Metrics,
}

/// A pod to measure.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The pod.
    pub pod: Arc<PodView>,
    /// Those of its containers that are wanted.
    pub containers: Vec<Arc<ContainerRecord>>,
    /// Whether no other pod has the same cgroup parent.
    pub own_parent: bool,
}

/// A pod that was measured.
#[derive(Debug)]
pub struct PodUsage {
    /// As it was asked for.
    pub pod: Arc<PodView>,
    /// Its cgroup, where pods were asked for.
    pub usage: Usage,
    /// Its network; absent on the node's own.
    pub network: Option<NetworkUsage>,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
}

/// A container that was measured.
#[derive(Debug)]
pub struct ContainerUsage {
    /// As it was asked for.
    pub record: Arc<ContainerRecord>,
    /// Its cgroup.
    pub usage: Usage,
    /// Its root file system.
    pub written: Option<Written>,
    /// Where metrics were asked for.
    pub details: Option<Details>,
}

/// Where numbers come from.
#[derive(Debug)]
pub struct Sources {
    /// Where cgroups are.
    pub cgroups: Cgroups,
    /// The sizes of huge pages that the host accounts for.
    pub hugepage_sizes: BTreeSet<String>,
    /// Where pods pin their network namespaces.
    pub directories: Directories,
    /// Root file systems.
    pub images: Images,
}

/// Measures, and remembers what makes the next time cheap.
#[derive(Debug)]
pub struct Stats {
    sources: Arc<Sources>,
    meters: Arc<Meters>,
    disk: Disk,
    mountpoint: OnceCell<String>,
}

impl Stats {
    /// Nothing is read yet.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources: Arc::new(sources),
            meters: Arc::default(),
            disk: Disk::default(),
            mountpoint: OnceCell::new(),
        }
    }

    /// Answers a question about some pods, in their order.
    ///
    /// # Errors
    /// [`StatsError`]; what cannot be read of one container is only left out.
    pub async fn measure(
        &self,
        asked: Vec<Asked>,
        depth: Depth,
    ) -> Result<Vec<PodUsage>, StatsError> {
        let (answer, wait) = oneshot::channel();
        let (meters, sources) = (self.meters.clone(), self.sources.clone());
        let thread = std::thread::Builder::new()
            .name("stats".into())
            .stack_size(256 << 10);
        thread
            .spawn(move || answer.send(meters.read(&sources, asked, depth)))
            .map_err(StatsError::Thread)?;
        let mut pods = wait.await.map_err(|_| StatsError::Lost)?;
        let ids: Vec<&str> = pods
            .iter()
            .flat_map(|pod| &pod.containers)
            .map(|container| container.record.id.as_str())
            .collect();
        self.disk.renew(&self.sources.images, &ids).await;
        for container in pods.iter_mut().flat_map(|pod| &mut pod.containers) {
            container.written = self.disk.written(&container.record.id);
        }
        Ok(pods)
    }

    /// The directory whose file system root file systems are on.
    pub async fn mountpoint(&self) -> &str {
        let found = self.mountpoint.get_or_try_init(|| async {
            let usage = self.sources.images.usage().await?;
            Ok::<_, husk_image::StoreError>(usage.mountpoint.to_string_lossy().into_owned())
        });
        found.await.map_or("", String::as_str)
    }

    /// The file system that root file systems are on.
    pub async fn file_system(&self) -> FileSystem {
        let path = self.mountpoint().await.to_owned();
        // A file system may be a network's.
        let asked = tokio::task::spawn_blocking(move || FileSystem::of(&path));
        asked.await.unwrap_or_default()
    }

    /// Notes how many bytes of a container's output its log lacks by now.
    pub fn note_log_lost(&self, id: &str, bytes: u64) {
        lock(&self.meters.log_lost).insert(id.to_owned(), bytes);
    }

    /// Closes the files of a container or pod that ended.
    pub fn close(&self, id: &str) {
        lock(&self.meters.table).remove(id);
        lock(&self.meters.interfaces).remove(id);
    }

    /// Forgets a container that is gone.
    pub fn forget(&self, id: &str) {
        self.close(id);
        lock(&self.meters.log_lost).remove(id);
        self.disk.forget(id);
    }
}

#[derive(Debug)]
struct Meters {
    /// By the id of the container or pod.
    table: Mutex<HashMap<String, Arc<Mutex<Meter>>>>,
    /// The interface with the default route, by the pod's id.
    interfaces: Mutex<HashMap<String, String>>,
    /// Bytes that logs lack, by the container's id; most have no entry.
    log_lost: Mutex<HashMap<String, u64>>,
    kept: Arc<Kept>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            interfaces: Mutex::default(),
            log_lost: Mutex::default(),
            kept: Arc::new(Kept::new(KEPT_FILES)),
        }
    }
}

impl Meters {
    /// On a thread that ends right after: it may be in another network namespace then.
    fn read(&self, sources: &Sources, asked: Vec<Asked>, depth: Depth) -> Vec<PodUsage> {
        let mut desk = Desk::new(&sources.cgroups);
        let pool = if depth == Depth::Metrics {
            let sizes = sources.hugepage_sizes.iter();
            Pool::look(Path::new(HUGE_PAGES), sizes.cloned().collect())
        } else {
            Pool::default()
        };
        let mut reading = Reading {
            meters: self,
            sources,
            desk: &mut desk,
            depth,
            pool: &pool,
        };
        asked.into_iter().map(|pod| reading.pod(pod)).collect()
    }

    fn meter(&self, id: &str, path: impl FnOnce() -> PathBuf) -> Arc<Mutex<Meter>> {
        let mut table = lock(&self.table);
        if let Some(meter) = table.get(id) {
            return meter.clone();
        }
        let files = CgroupFiles::new(path(), self.kept.clone());
        let meter = Arc::new(Mutex::new(Meter::new(files)));
        table.insert(id.to_owned(), meter.clone());
        meter
    }
}

/// One question being answered.
struct Reading<'a, 'd> {
    meters: &'a Meters,
    sources: &'a Sources,
    desk: &'a mut Desk<'d>,
    depth: Depth,
    pool: &'a Pool,
}

impl Reading<'_, '_> {
    fn pod(&mut self, asked: Asked) -> PodUsage {
        let pod = asked.pod;
        let containers = asked.containers.into_iter();
        let containers: Vec<_> = containers
            .map(|record| self.container(&pod, record))
            .collect();
        let (usage, network) = match self.depth {
            Depth::Containers => (Usage::default(), None),
            Depth::Pods | Depth::Metrics => {
                let parts = containers.iter().map(|container| &container.usage);
                let usage = if asked.own_parent {
                    self.parent(&pod)
                } else {
                    Usage::sum(now(), parts)
                };
                (usage, self.network(&pod))
            }
        };
        PodUsage {
            pod,
            usage,
            network,
            containers,
        }
    }

    fn parent(&mut self, pod: &PodView) -> Usage {
        let (id, parent) = (&pod.record.id, &pod.record.cgroup_parent);
        let cgroups = &self.sources.cgroups;
        let meter = self.meters.meter(id, || cgroups.parent_path(parent));
        let mut meter = lock(&meter);
        let tasks = meter.tasks(self.desk);
        Usage {
            tasks,
            ..meter.usage(self.desk, now())
        }
    }

    fn container(&mut self, pod: &PodView, record: Arc<ContainerRecord>) -> ContainerUsage {
        let measured = if record.is_exited() {
            None
        } else {
            self.alive(pod, &record)
        };
        let (usage, details) = measured.unwrap_or_default();
        ContainerUsage {
            record,
            usage,
            written: None,
            details,
        }
    }

    fn alive(
        &mut self,
        pod: &PodView,
        record: &ContainerRecord,
    ) -> Option<(Usage, Option<Details>)> {
        let parent = &pod.record.cgroup_parent;
        let cgroups = &self.sources.cgroups;
        let meter = self
            .meters
            .meter(&record.id, || cgroups.inner_path(parent, &record.id));
        let mut meter = lock(&meter);
        let mut usage = meter.usage(self.desk, now());
        if usage.cpu.is_none() && usage.memory.is_none() {
            // It is gone, and its driver may have said so before this was entered.
            lock(&self.meters.table).remove(&record.id);
            return None;
        }
        // The sum over containers needs it where the pod has no cgroup to itself.
        if self.depth != Depth::Containers {
            usage.tasks = meter.tasks(self.desk);
        }
        let details = (self.depth == Depth::Metrics).then(|| {
            let mut details = meter.details(self.desk, self.pool);
            let pids = meter.processes(self.desk);
            process::describe(&pids, record.pid(), &mut details);
            let lost = lock(&self.meters.log_lost).get(&record.id).copied();
            details.log_lost = lost.unwrap_or_default();
            details
        });
        Some((usage, details))
    }

    fn network(&self, pod: &PodView) -> Option<NetworkUsage> {
        let options = crate::spec::namespace_options(&pod.record.config());
        if options.network() != NamespaceMode::Pod || pod.phase != PodPhase::Ready {
            return None;
        }
        let netns = self.sources.directories.pod(&pod.record.id).join("ns/net");
        let interfaces = network::counters(&netns)?;
        let known = lock(&self.meters.interfaces).get(&pod.record.id).cloned();
        let still = known.filter(|name| interfaces.iter().any(|it| it.name == *name));
        let default = still.or_else(|| {
            let found = network::default_interface()?;
            lock(&self.meters.interfaces).insert(pod.record.id.clone(), found.clone());
            Some(found)
        });
        Some(NetworkUsage {
            at: now(),
            default,
            interfaces,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks; if something did, the tables are whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
