//! A pod sandbox that is asked for by its name: made once, however often it is asked for.
//!
//! Deliberately absent: the steps of the making (`sandbox.rs`).

use std::sync::Arc;

use futures::FutureExt as _;
use futures::channel::mpsc;
use husk_cri_api::v1;

use super::driver::Driver;
use super::table::{Handle, Index, Making, Name, SandboxKey};
use super::{News, Pods, Recovered, sandbox};
use crate::error::{Kind, PodError, SharedError};
use crate::fault;
use crate::monitors::Trace;
use crate::view::PodPhase;

/// Requests that may wait for one pod, besides one of each caller; more make their callers wait.
const QUEUE: usize = 64;

impl Pods {
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
