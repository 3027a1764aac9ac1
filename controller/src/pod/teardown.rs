//! How a sandbox is taken down: stopped, removed, or cleared away half-made. Every step is tried,
//! "already gone" is done, and all of what failed is reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use husk_nri::api::Event;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::Exit;

use super::files;
use crate::cgroup::MonitorCgroup;
use crate::container;
use crate::error::PodError;
use crate::fault;
use crate::monitors::Trace;
use crate::nri::Subject;
use crate::services::Services;
use crate::store::v1::{ContainerRecord, PodRecord};

/// The longest of the pauses in which a busy cgroup is waited for; together they are twice as long.
const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// What a pod's stop works on.
pub(super) struct Stop {
    pub(super) services: Arc<Services>,
    pub(super) record: Arc<PodRecord>,
    /// Whether plugins do not know yet that the pod is stopped.
    pub(super) tell: bool,
    pub(super) monitor: Option<Monitor>,
    /// The containers that are not known to have exited.
    pub(super) alive: Vec<Arc<ContainerRecord>>,
    /// The ids of all its containers.
    pub(super) containers: Vec<String>,
    pub(super) trace: Trace,
}

/// How a stop went.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) exits: Vec<(String, Exit)>,
    pub(super) monitor_ended: bool,
    pub(super) result: Result<(), PodError>,
}

/// Kills the containers, gives the network back, ends the monitor. The containers are killed while
/// the network plugins run: whoever stops a pod has stopped its containers gently before.
pub(super) async fn stop(stop: Arc<Stop>) -> Stopped {
    let services = &stop.services;
    let netns = services.directories.pod(&stop.record.id).join("ns/net");
    fault::mark("pod.stop.begin");
    let plugins = Plugins::of(&stop);
    let (exits, network) = tokio::join!(
        kill_all(&stop),
        services.network.del(&stop.record.id, Some(&netns))
    );
    let mut errors = Vec::new();
    if let Err(source) = network {
        errors.push(PodError::NetworkDel {
            id: stop.record.id.clone(),
            source: Box::new(source),
        });
    }
    let mut ended = Vec::new();
    for (id, exit) in exits {
        match exit {
            Ok(exit) => ended.push((id, exit)),
            Err(error) => errors.push(error),
        }
    }
    errors.extend(fault::point("pod.stop.killed").err().map(PodError::from));
    if let Some(monitor) = &stop.monitor {
        services.monitors.end(monitor, &stop.trace).await;
    }
    let containers = stop.containers.iter().map(String::as_str);
    errors.extend(fault::point("pod.stop.monitor").err().map(PodError::from));
    sweep(services, &stop.record, containers).await;
    let cgroup = stop.record.monitor_cgroup(&services.cgroups);
    let removed = remove_cgroup(services, &cgroup, &stop.record.cgroup_parent).await;
    errors.extend(removed.err());
    errors.extend(fault::point("pod.stop.end").err().map(PodError::from));
    plugins.tell_stopped().await;
    Stopped {
        exits: ended,
        monitor_ended: true,
        result: PodError::gathered(errors),
    }
}

/// What plugins are told of when the pod has stopped.
struct Plugins {
    containers: Vec<Subject>,
    pod: Option<Subject>,
}

impl Plugins {
    fn of(stop: &Stop) -> Self {
        let (services, pod) = (&stop.services, &stop.record);
        let containers = stop.alive.iter();
        Self {
            containers: containers
                .filter_map(|record| Subject::container(services, pod, record))
                .collect(),
            pod: Subject::pod(services, pod).filter(|_| stop.tell),
        }
    }

    async fn tell_stopped(self) {
        for container in self.containers {
            container.stopped().tell(Event::StopContainer).await;
        }
        if let Some(pod) = self.pod {
            pod.tell(Event::StopPodSandbox).await;
        }
    }
}

async fn kill_all(stop: &Stop) -> Vec<(String, Result<Exit, PodError>)> {
    let Some(monitor) = &stop.monitor else {
        return Vec::new();
    };
    let kills = stop.alive.iter().map(|record| async {
        let exit =
            container::stop(&stop.services, monitor, record, Duration::ZERO, &stop.trace).await;
        (record.id.clone(), exit)
    });
    join_all(kills).await
}

/// Removes containers, files and records of a pod. What its stop left behind keeps its record, for
/// another attempt, and is reported with the rest.
pub(super) async fn remove(
    services: &Arc<Services>,
    record: &PodRecord,
    containers: &[Arc<ContainerRecord>],
    stopped: Result<(), PodError>,
    trace: &Trace,
) -> Result<(), PodError> {
    let mut errors: Vec<_> = stopped.err().into_iter().collect();
    let removals = containers.iter().map(|container| async {
        let plugins = Subject::container(services, record, container).map(Subject::stopped);
        container::remove(services, None, container, trace).await?;
        if let Some(plugins) = plugins {
            plugins.tell(Event::RemoveContainer).await;
        }
        Ok(())
    });
    errors.extend(fault::point("pod.remove.begin").err().map(PodError::from));
    errors.extend(join_all(removals).await.into_iter().filter_map(Result::err));
    errors.extend(
        fault::point("pod.remove.containers")
            .err()
            .map(PodError::from),
    );
    errors.extend(files::remove(&services.directories, &record.id).err());
    errors.extend(fault::point("pod.remove.files").err().map(PodError::from));
    if errors.is_empty() {
        let deleted = services.store.delete_pod(&record.id).await;
        errors.extend(deleted.err().map(|source| PodError::Store {
            id: record.id.clone(),
            source,
        }));
        errors.extend(fault::point("pod.remove.end").err().map(PodError::from));
    }
    if let (true, Some(pod)) = (errors.is_empty(), Subject::pod(services, record)) {
        pod.tell(Event::RemovePodSandbox).await;
    }
    PodError::gathered(errors)
}

/// Ends what a monitor left that died or does not answer: its containers' processes, its own and
/// the pod's init, and what the OCI runtime keeps of the containers. Those that were being made are
/// known by their bundles alone.
pub(crate) async fn sweep<'a>(
    services: &Services,
    record: &PodRecord,
    containers: impl Iterator<Item = &'a str>,
) {
    let cgroup = record.monitor_cgroup(&services.cgroups);
    services.cgroups.kill_monitor(&cgroup).await;
    let bundles = services.directories.pod(&record.id).join("containers");
    let mut ids: BTreeSet<String> = containers.map(str::to_owned).collect();
    let entries = std::fs::read_dir(bundles).into_iter().flatten().flatten();
    ids.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    for id in ids {
        container::sweep(services, record, &id).await;
    }
}

/// Removes what is left of a pod whose making was cut off, as far as its id tells.
pub(crate) async fn remove_half_made(services: &Services, id: &str) {
    let netns = services.directories.pod(id).join("ns/net");
    let mut errors = Vec::new();
    if let Err(source) = services.network.del(id, Some(&netns)).await {
        errors.push(PodError::NetworkDel {
            id: id.to_owned(),
            source: Box::new(source),
        });
    }
    let parents = files::read_cgroup_parents(&services.directories, id);
    let [parent, monitor_parent] = parents.unwrap_or_else(|| {
        let parent = services.cgroups.parent("", id);
        let of_monitor = services.cgroups.monitor_parent(&parent);
        [parent, of_monitor]
    });
    errors.extend(files::remove(&services.directories, id).err());
    let cgroup = services.cgroups.monitor(&monitor_parent, id);
    services.cgroups.kill_monitor(&cgroup).await;
    errors.extend(remove_cgroup(services, &cgroup, &parent).await.err());
    for error in errors {
        tracing::warn!(pod = %id, error = %crate::chain::chain(&error), "a half-made pod is not all removed");
    }
}

/// Removes the monitor's cgroup. The kernel keeps it busy for a moment after its last process was
/// seen to end, and tells nobody when that is over.
pub(super) async fn remove_cgroup(
    services: &Services,
    cgroup: &MonitorCgroup,
    parent: &str,
) -> Result<(), PodError> {
    let mut pause = Duration::from_millis(1);
    loop {
        match services.cgroups.remove(cgroup, parent) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && pause < BUSY_LIMIT => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            other => {
                let failed = PodError::io("removing the monitor's cgroup below", parent);
                return other.map_err(failed);
            }
        }
    }
}
