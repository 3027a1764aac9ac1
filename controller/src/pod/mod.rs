//! Pod sandboxes: who there is, and the one task that owns each.
//!
//! ```text
//!   cri/ ── request ──▶ Pods (names, ids) ──▶ Driver, one task a pod ──▶ operations (own tasks)
//!    ▲                                          │   ▲  ▲                    │
//!    └──────── PodView, a published snapshot ◀──┘   │  └── outcome ─────────┘
//!                                                   └── events of the pod's monitor
//! ```
//!
//! All changes of a pod and its containers go through its driver: it decides (`requests.rs`, pure),
//! starts an operation, and applies the outcome to its state, to the store and to the view. Readers
//! only look at views: a relist asks nobody, forks nothing and does no I/O.
//!
//! States of a pod: ready → stopping → not ready → removing → gone. A pod in the making is nowhere
//! but in the table of names; it appears when it is whole and durable, or leaves nothing.
//!
//! Deliberately absent: CRI answers (`cri/`), how a container is made (`container/`), processes
//! (the pod's monitor has them).

mod attachment;
mod driver;
mod files;
mod limits;
mod making;
mod monitored;
mod plugins;
mod recovered;
mod requests;
mod restarts;
mod sandbox;
mod table;
mod takeover;
mod teardown;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::SinkExt as _;
use husk_cri_api::v1;
use husk_nri::api::Event;
use tokio::sync::oneshot;

pub use limits::PodLimits;
pub(crate) use monitored::UPGRADES;
pub use recovered::{News, Recovered};
pub(crate) use takeover::Takeover;
pub(crate) use teardown::{remove_half_made, sweep};

use crate::container::Change;
use crate::error::{Kind, PodError, SharedError};
use crate::monitors::Trace;
use crate::nri::{Subject, messages};
use crate::services::Services;
use crate::store::v1::PodRecord;
use crate::view::{Found, PodPhase, PodView};
use driver::Request;
use table::{Index, Name, not_found, resolve};

/// The table of all pods; clones share it.
#[derive(Debug, Clone)]
pub struct Pods {
    services: Arc<Services>,
    index: Arc<RwLock<Index>>,
}

impl Pods {
    /// An empty table.
    pub fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            index: Arc::default(),
        }
    }

    /// What everything here works with.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Every pod, in the order of their ids.
    pub fn list(&self) -> Vec<Arc<PodView>> {
        let index = self.read();
        index
            .pods
            .values()
            .map(|handle| handle.view.borrow().clone())
            .collect()
    }

    /// A pod by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`PodError::NotFound`] and [`PodError::Ambiguous`].
    pub fn pod(&self, id: &str) -> Result<Arc<PodView>, PodError> {
        let index = self.read();
        let full = resolve(&index.pods, Kind::Pod, id)?;
        index
            .pods
            .get(&full)
            .map(|handle| handle.view.borrow().clone())
            .ok_or_else(|| not_found(Kind::Pod, id))
    }

    /// A pod that is ready.
    ///
    /// # Errors
    /// As [`Pods::pod`], and [`PodError::State`].
    pub fn ready(&self, id: &str) -> Result<Arc<PodView>, PodError> {
        let pod = self.pod(id)?;
        if pod.phase == PodPhase::Ready {
            return Ok(pod);
        }
        Err(PodError::State {
            operation: "forward ports to",
            kind: Kind::Pod,
            id: pod.record.id.clone(),
            state: "not ready",
        })
    }

    /// A container by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`PodError::NotFound`] and [`PodError::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<Found, PodError> {
        let index = self.read();
        let full = resolve(&index.containers, Kind::Container, id)?;
        let found = index.containers.get(&full).and_then(|pod| {
            let pod = index.pods.get(&**pod)?.view.borrow().clone();
            let container = pod.containers.iter().find(|c| c.id == full)?.clone();
            Some(Found { pod, container })
        });
        found.ok_or_else(|| not_found(Kind::Container, id))
    }

    /// Makes a container in a pod and answers its id. A repeated request joins the first.
    ///
    /// # Errors
    /// Whatever kept the container from being made; nothing of it is left then.
    pub async fn create_container(
        &self,
        pod: &str,
        config: v1::ContainerConfig,
        trace: Trace,
    ) -> Result<String, SharedError> {
        let id = self.pod(pod).map_err(Arc::new)?.record.id.clone();
        self.ask(&id, |reply| Request::Create {
            config: Box::new(config),
            trace,
            reply,
        })
        .await
    }

    /// Starts a container's program.
    ///
    /// # Errors
    /// When its state forbids it or the OCI runtime fails.
    pub async fn start_container(&self, id: &str, trace: Trace) -> Result<(), SharedError> {
        let (pod, id) = self.locate(id).map_err(Arc::new)?;
        self.ask(&pod, |reply| Request::Start { id, trace, reply })
            .await
    }

    /// Stops a container; one that is gone or not running is fine.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop_container(
        &self,
        id: &str,
        grace: Duration,
        trace: Trace,
    ) -> Result<(), SharedError> {
        let Some((pod, id)) = gone_is_fine(self.locate(id))? else {
            return Ok(());
        };
        gone_is_fine_shared(
            self.ask(&pod, |reply| Request::Stop {
                id,
                grace,
                trace,
                reply,
            })
            .await,
        )
    }

    /// Removes a container, killing it first when it runs; one that is gone is fine.
    ///
    /// # Errors
    /// When parts of it cannot be removed; the rest is.
    pub async fn remove_container(&self, id: &str, trace: Trace) -> Result<(), SharedError> {
        let Some((pod, id)) = gone_is_fine(self.locate(id))? else {
            return Ok(());
        };
        gone_is_fine_shared(
            self.ask(&pod, |reply| Request::Remove { id, trace, reply })
                .await,
        )
    }

    /// Changes a container's resources.
    ///
    /// # Errors
    /// When its state forbids it or the OCI runtime fails.
    pub async fn update_container(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
        trace: Trace,
    ) -> Result<(), SharedError> {
        let found = self.container(id).map_err(Arc::new)?;
        let (pod, container) = (&found.pod.record, &found.container);
        let Some(subject) = Subject::container(&self.services, pod, container) else {
            let change = Change::Kubelet(Box::new(resources));
            return self.change_container(&container.id, change, trace).await;
        };
        // Asked before the pod's task is: what plugins want of other containers may be in this pod.
        let wanted = messages::resources_from_cri(&resources);
        let given = subject.ask_update(wanted.clone()).await;
        let given = given.map_err(Arc::new)?;
        let change = if given == wanted {
            Change::Kubelet(Box::new(resources))
        } else {
            Change::Plugins(Box::new(given))
        };
        self.change_container(&container.id, change, trace).await?;
        subject.tell(Event::PostUpdateContainer).await;
        Ok(())
    }

    /// Changes a container's resources without asking any plugin.
    ///
    /// # Errors
    /// As [`Pods::update_container`].
    pub async fn change_container(
        &self,
        id: &str,
        change: Change,
        trace: Trace,
    ) -> Result<(), SharedError> {
        let (pod, id) = self.locate(id).map_err(Arc::new)?;
        self.ask(&pod, |reply| Request::Update {
            id,
            change: Box::new(change),
            trace,
            reply,
        })
        .await
    }

    /// Changes what a whole pod may use.
    ///
    /// # Errors
    /// When the numbers make no sense, the pod is not ready, a plugin objects or the kernel refuses.
    pub async fn update_pod(&self, id: &str, limits: PodLimits) -> Result<(), SharedError> {
        limits.validate().map_err(Arc::new)?;
        let pod = self.pod(id).map_err(Arc::new)?;
        if let Some(subject) = Subject::pod(&self.services, &pod.record) {
            subject
                .ask_limits(limits.to_plugins())
                .await
                .map_err(Arc::new)?;
        }
        let limits = Box::new(limits);
        let asked = self.ask(&pod.record.id, |reply| Request::UpdatePod { limits, reply });
        asked.await?;
        let updated = self.pod(&pod.record.id).map_err(Arc::new)?;
        if let Some(subject) = Subject::pod(&self.services, &updated.record) {
            subject.tell(Event::PostUpdatePodSandbox).await;
        }
        Ok(())
    }

    /// Stops a pod: its containers, its network, its monitor. One that is gone is fine.
    ///
    /// # Errors
    /// When parts of it cannot be stopped; the rest is, and a repeated call does what is left.
    pub async fn stop_pod(&self, id: &str, trace: Trace) -> Result<(), SharedError> {
        let Some(pod) = gone_is_fine(self.pod(id))? else {
            return Ok(());
        };
        let answer = self
            .ask(&pod.record.id, |reply| Request::StopPod { trace, reply })
            .await;
        gone_is_fine_shared(answer)
    }

    /// Removes a pod and its containers. One that is gone is fine.
    ///
    /// # Errors
    /// When parts of it cannot be removed; the rest is, and a repeated call does what is left.
    pub async fn remove_pod(&self, id: &str, trace: Trace) -> Result<(), SharedError> {
        let Some(pod) = gone_is_fine(self.pod(id))? else {
            return Ok(());
        };
        let answer = self
            .ask(&pod.record.id, |reply| Request::RemovePod { trace, reply })
            .await;
        gone_is_fine_shared(answer)
    }

    /// The ids of the container and of its pod.
    fn locate(&self, container: &str) -> Result<(String, String), PodError> {
        let found = self.container(container)?;
        Ok((found.pod.record.id.clone(), found.container.id.clone()))
    }

    async fn ask<T>(
        &self,
        pod: &str,
        request: impl FnOnce(oneshot::Sender<Result<T, SharedError>>) -> Request,
    ) -> Result<T, SharedError> {
        let requests = self.read().pods.get(pod).map(|h| h.requests.clone());
        let gone = || Arc::new(not_found(Kind::Pod, pod));
        let mut requests = requests.ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| gone())?;
        drop(requests);
        answer.await.map_err(|_| gone())?
    }

    fn enter_container(&self, id: &str, pod: &str) {
        let mut index = self.write();
        let shared = index.pods.get(pod).map(|handle| handle.id.clone());
        let shared = shared.unwrap_or_else(|| pod.into());
        index.containers.insert(id.into(), shared);
    }

    fn forget_container(&self, id: &str) {
        self.write().containers.remove(id);
    }

    fn forget_pod(&self, record: &PodRecord) {
        let mut index = self.write();
        index.pods.remove(&record.id);
        index.containers.retain(|_, pod| **pod != *record.id);
        index
            .names
            .retain(|_, name| !matches!(name, Name::Taken(id) if **id == *record.id));
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        // Nothing panics while it holds the lock; if something did, the table is still whole.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is gone already needs no removal (the CRI's stop and remove calls are idempotent).
fn gone_is_fine<T>(found: Result<T, PodError>) -> Result<Option<T>, SharedError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(PodError::NotFound { .. }) => Ok(None),
        Err(error) => Err(Arc::new(error)),
    }
}

fn gone_is_fine_shared(answer: Result<(), SharedError>) -> Result<(), SharedError> {
    match answer {
        Err(error) if matches!(*error, PodError::NotFound { .. }) => Ok(()),
        other => other,
    }
}
