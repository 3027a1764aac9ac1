//! A running pod with a client at hand: how most tests begin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::client::Client;
use crate::cri;
use crate::node::{Node, NodeOptions};

/// A pod that a test made. A test that fails leaves it to the node, which removes everything at its end.
#[derive(Debug)]
pub struct Pod {
    pub node: Arc<Node>,
    pub client: Client,
    pub config: cri::PodSandboxConfig,
    pub id: String,
}

impl Pod {
    /// A pod on the shared node, on the node's own network: quick, and enough where the network is not the subject.
    pub async fn on_host(name: &str) -> Result<Self> {
        let node = Node::shared().await?;
        let config = node.host_pod(name);
        Self::run(node, config).await
    }

    /// A pod on the shared node with an address of its own.
    pub async fn on_network(name: &str) -> Result<Self> {
        let node = Node::shared().await?;
        let config = node.pod(name);
        Self::run(node, config).await
    }

    /// A pod on a node of its own, for a test that compares the whole node before and after.
    pub async fn alone(name: &str) -> Result<Self> {
        let node = Arc::new(Node::start(NodeOptions::default()).await?);
        let config = node.host_pod(name);
        Self::run(node, config).await
    }

    pub async fn run(node: Arc<Node>, config: cri::PodSandboxConfig) -> Result<Self> {
        let client = node.client().await?;
        let id = client.run_pod(&config).await?;
        Ok(Self {
            node,
            client,
            config,
            id,
        })
    }

    pub async fn create(&self, container: cri::ContainerConfig) -> Result<String> {
        Ok(self
            .client
            .create(&self.id, &self.config, container)
            .await?)
    }

    /// Creates and starts a container.
    pub async fn launch(&self, container: cri::ContainerConfig) -> Result<String> {
        Ok(self
            .client
            .launch(&self.id, &self.config, container)
            .await?)
    }

    /// Runs a container to its end and returns its status and the lines of its standard output.
    pub async fn once(
        &self,
        container: cri::ContainerConfig,
    ) -> Result<(cri::ContainerStatus, Vec<String>)> {
        self.client
            .run_to_end(&self.id, &self.config, container)
            .await
    }

    /// The log file of the container called `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        Path::new(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// Stops and removes the pod with its containers.
    pub async fn delete(self) -> Result<()> {
        Ok(self.client.delete_pod(&self.id).await?)
    }
}
