//! The runtime side of CNI: attaches pods to the node's network and takes them off again.
//!
//! ```text
//!   pod driver ── add / del / check / gc ──▶ Network
//!                                             │  config   which plugins, in which order (pure)
//!   conf_dir ── inotify ──▶ watch ──────────▶ │  args     environment and stdin of a call (pure)
//!                                             │  chain    runs a list of plugins: ADD forth, DEL back
//!   cache_dir ◀── what was attached, how ───▶ │  invoke   starts one plugin, bounded in time and bytes
//!                                             ▼  result   the plugin's answer, all versions (pure)
//!                                     plugin processes in bin_dirs
//! ```
//!
//! Owned here: the choice of the network configuration, the plugin calls, the loopback interface of
//! a pod and the cache of attachments, by which DEL works after the controller was restarted and
//! after the configuration was changed or removed.
//!
//! An attachment goes through these states, all of them visible in the cache directory:
//! no file (not attached) → a file without a result (ADD was begun) → a file with a result
//! (attached) → no file. A file without a result is what a crash in the middle of ADD leaves
//! behind; DEL and GC treat it like an attachment, so addresses do not leak.
//!
//! Calls for the same pod must not overlap: the task that owns the pod sees to that. Calls for
//! different pods run side by side. [`Network::gc`] waits for running calls and holds new ones
//! back, because a plugin would take an address that is just being handed out for a leak.
//!
//! Deliberately absent: making network namespaces (the pod-monitor does), several networks per pod
//! (a meta plugin's job), hostPort rules of our own (the portmap plugin's job), CNI before 0.3.0,
//! plugins loaded from a folder named after the network, and any network for host-network pods:
//! nobody calls this module for them.

mod args;
mod attach;
mod cache;
mod chain;
mod config;
mod error;
mod failure;
#[cfg(fuzzing)]
pub mod fuzz;
mod invoke;
mod loopback;
mod namespace;
mod readiness;
mod request;
mod result;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::task::AbortHandle;

pub use self::args::Command;
pub use self::cache::CacheError;
pub use self::error::{AddError, AttachError, CheckError, DelError, Failures, GcError, OpenError};
pub use self::failure::{InvokeError, Report, Stderr};
pub use self::loopback::LoopbackError;
pub use self::namespace::{NamespaceError, within};
pub use self::readiness::Readiness;
pub use self::request::{
    Bandwidth, BandwidthError, Dns, INTERFACE, InvalidPod, PodNetwork, PortMapping, Protocol,
};
pub use self::result::{Attachment, Cidr, ResultError, Route};

use self::cache::{Cache, Entry};
use self::chain::{Chain, Target};
use self::config::NetworkList;
use self::invoke::Invoker;
use self::readiness::State;

/// Where things are and how patient to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of network configurations, usually `/etc/cni/net.d`. It need not exist yet.
    pub conf_dir: PathBuf,
    /// Directories searched for plugins, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of attachments, made when absent. It should outlive a restart of the controller.
    pub cache_dir: PathBuf,
    /// Time that one call of one plugin may take before the plugin is killed.
    pub timeout: Duration,
}

/// The node's pod network. Clones share one state.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    conf_dir: PathBuf,
    invoker: Invoker,
    cache: Cache,
    state: RwLock<State>,
    /// Shared by calls for pods, exclusive for GC: see the module's description.
    gate: tokio::sync::RwLock<()>,
    /// Pods that this process has attached and not detached. GC spares them even when its caller
    /// made up the list of valid pods before they were there.
    live: Mutex<BTreeSet<String>>,
    watcher: RwLock<Option<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let watcher = self
            .watcher
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watcher.take() {
            watcher.abort();
        }
    }
}

impl Network {
    /// Loads the configuration and starts to watch its directory in a task of the current runtime.
    ///
    /// # Errors
    /// When there is no tokio runtime, the cache directory cannot be made, or the kernel gives no
    /// inotify instance. A missing or broken configuration is no error: see [`Self::readiness`].
    pub fn open(config: Config) -> Result<Network, OpenError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(OpenError::Runtime)?;
        let cache = Cache::open(config.cache_dir)?;
        let watch = watch::DirectoryWatch::new(&config.conf_dir).map_err(OpenError::Watch)?;
        let invoker = Invoker {
            bin_dirs: config.bin_dirs,
            timeout: config.timeout,
        };
        let state = State::new(watch::load(&config.conf_dir), &invoker);
        let inner = Arc::new(Inner {
            conf_dir: config.conf_dir,
            invoker,
            cache,
            state: RwLock::new(state),
            gate: tokio::sync::RwLock::new(()),
            live: Mutex::default(),
            watcher: RwLock::new(None),
        });
        let task = runtime.spawn(watch::run(Arc::downgrade(&inner), watch));
        *inner
            .watcher
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(Network(inner))
    }

    /// Whether pods can be attached, from memory.
    pub fn readiness(&self) -> Readiness {
        self.0.read_state(State::readiness)
    }

    /// Looks for the plugins again, and asks them for their STATUS where the configuration is of
    /// version 1.1.0 or newer. Returns what [`Self::readiness`] says from now on.
    pub async fn refresh_status(&self) -> Readiness {
        self.0.refresh_status().await;
        self.readiness()
    }

    /// Attaches a pod and brings up the loopback interface in its network namespace.
    ///
    /// A configuration is enough: plugins that are not ready say so themselves.
    ///
    /// A pod that is attached already, with the same namespace, gets the remembered answer. What
    /// an earlier, interrupted attempt left is deleted first.
    ///
    /// # Errors
    /// When there is no usable configuration, the pod's values cannot be passed to a plugin, a
    /// plugin fails, hangs or answers garbage, or the result holds no address for the pod. What was
    /// done is undone; what could not be undone is in the error, and is tried again by
    /// [`Self::del`] and [`Self::gc`].
    pub async fn add(&self, pod: &PodNetwork) -> Result<Attachment, AddError> {
        pod.validate()?;
        let list = self.0.current_list()?;
        let _shared = self.0.gate.read().await;
        match self.0.cache.read(&pod.pod_id).await {
            Ok(None) => {}
            Ok(Some(entry)) if entry.pod.netns == pod.netns && entry.result.is_some() => {
                self.0.mark_live(&pod.pod_id);
                return entry.attachment().map_err(AddError::from);
            }
            Ok(Some(_)) | Err(CacheError::Corrupt { .. }) => {
                self.0
                    .detach(&pod.pod_id, None)
                    .await
                    .map_err(AddError::Leftover)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.0.attach(list, pod).await
    }

    /// Detaches a pod with the configuration and the result that it was attached with.
    ///
    /// A pod that is not attached, and a namespace that has vanished, are fine. All plugins are
    /// called even when one fails; the attachment is forgotten only after all of them succeeded.
    ///
    /// # Errors
    /// When a plugin fails, or the cache cannot be read or written.
    pub async fn del(&self, pod_id: &str, netns: Option<&Path>) -> Result<(), DelError> {
        let _shared = self.0.gate.read().await;
        self.0.detach(pod_id, netns).await
    }

    /// Asks the plugins whether the pod's attachment is as it should be.
    ///
    /// Configurations before 0.4.0 know no CHECK, and an administrator can turn it off: both count
    /// as healthy.
    ///
    /// # Errors
    /// When the pod is not attached, or a plugin finds fault with the attachment.
    pub async fn check(&self, pod_id: &str) -> Result<(), CheckError> {
        let _shared = self.0.gate.read().await;
        let entry = self.0.cache.read(pod_id).await?;
        let Some(Entry {
            pod,
            network,
            result: Some(result),
        }) = entry
        else {
            return Err(CheckError::NotAttached {
                pod_id: pod_id.to_owned(),
            });
        };
        if !network.allows_check() {
            return Ok(());
        }
        let target = Target::of(&pod, Some(&pod.netns));
        let chain = Chain {
            invoker: &self.0.invoker,
            list: &network,
        };
        chain
            .check(&target, &result)
            .await
            .map_err(|source| CheckError::Failed {
                pod_id: pod_id.to_owned(),
                network: network.name.clone(),
                source: Box::new(source),
            })
    }

    /// Deletes the attachments of all pods that are neither in `valid` nor attached by this
    /// process, and has the plugins look for leaks where the configuration is of version 1.1.0 or
    /// newer.
    ///
    /// # Errors
    /// When one or more of the calls failed; all of them were made.
    pub async fn gc<S: AsRef<str> + Sync>(&self, valid: &[S]) -> Result<(), GcError> {
        let _exclusive = self.0.gate.write().await;
        let valid: BTreeSet<&str> = valid.iter().map(AsRef::as_ref).collect();
        let pods = self.0.cache.pods().await?;
        let (kept, stale): (Vec<&str>, Vec<&str>) = pods
            .iter()
            .map(String::as_str)
            .partition(|id| valid.contains(id) || self.0.is_live(id));
        let mut failures = GcError::default();
        for pod_id in stale {
            failures
                .pods
                .extend(self.0.detach(pod_id, None).await.err());
        }
        if let Ok(list) = self.0.current_list()
            && list.allows_gc()
        {
            // Pods without a file may be valid, too: their file may have been lost.
            let ids: BTreeSet<&str> = valid.into_iter().chain(kept).collect();
            let chain = Chain {
                invoker: &self.0.invoker,
                list: &list,
            };
            failures.plugins = Failures(chain.gc(&Vec::from_iter(ids)).await);
        }
        failures.into_result()
    }

    /// The attachment of a pod as remembered in the cache directory, also by an earlier controller.
    /// Reads one small file. None when the pod is not attached or its file cannot be used.
    pub fn cached(&self, pod_id: &str) -> Option<Attachment> {
        self.0
            .cache
            .read_now(pod_id)
            .ok()
            .flatten()?
            .attachment()
            .ok()
    }
}

impl Inner {
    fn read_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_state<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn current_list(&self) -> Result<Arc<NetworkList>, AddError> {
        self.read_state(|state| match &state.loaded.list {
            Some(list) => Ok(Arc::clone(list)),
            None => Err(AddError::NotReady {
                reason: state.readiness().to_string(),
            }),
        })
    }

    async fn refresh_status(&self) {
        let Some(list) = self.read_state(|state| state.loaded.list.clone()) else {
            return;
        };
        let chain = Chain {
            invoker: &self.invoker,
            list: &list,
        };
        let status = chain.status().await;
        self.write_state(|state| state.remember_status(&list, status));
    }
}

/// JSON objects, as CNI is made of them.
type Object = serde_json::Map<String, Value>;
