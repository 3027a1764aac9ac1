//! Attaching a pod, undoing that, and detaching it: what is written down when, and in which order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::Inner;
use super::cache::{CacheError, Entry};
use super::chain::{Chain, Target};
use super::config::NetworkList;
use super::error::{AddError, AttachError, DelError, Failures};
use super::loopback;
use super::request::PodNetwork;
use super::result::Attachment;
use crate::fault;

/// The file system of namespaces: NSFS_MAGIC in linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

impl Inner {
    pub(super) async fn attach(
        &self,
        list: Arc<NetworkList>,
        pod: &PodNetwork,
    ) -> Result<Attachment, AddError> {
        self.invoker.find_all(&list).map_err(AddError::Missing)?;
        let mut entry = Entry {
            pod: pod.clone(),
            network: list,
            result: None,
        };
        self.cache.write(&entry).await?;
        fault::mark("network.add.begun");
        let target = Target::of(pod, Some(&pod.netns));
        let chain = Chain {
            invoker: &self.invoker,
            list: &entry.network,
        };
        // Both always run to their end: nothing may go on in the namespace while it is undone.
        let (added, loopback) = tokio::join!(chain.add(&target), loopback::up(pod.netns.clone()));
        let (result, cause) = match (added, loopback) {
            (Ok(result), Ok(())) => (Some(result), None),
            (Ok(result), Err(lo)) => (Some(result), Some(AttachError::Loopback(lo))),
            (Err((cause, partial)), _) => (partial, Some(AttachError::Plugin(cause))),
        };
        entry.result = result;
        let finished = match cause {
            None => self.remember(&entry).await,
            Some(cause) => Err(cause),
        };
        match finished {
            Ok(attachment) => Ok(attachment),
            Err(cause) => Err(self.undo(&entry, cause).await),
        }
    }

    pub(super) fn mark_live(&self, pod_id: &str) {
        self.with_live(|live| live.insert(pod_id.to_owned()));
    }

    pub(super) fn is_live(&self, pod_id: &str) -> bool {
        self.with_live(|live| live.contains(pod_id))
    }

    fn with_live<T>(&self, work: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        work(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn remember(&self, entry: &Entry) -> Result<Attachment, AttachError> {
        let attachment = entry.attachment().map_err(AttachError::Cache)?;
        if attachment.ips.is_empty() {
            return Err(AttachError::NoAddress);
        }
        let refused = |source| {
            AttachError::Cache(CacheError::Write {
                path: entry.pod.netns.clone(),
                source,
            })
        };
        fault::io("network.add.attached").map_err(refused)?;
        self.cache.write(entry).await.map_err(AttachError::Cache)?;
        self.mark_live(&entry.pod.pod_id);
        Ok(attachment)
    }

    /// Undoes a failed ADD. The specification wants DEL for the whole list, since a plugin cannot
    /// tell how far a failed one got.
    async fn undo(&self, entry: &Entry, cause: AttachError) -> AddError {
        let target = Target::of(&entry.pod, existing(&entry.pod.netns));
        let chain = Chain {
            invoker: &self.invoker,
            list: &entry.network,
        };
        let mut cleanup = Failures(chain.del(&target, entry.result.as_ref()).await);
        cleanup.0.retain(|error| !error.is_incompatible_version());
        let mut forget = None;
        if cleanup.0.is_empty() {
            forget = self.cache.remove(&entry.pod.pod_id).await.err();
        }
        AddError::Failed {
            pod_id: entry.pod.pod_id.clone(),
            network: entry.network.name.clone(),
            cause: Box::new(cause),
            cleanup,
            forget,
        }
    }

    pub(super) async fn detach(&self, pod_id: &str, netns: Option<&Path>) -> Result<(), DelError> {
        // From here on the pod is GC's to finish, whatever becomes of this attempt.
        self.with_live(|live| live.remove(pod_id));
        let entry = match self.cache.read(pod_id).await {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => entry,
            Err(corrupt @ CacheError::Corrupt { .. }) => {
                self.replacement(pod_id, netns, corrupt)?
            }
            Err(error) => return Err(error.into()),
        };
        let namespace = netns.unwrap_or(&entry.pod.netns);
        let target = Target::of(&entry.pod, existing(namespace));
        let chain = Chain {
            invoker: &self.invoker,
            list: &entry.network,
        };
        let mut failures = Failures(chain.del(&target, entry.result.as_ref()).await);
        if entry.result.is_none() {
            failures.0.retain(|error| !error.is_incompatible_version());
        }
        let refused = |source| CacheError::Remove {
            path: namespace.to_owned(),
            source,
        };
        fault::io("network.del.detached").map_err(refused)?;
        if !failures.0.is_empty() {
            return Err(DelError::Plugins {
                pod_id: pod_id.to_owned(),
                network: entry.network.name.clone(),
                failures,
            });
        }
        Ok(self.cache.remove(pod_id).await?)
    }

    /// The best guess for a pod whose file is damaged: today's configuration, without a result.
    fn replacement(
        &self,
        pod_id: &str,
        netns: Option<&Path>,
        corrupt: CacheError,
    ) -> Result<Entry, DelError> {
        let Some(network) = self.read_state(|state| state.loaded.list.clone()) else {
            return Err(corrupt.into());
        };
        let error: &dyn std::error::Error = &corrupt;
        tracing::warn!(
            pod = pod_id,
            error,
            "detach with the current network configuration"
        );
        let pod = PodNetwork {
            pod_id: pod_id.to_owned(),
            netns: netns.unwrap_or(Path::new("")).to_owned(),
            ..PodNetwork::default()
        };
        Ok(Entry {
            pod,
            network,
            result: None,
        })
    }
}

/// A namespace that is gone is not passed on: plugins then take it for gone instead of failing.
/// After a reboot the file that it was mounted on may still be there.
fn existing(netns: &Path) -> Option<&Path> {
    let found = rustix::fs::statfs(netns).ok()?;
    (found.f_type == NSFS_MAGIC).then_some(netns)
}
