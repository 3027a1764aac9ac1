//! What a controller left half-made when it was killed: run directories, monitors, networks, root
//! file systems that no record knows.

use std::collections::HashSet;
use std::path::Path;

use futures::StreamExt as _;

use super::trace;
use crate::fault;
use crate::pod::Pods;
use crate::services::Services;

/// Sandboxes that are removed at the same time.
const AT_ONCE: usize = 8;

/// What was there before anything was made, and what of it is known.
#[derive(Debug)]
pub(super) struct Orphans {
    /// Run directories.
    pods: Vec<String>,
    /// Root file systems.
    rootfs: Vec<String>,
    known: HashSet<String>,
}

/// Looks for orphans. To be called before pods are made, for these look the same for a while.
pub(super) async fn find(pods: &Pods, known: HashSet<String>) -> Orphans {
    let services = pods.services();
    let mut directories = names(&services.directories.pods());
    directories.retain(|id| !known.contains(id));
    let views = pods.list();
    let containers: HashSet<&str> = views
        .iter()
        .flat_map(|pod| &pod.containers)
        .map(|container| container.id.as_str())
        .collect();
    let mut rootfs = services.images.known_rootfs().await;
    rootfs.retain(|id| !containers.contains(id.as_str()));
    Orphans {
        pods: directories,
        rootfs,
        known,
    }
}

impl Orphans {
    /// Removes them. What does not go is logged: it must not keep the node from serving.
    pub(super) async fn remove(self, pods: Pods) {
        let services = pods.services();
        let removals = self.pods.iter().map(|id| remove_pod(services, id));
        futures::stream::iter(removals)
            .for_each_concurrent(AT_ONCE, |removal| removal)
            .await;
        fault::mark("adopt.orphans");
        let valid: Vec<&String> = self.known.iter().collect();
        if let Err(error) = services.network.gc(&valid).await {
            tracing::warn!(error = %crate::chain::chain(&error), "network attachments of no pod are left");
        }
        fault::mark("adopt.networks");
        for id in &self.rootfs {
            if let Err(error) = services.images.release(id).await {
                tracing::warn!(container = %id, %error, "a root file system of no container is left");
            }
        }
        fault::mark("adopt.end");
    }
}

async fn remove_pod(services: &Services, id: &str) {
    tracing::info!(pod = %id, "removing a half-made pod sandbox");
    let run = services.directories.pod(id);
    if let Ok((monitor, _events)) = services.monitors.connect(&run, &trace()).await {
        services.monitors.end(&monitor, &trace()).await;
    }
    crate::pod::remove_half_made(services, id).await;
}

/// Names of the entries of a directory; none where it does not exist.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
