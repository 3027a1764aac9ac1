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
mod monitored;
mod plugins;
mod requests;
mod restarts;
mod sandbox;
mod takeover;
mod teardown;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, SinkExt as _};
use husk_cri_api::v1;
use husk_nri::api::Event;
use pod_monitor_client::{Events, Monitor};
use tokio::sync::{oneshot, watch};

pub use limits::PodLimits;
pub(crate) use takeover::Takeover;
pub(crate) use teardown::{remove_half_made, sweep};

use crate::container::Change;
use crate::error::{Kind, PodError, SharedError};
use crate::events;
use crate::fault;
use crate::monitors::{Escrow, Trace};
use crate::nri::{Subject, messages};
use crate::services::Services;
use crate::store::v1::{ContainerRecord, PodRecord};
use crate::view::{Found, PodPhase, PodView};
use driver::{Driver, Request};

/// Requests that may wait for one pod, besides one of each caller; more make their callers wait.
const QUEUE: usize = 64;

/// What identifies a sandbox to the kubelet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SandboxKey {
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
}

impl SandboxKey {
    fn new(metadata: &v1::PodSandboxMetadata) -> Self {
        Self {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            attempt: metadata.attempt,
        }
    }
}

type Making = Shared<BoxFuture<'static, Result<String, SharedError>>>;

/// Who has a name.
#[derive(Debug)]
enum Name {
    /// A pod that is being made; whoever asks again waits for the same end.
    Making(Making),
    /// The pod with this id.
    Taken(Arc<str>),
}

#[derive(Debug, Clone)]
struct Handle {
    /// The pod's, for whatever refers to it.
    id: Arc<str>,
    /// Of a kind that takes its room when something comes: tokio's take a kilobyte from the start on.
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<PodView>>,
}

#[derive(Debug, Default)]
struct Index {
    names: HashMap<SandboxKey, Name>,
    pods: BTreeMap<String, Handle>,
    /// Container id → pod id, which a pod's containers share.
    containers: BTreeMap<String, Arc<str>>,
}

/// The table of all pods; clones share it.
#[derive(Debug, Clone)]
pub struct Pods {
    services: Arc<Services>,
    index: Arc<RwLock<Index>>,
}

/// A pod to take over at start.
#[derive(Debug)]
pub struct Recovered {
    /// Its record, brought up to date.
    pub record: PodRecord,
    /// Its containers' records, brought up to date.
    pub containers: Vec<ContainerRecord>,
    /// Its monitor, if it was found alive or could be replaced.
    pub monitor: Option<(Monitor, Events)>,
    /// What its containers depend on, as far as it is held, by their ids.
    pub escrows: HashMap<String, Escrow>,
    /// Whether nothing of a stopped pod is left on the node.
    pub clean: bool,
    /// What subscribers are to hear of it.
    pub news: News,
}

/// What happened to a pod before the task that owns it began.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It was made.
    Made,
    /// It lived on while the controller was away: changes of containers, or of the pod itself, by
    /// id, in their order.
    Missed(Vec<(String, events::Kind)>),
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

    /// Makes a pod sandbox and answers its id. A repeated request joins the first.
    ///
    /// # Errors
    /// Whatever kept the sandbox from being made; nothing of it is left then.
    pub async fn run(
        &self,
        config: v1::PodSandboxConfig,
        handler: String,
        trace: Trace,
    ) -> Result<String, SharedError> {
        let metadata = config.metadata.clone().unwrap_or_default();
        if metadata.name.is_empty() {
            return Err(Arc::new(PodError::Invalid {
                subject: "metadata.name of the pod sandbox".into(),
                cause: "is empty".into(),
            }));
        }
        let key = SandboxKey::new(&metadata);
        let making = {
            let mut index = self.write();
            match index.names.get(&key) {
                Some(Name::Making(making)) => making.clone(),
                Some(Name::Taken(id)) => {
                    return existing_pod(&index, id, &config, &handler);
                }
                None => {
                    let making = self.start_making(key.clone(), config, handler, trace);
                    index.names.insert(key, Name::Making(making.clone()));
                    making
                }
            }
        };
        making.await
    }

    /// The creation goes on in a task of its own when the caller goes away.
    fn start_making(
        &self,
        key: SandboxKey,
        config: v1::PodSandboxConfig,
        handler: String,
        trace: Trace,
    ) -> Making {
        let pods = self.clone();
        let task = tokio::spawn(async move {
            let services = pods.services.clone();
            // Until the pod is entered below.
            let _hold = services.nri.hold().await;
            let making =
                tokio::spawn(
                    async move { sandbox::create(&services, config, handler, &trace).await },
                );
            // A panic must not keep the name.
            let made = making.await.unwrap_or_else(|_| {
                Err(PodError::Stopping {
                    id: key.name.clone(),
                })
            });
            match made {
                Ok(recovered) => {
                    let id = pods.adopt(recovered);
                    fault::point("pod.run.answer").map_err(|fired| Arc::new(fired.into()))?;
                    Ok(id)
                }
                Err(error) => {
                    pods.write().names.remove(&key);
                    Err(Arc::new(error))
                }
            }
        });
        async move {
            task.await.unwrap_or_else(|_| {
                Err(Arc::new(PodError::Stopping {
                    id: "a pod sandbox in the making".into(),
                }))
            })
        }
        .boxed()
        .shared()
    }

    /// Enters a whole pod and starts the task that owns it; answers its id.
    pub fn adopt(&self, mut recovered: Recovered) -> String {
        let news = std::mem::replace(&mut recovered.news, News::Missed(Vec::new()));
        let id = recovered.record.id.clone();
        let key = SandboxKey::new(&recovered.record.config().metadata.unwrap_or_default());
        let (requests, queue) = mpsc::channel(QUEUE);
        let (driver, view) = Driver::new(self.clone(), recovered, queue);
        let mut driver = Box::new(driver);
        {
            let mut index = self.write();
            let shared: Arc<str> = id.as_str().into();
            index.names.insert(key, Name::Taken(shared.clone()));
            for container in &view.borrow().containers {
                index
                    .containers
                    .insert(container.id.clone(), shared.clone());
            }
            let handle = Handle {
                id: shared,
                requests,
                view,
            };
            index.pods.insert(id.clone(), handle);
        }
        driver.announce(news);
        tokio::spawn(driver.run());
        id
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

/// A repeated RunPodSandbox gets the pod that it made; a different wish does not.
fn existing_pod(
    index: &Index,
    id: &str,
    config: &v1::PodSandboxConfig,
    handler: &str,
) -> Result<String, SharedError> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let exists = |why| {
        Arc::new(PodError::Exists {
            kind: Kind::Pod,
            name: format!("{}/{}", metadata.namespace, metadata.name),
            id: id.to_owned(),
            why,
        })
    };
    let Some(handle) = index.pods.get(id) else {
        return Err(exists("and is being removed"));
    };
    let view = handle.view.borrow();
    if view.phase != PodPhase::Ready {
        return Err(exists("and is not ready: remove it first"));
    }
    if view.record.config() != *config {
        return Err(exists("with another configuration"));
    }
    if view.record.handler != handler {
        return Err(exists("with another runtime handler"));
    }
    Ok(id.to_owned())
}

fn not_found(kind: Kind, id: &str) -> PodError {
    PodError::NotFound {
        kind,
        id: id.to_owned(),
    }
}

/// The full id for an id or an unambiguous beginning of one.
fn resolve<V>(table: &BTreeMap<String, V>, kind: Kind, id: &str) -> Result<String, PodError> {
    if id.is_empty() {
        return Err(PodError::Invalid {
            subject: format!("id of the {kind}"),
            cause: "is empty".into(),
        });
    }
    if table.contains_key(id) {
        return Ok(id.to_owned());
    }
    let mut fits = table
        .range(id.to_owned()..)
        .map(|(key, _)| key)
        .take_while(|key| key.starts_with(id));
    match (fits.next(), fits.count()) {
        (None, _) => Err(not_found(kind, id)),
        (Some(only), 0) => Ok(only.clone()),
        (Some(_), more) => Err(PodError::Ambiguous {
            kind,
            id: id.to_owned(),
            count: more + 1,
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_an_unambiguous_beginning() {
        let table: BTreeMap<String, ()> = ["aa1", "aa2", "b"].map(|id| (id.to_owned(), ())).into();
        let find = |id: &str| resolve(&table, Kind::Pod, id).map_err(|e| e.to_string());
        assert_eq!(find("aa1"), Ok("aa1".into()));
        assert_eq!(find("b"), Ok("b".into()));
        assert_eq!(
            find("aa"),
            Err("pod sandbox id \"aa\" is ambiguous: it fits 2 of them".into())
        );
        assert_eq!(find("c"), Err("pod sandbox \"c\" does not exist".into()));
        assert!(find("").is_err_and(|e| e.contains("empty")));
    }
}
