//! What a controller left half-made when it was killed: run directories, monitors, networks, root
//! file systems that no record knows.

use std::collections::HashSet;
use std::path::Path;

use crate::monitors::Trace;
use crate::pod::Pods;

/// Removes it. What does not go is logged: it must not keep the node from serving.
pub(super) async fn remove(pods: &Pods, known: &HashSet<String>) {
    let services = pods.services();
    let directory = services.directories.pods();
    for id in names(&directory) {
        if known.contains(&id) {
            continue;
        }
        tracing::info!(pod = %id, "removing a half-made pod sandbox");
        if let Ok((monitor, _events)) = services.monitors.connect(&directory.join(&id)).await {
            services.monitors.end(&monitor, &Trace::default()).await;
        }
        crate::pod::remove_half_made(services, &id).await;
    }
    let valid: Vec<&String> = known.iter().collect();
    if let Err(error) = services.network.gc(&valid).await {
        tracing::warn!(error = %crate::chain::chain(&error), "network attachments of no pod are left");
    }
    remove_rootfs(pods).await;
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

async fn remove_rootfs(pods: &Pods) {
    let services = pods.services();
    let views = pods.list();
    let known: HashSet<&str> = views
        .iter()
        .flat_map(|pod| &pod.containers)
        .map(|container| container.id.as_str())
        .collect();
    for id in services.images.known_rootfs().await {
        if known.contains(id.as_str()) {
            continue;
        }
        if let Err(error) = services.images.release(&id).await {
            tracing::warn!(container = %id, %error, "a root file system of no container is left");
        }
    }
}
