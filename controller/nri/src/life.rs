//! A plugin's life: it is admitted to those that are asked, its own calls are answered, and it is taken
//! out at its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use crate::connection::Incoming;
use crate::error::Refusal;
use crate::handshake::Joined;
use crate::plugin::{Plugin, RUNTIME_SERVICE};
use crate::plugins::Inner;
use crate::ttrpc::{Response, code};
use crate::{Node, api};

impl Inner {
    /// Makes a configured plugin one of those that are asked, and tells it the state. Answers the
    /// changes of containers that it wants.
    async fn admit(
        self: &Arc<Self>,
        plugin: Plugin,
        node: &Arc<dyn Node>,
    ) -> Result<Vec<api::ContainerUpdate>, Refusal> {
        let _gate = self.gate.write().await;
        let mut plugins = self.plugins.lock().await;
        self.count.fetch_add(1, Ordering::SeqCst);
        let (pods, containers) = node.state().await;
        let (pod_count, container_count) = (pods.len(), containers.len());
        match plugin.synchronize(pods, containers).await {
            Ok(updates) => {
                tracing::info!(plugin = %plugin.name(), pods = pod_count,
                    containers = container_count, "an NRI plugin is synchronised");
                let place = plugins.partition_point(|other| other.name() <= plugin.name());
                plugins.insert(place, plugin);
                Ok(updates)
            }
            Err(error) => {
                self.count.fetch_sub(1, Ordering::SeqCst);
                plugin.end().await;
                Err(error)
            }
        }
    }

    /// Takes out plugins whose connection has ended.
    async fn drop_closed(&self) {
        let gone: Vec<_> = {
            let mut plugins = self.plugins.lock().await;
            let gone = plugins.extract_if(.., |plugin| plugin.connection.is_closed());
            gone.collect()
        };
        self.count.fetch_sub(gone.len(), Ordering::SeqCst);
        for plugin in gone {
            tracing::info!(plugin = %plugin.name(), "an NRI plugin is gone");
            plugin.end().await;
        }
    }

    /// One plugin's life: it is admitted, its calls are answered, and it is taken out at its end.
    pub(crate) async fn keep(
        self: Arc<Self>,
        (plugin, mut incoming): Joined,
        node: Arc<dyn Node>,
        admitted: oneshot::Sender<()>,
    ) {
        let (name, mut closed) = (plugin.name(), plugin.connection.closed());
        let life = async {
            match self.admit(plugin, &node).await {
                Ok(updates) => apply(&node, &name, updates).await,
                Err(error) => {
                    tracing::warn!(plugin = %name, error = &error as &dyn std::error::Error,
                        "an NRI plugin is not synchronised");
                    return;
                }
            }
            drop(admitted);
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let calls = async {
            answer_calls(&name, &mut incoming, &node).await;
            std::future::pending().await
        };
        tokio::select! {
            () = life => {}
            () = calls => {}
        }
        self.drop_closed().await;
    }
}

/// Changes containers as a plugin asked without anybody waiting for the answer.
async fn apply(node: &Arc<dyn Node>, plugin: &str, updates: Vec<api::ContainerUpdate>) {
    if updates.is_empty() {
        return;
    }
    for failed in node.update(updates).await {
        if !failed.ignore_failure {
            tracing::warn!(plugin, container = %failed.container_id,
                "an update that an NRI plugin asked for failed");
        }
    }
}

/// Answers a plugin's calls, one after the other, until the connection ends.
async fn answer_calls(plugin: &str, incoming: &mut mpsc::Receiver<Incoming>, node: &Arc<dyn Node>) {
    while let Some(call) = incoming.recv().await {
        let request = &call.request;
        let response = match (request.service.as_str(), request.method.as_str()) {
            (RUNTIME_SERVICE, "UpdateContainers") => {
                update_containers(plugin, request.payload.clone(), node).await
            }
            (RUNTIME_SERVICE, "RegisterPlugin") => {
                Response::error(code::INVALID_ARGUMENT, "registered already")
            }
            (service, method) => Response::error(
                code::UNIMPLEMENTED,
                format!("{service}/{method} is not known"),
            ),
        };
        call.answer(response).await;
    }
}

async fn update_containers(plugin: &str, payload: bytes::Bytes, node: &Arc<dyn Node>) -> Response {
    let asked = match api::UpdateContainersRequest::decode(payload) {
        Ok(asked) => asked,
        Err(error) => return Response::error(code::INVALID_ARGUMENT, error.to_string()),
    };
    tracing::info!(
        plugin,
        updates = asked.update.len(),
        evictions = asked.evict.len(),
        "an NRI plugin changes containers"
    );
    let failed = node.update(asked.update).await;
    if !asked.evict.is_empty() {
        node.evict(plugin.to_owned(), asked.evict).await;
    }
    Response::ok(&api::UpdateContainersResponse { failed })
}
