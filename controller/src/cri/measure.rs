//! Whom a statistics call asks about, and the answers in the CRI's messages.
//!
//! Lists are of pods that are ready and of containers that are alive: nothing is measured of the
//! others. A call that names one of those gets what there is, such as its disk usage.

use std::collections::HashMap;
use std::sync::Arc;

use husk_cri_api::v1;
use prost::bytes::Bytes;
use tonic::Status;

use super::{filters, metrics, stats, status};
use crate::pod::Pods;
use crate::stats::{Asked, Depth, PodUsage};
use crate::store::v1::ContainerRecord;
use crate::view::{Found, PodPhase, PodView};

/// The usage of one container.
pub(super) async fn container(
    pods: &Pods,
    found: Found,
) -> Result<Option<v1::ContainerStats>, Status> {
    let asked = Asked {
        pod: found.pod,
        containers: vec![found.container],
        own_parent: false,
    };
    let measured = ask(pods, vec![asked], Depth::Containers).await?;
    let mountpoint = mountpoint(pods).await;
    let mut containers = measured.iter().flat_map(|pod| &pod.containers);
    Ok(containers.next().map(|it| stats::container(it, mountpoint)))
}

/// The usage of the containers that match a filter.
pub(super) async fn containers(
    pods: &Pods,
    filter: Option<&v1::ContainerStatsFilter>,
) -> Result<Vec<v1::ContainerStats>, Status> {
    let views = pods.list();
    let asked = views.iter().map(|pod| Asked {
        pod: pod.clone(),
        containers: alive(pod, |it| filters::container_stats(filter, it)),
        own_parent: false,
    });
    let asked = asked.filter(|pod| !pod.containers.is_empty()).collect();
    let measured = ask(pods, asked, Depth::Containers).await?;
    let mountpoint = mountpoint(pods).await;
    let containers = measured.iter().flat_map(|pod| &pod.containers);
    // One that ended meanwhile has nothing to tell.
    Ok(containers
        .filter(|it| it.usage.cpu.is_some())
        .map(|it| stats::container(it, mountpoint))
        .collect())
}

/// The usage of one pod.
pub(super) async fn pod(
    pods: &Pods,
    pod: Arc<PodView>,
) -> Result<Option<v1::PodSandboxStats>, Status> {
    let parents = Parents::of(&pods.list());
    let asked = whole(&parents, pod);
    let measured = ask(pods, vec![asked], Depth::Pods).await?;
    let mountpoint = mountpoint(pods).await;
    Ok(measured.first().map(|pod| stats::pod(pod, mountpoint)))
}

/// The usage of the pods that match a filter.
pub(super) async fn all(
    pods: &Pods,
    filter: Option<&v1::PodSandboxStatsFilter>,
) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let measured = whole_pods(pods, Depth::Pods, |pod| filters::pod_stats(filter, pod)).await?;
    let mountpoint = mountpoint(pods).await;
    Ok(measured
        .iter()
        .map(|it| stats::pod(it, mountpoint))
        .collect())
}

/// The metrics of all pods, each pod's encoded.
pub(super) async fn pod_metrics(pods: &Pods) -> Result<Vec<Bytes>, Status> {
    let measured = whole_pods(pods, Depth::Metrics, |_| true).await?;
    let services = pods.services();
    let disk = services.stats.file_system().await;
    Ok(measured.iter().map(|it| metrics::pod(it, &disk)).collect())
}

/// Every ready pod that `wanted` says yes to, measured with its containers.
async fn whole_pods(
    pods: &Pods,
    depth: Depth,
    wanted: impl Fn(&PodView) -> bool,
) -> Result<Vec<PodUsage>, Status> {
    let views = pods.list();
    let parents = Parents::of(&views);
    let ready = views.into_iter().filter(|pod| pod.phase == PodPhase::Ready);
    let asked = ready.filter(|pod| wanted(pod));
    let asked = asked.map(|pod| whole(&parents, pod)).collect();
    ask(pods, asked, depth).await
}

fn whole(parents: &Parents, pod: Arc<PodView>) -> Asked {
    Asked {
        containers: alive(&pod, |_| true),
        own_parent: parents.is_own(&pod),
        pod,
    }
}

fn alive(pod: &PodView, wanted: impl Fn(&ContainerRecord) -> bool) -> Vec<Arc<ContainerRecord>> {
    let containers = pod.containers.iter();
    let alive = containers.filter(|it| !it.is_exited() && wanted(it));
    alive.cloned().collect()
}

/// How many pods there are of each cgroup parent.
struct Parents(HashMap<String, usize>);

impl Parents {
    fn of(pods: &[Arc<PodView>]) -> Self {
        let mut parents = HashMap::new();
        for pod in pods.iter().filter(|pod| pod.phase == PodPhase::Ready) {
            let parent = pod.record.cgroup_parent.clone();
            *parents.entry(parent).or_default() += 1;
        }
        Self(parents)
    }

    fn is_own(&self, pod: &PodView) -> bool {
        let count = self.0.get(&pod.record.cgroup_parent);
        count.is_none_or(|count| *count <= 1)
    }
}

async fn ask(pods: &Pods, asked: Vec<Asked>, depth: Depth) -> Result<Vec<PodUsage>, Status> {
    let services = pods.services();
    let measured = services.stats.measure(asked, depth).await;
    measured.map_err(|error| status::of_stats(&error))
}

/// The directory whose file system root file systems are on.
async fn mountpoint(pods: &Pods) -> &str {
    pods.services().stats.mountpoint().await
}
