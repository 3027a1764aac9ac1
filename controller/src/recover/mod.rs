//! A controller that comes back: what the store says is compared with what is alive.
//!
//! Pods whose monitor answers are taken over with everything that happened meanwhile. Pods whose
//! monitor is gone, and all pods after a reboot, are listed as not ready, their containers as
//! exited. What is on the node and in no record (a kill in the middle of a creation) is removed.
//!
//! Deliberately absent: starting anything. The kubelet decides what runs again.

mod found;
mod networks;
mod orphans;
mod state;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pod_monitor_client::schema::PodState;
use pod_monitor_client::{Events, Monitor};

use crate::events::Kind;
use crate::fault;
use crate::monitors::{self, Escrow, Stored, Trace};
use crate::pod::{News, Pods, Recovered, Takeover};
use crate::services::Services;
use crate::store::Loaded;
use crate::store::v1::{ContainerRecord, PodRecord};
use state::{Updated, apply_state, lose};

/// How long a monitor may take to say what it has. One that does not is treated as dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the removal of what nobody knows may delay the first call. It goes on afterwards.
const ORPHANS_LIMIT: Duration = Duration::from_secs(2);

/// The request of nobody: what monitors log of a recovery bears this name.
fn trace() -> Trace {
    Trace {
        request_id: "recovery".into(),
        ..Trace::default()
    }
}

/// Takes over what is alive, corrects what is not, removes what nobody knows.
pub async fn recover(pods: &Pods, loaded: Loaded, mut stored: Stored) {
    let services = pods.services();
    let rebooted = note_boot(services, loaded.boot_id.as_deref()).await;
    let mut containers: BTreeMap<String, Vec<ContainerRecord>> = BTreeMap::new();
    for record in loaded.containers {
        containers
            .entry(record.pod_id.clone())
            .or_default()
            .push(record);
    }
    let known: HashSet<String> = loaded.pods.iter().map(|pod| pod.id.clone()).collect();
    let recoveries = loaded.pods.into_iter().map(|record| {
        let containers = containers.remove(&record.id).unwrap_or_default();
        let ids = containers.iter().map(|container| &container.id);
        let held = ids
            .filter_map(|id| Some((id.clone(), stored.remove(id)?)))
            .collect();
        recover_pod(services, record, containers, (rebooted, held))
    });
    let recoveries: Vec<_> = recoveries.collect();
    for unknown in stored.into_keys() {
        services.fd_store.remove(&unknown);
    }
    let recovered = join_all(recoveries).await;
    let count = recovered.len();
    for pod in recovered {
        pods.adopt(pod);
    }
    // Containers of no pod: a store that was edited or lost part of its records.
    for record in containers.into_values().flatten() {
        let removed = crate::container::remove(services, None, &record, &trace()).await;
        if let Err(error) = removed {
            tracing::warn!(container = %record.id, %error, "an orphaned container is left");
        }
    }
    let orphans = orphans::find(pods, known).await;
    let removal = tokio::spawn(orphans.remove(pods.clone()));
    // Few are gone by then, and whoever calls finds a clean node; ten thousand must not keep it from serving.
    let _goes_on = tokio::time::timeout(ORPHANS_LIMIT, removal).await;
    networks::check(pods);
    tracing::info!(pods = count, rebooted, "recovered");
}

/// Whether the kernel was started anew since the state was written.
async fn note_boot(services: &Services, before: Option<&str>) -> bool {
    let now = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let now = now.trim();
    if before == Some(now) {
        return false;
    }
    if let Err(error) = services.store.put_boot_id(now).await {
        tracing::error!(%error, "the boot id could not be kept");
    }
    before.is_some()
}

async fn recover_pod(
    services: &Arc<Services>,
    mut record: PodRecord,
    containers: Vec<ContainerRecord>,
    (rebooted, held): (bool, Stored),
) -> Recovered {
    fault::mark("adopt.begin");
    let (monitor, escrows) = if record.ready && !rebooted {
        have_monitor(services, &mut record, &containers, held).await
    } else {
        (None, Stored::new())
    };
    fault::mark("adopt.connected");
    let was_ready = record.ready;
    let Updated {
        containers,
        changed,
        mut news,
    } = match &monitor {
        Some((monitor, _, state)) => {
            remove_unknown(services, &record, monitor, state, &containers).await;
            found::note_losses(services, state);
            found::resume_paused(monitor, state).await;
            apply_state(containers, state)
        }
        None => {
            if record.ready && !rebooted {
                let ids = containers.iter().map(|container| container.id.as_str());
                crate::pod::sweep(services, &record, ids).await;
            }
            let why = if rebooted {
                "the node was restarted"
            } else {
                "the pod's monitor ended while the controller was away"
            };
            if was_ready {
                record.ready = false;
                record.reason = why.into();
            }
            lose(containers, why)
        }
    };
    keep(
        services,
        &record,
        was_ready != record.ready,
        &containers,
        &changed,
    )
    .await;
    fault::mark("adopt.kept");
    if was_ready && !record.ready {
        news.push((record.id.clone(), Kind::Stopped));
    }
    let clean = record.clean && monitor.is_none();
    Recovered {
        record,
        containers,
        monitor: monitor.map(|(monitor, events, _)| (monitor, events)),
        escrows,
        clean,
        news: News::Missed(news),
    }
}

/// The monitor that a pod has, or else another one, with what is held for it.
async fn have_monitor(
    services: &Arc<Services>,
    record: &mut PodRecord,
    containers: &[ContainerRecord],
    held: Stored,
) -> (Option<(Monitor, Events, PodState)>, Stored) {
    let found = find_monitor(services, &services.directories.pod(&record.id)).await;
    if found.is_some() {
        return (found, held);
    }
    let mut escrows = orphaned(containers, held);
    let other = replace_monitor(services, record, containers, &mut escrows).await;
    (other, escrows)
}

/// What is held of the containers that live, or can still be had of them.
fn orphaned(containers: &[ContainerRecord], mut held: Stored) -> Stored {
    let alive = containers.iter().filter(|container| !container.is_exited());
    let escrows = alive.map(|record| {
        let held = held
            .remove(&record.id)
            .filter(|escrow| escrow.process.is_some());
        let escrow = held.unwrap_or_else(|| monitors::from_process(record));
        (record.id.clone(), escrow)
    });
    escrows.collect()
}

/// Another monitor for a pod whose monitor died while the controller was away. Where the init of its
/// shared PID namespace is gone nothing can run in it any more.
async fn replace_monitor(
    services: &Arc<Services>,
    record: &mut PodRecord,
    containers: &[ContainerRecord],
    escrows: &mut Stored,
) -> Option<(Monitor, Events, PodState)> {
    let pinned = services.directories.pod(&record.id).join("ns/pid");
    if !monitors::has_init(record.init_pid, &pinned) {
        return None;
    }
    let hand_over = |container: &ContainerRecord| {
        let escrow = escrows.get(&container.id).map(Escrow::try_clone);
        let config = crate::container::monitor_config(services, container);
        let escrow = escrow.and_then(Result::ok).unwrap_or_default();
        monitors::handed_over(container, config, escrow)
    };
    let known = containers.iter().filter(|it| !it.awaits_restore());
    let takeover = Takeover {
        services: services.clone(),
        record: Arc::new(record.clone()),
        containers: known.map(hand_over).collect(),
    };
    match takeover.run().await {
        Ok(taken) => {
            tracing::warn!(pod = %record.id, "another monitor has taken the pod over");
            record.monitor_restarts = record.monitor_restarts.saturating_add(1);
            if let Err(error) = services.store.put_pod(record).await {
                tracing::error!(pod = %record.id, %error, "the pod's state could not be kept");
            }
            Some((taken.monitor, taken.events, taken.state))
        }
        Err(error) => {
            let error = crate::chain::chain(&error);
            tracing::error!(pod = %record.id, error, "the pod was not taken over");
            escrows.clear();
            None
        }
    }
}

/// Removes containers that a monitor has and no record knows: their creation was cut off between the
/// monitor and the store, and nobody was told their ids.
async fn remove_unknown(
    services: &Services,
    record: &PodRecord,
    monitor: &Monitor,
    state: &PodState,
    containers: &[ContainerRecord],
) {
    let known = |id: &str| containers.iter().any(|container| container.id == id);
    for unknown in state.containers.iter().filter(|found| !known(&found.id)) {
        tracing::info!(container = %unknown.id, "removing a half-made container");
        let deleted = monitor.delete(&trace(), &unknown.id, true).await;
        if let Err(error) = deleted {
            tracing::warn!(container = %unknown.id, %error, "a half-made container is left");
        }
        let bundle = services.directories.bundle(&record.id, &unknown.id);
        // The rest of it is in the pod's run directory and goes with the pod.
        let _ = std::fs::remove_dir_all(bundle);
    }
    // An OCI runtime that was killed in the middle, too, left what not even the monitor knows.
    let bundles = services.directories.pod(&record.id).join("containers");
    for entry in std::fs::read_dir(bundles).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(id) = name.to_str().filter(|id| !known(id)) {
            crate::container::sweep(services, record, id).await;
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

async fn find_monitor(services: &Services, run: &Path) -> Option<(Monitor, Events, PodState)> {
    let (monitor, events) = match services.monitors.connect(run, &trace()).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(run = %run.display(), %error, "the pod's monitor is not there");
            return None;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, monitor.state(&trace())).await;
    match asked {
        Ok(Ok(state)) => Some((monitor, events, state)),
        Err(_) => {
            tracing::warn!(run = %run.display(), "the pod's monitor does not answer");
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(run = %run.display(), %error, "the pod's monitor does not answer");
            None
        }
    }
}

/// Writes what changed. What cannot be written is written with the next change.
async fn keep(
    services: &Services,
    record: &PodRecord,
    pod_changed: bool,
    containers: &[ContainerRecord],
    changed: &HashSet<String>,
) {
    let mut outcomes = Vec::new();
    if pod_changed {
        outcomes.push(services.store.put_pod(record).await);
    }
    for container in containers.iter().filter(|c| changed.contains(&c.id)) {
        outcomes.push(services.store.put_container(container).await);
    }
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::error!(pod = %record.id, %error, "the recovered state could not be kept");
    }
}
