//! The node as plugins see it: all pods and containers, and the changes that they ask for.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use husk_nri::api;

use super::Pods;
use crate::bundle;
use crate::chain::chain;
use crate::container::Change;
use crate::monitors::Trace;
use crate::nri::messages;
use crate::view::PodPhase;

/// What a container that is evicted gets to end by itself: what the kubelet gives by default.
const EVICTION_GRACE: Duration = Duration::from_secs(30);

impl husk_nri::Node for Pods {
    fn state(&self) -> BoxFuture<'static, (Vec<api::PodSandbox>, Vec<api::Container>)> {
        let pods = self.clone();
        let reading = tokio::task::spawn_blocking(move || state(&pods));
        async move { reading.await.unwrap_or_default() }.boxed()
    }

    fn update(
        &self,
        updates: Vec<api::ContainerUpdate>,
    ) -> BoxFuture<'static, Vec<api::ContainerUpdate>> {
        let pods = self.clone();
        async move {
            let mut failed = Vec::new();
            for update in updates {
                if !change(&pods, &update).await {
                    failed.push(update);
                }
            }
            failed
        }
        .boxed()
    }

    fn evict(
        &self,
        plugin: String,
        evictions: Vec<api::ContainerEviction>,
    ) -> BoxFuture<'static, ()> {
        let pods = self.clone();
        let evict = move |eviction: api::ContainerEviction| {
            let (pods, plugin) = (pods.clone(), plugin.clone());
            async move {
                let id = &eviction.container_id;
                tracing::warn!(plugin, container = %id, reason = %eviction.reason,
                    "a container is evicted by an NRI plugin");
                let trace = Trace::default();
                let stopped = pods.stop_container(id, EVICTION_GRACE, trace).await;
                if let Err(error) = stopped {
                    tracing::warn!(container = %id, error = %chain(&*error), "not evicted");
                }
            }
        };
        async move {
            futures::future::join_all(evictions.into_iter().map(evict)).await;
        }
        .boxed()
    }
}

/// What is alive. The bundles, on a tmpfs, say what the containers were made from.
fn state(pods: &Pods) -> (Vec<api::PodSandbox>, Vec<api::Container>) {
    let directories = &pods.services().directories;
    let (mut found, mut containers) = (Vec::new(), Vec::new());
    for pod in pods.list() {
        if matches!(pod.phase, PodPhase::NotReady | PodPhase::Removing) {
            continue;
        }
        found.push(messages::pod(&pod.record));
        for record in pod.containers.iter().filter(|record| !record.is_exited()) {
            let spec = bundle::read_spec(&directories.bundle(&pod.record.id, &record.id)).ok();
            containers.push(messages::container(record, spec.as_ref()));
        }
    }
    (found, containers)
}

/// Whether a container could be changed as a plugin wants.
async fn change(pods: &Pods, update: &api::ContainerUpdate) -> bool {
    let linux = update.linux.clone().unwrap_or_default();
    let change = Change::Plugins(Box::new(linux.resources.unwrap_or_default()));
    let changed = pods
        .change_container(&update.container_id, change, Trace::default())
        .await;
    if let Err(error) = &changed {
        tracing::warn!(container = %update.container_id, error = %chain(&**error),
            "an update that an NRI plugin asked for failed");
    }
    changed.is_ok()
}
