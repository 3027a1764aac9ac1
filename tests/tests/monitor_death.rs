//! A pod's monitor is killed: the pod is shown as it is, and nothing of it stays.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::config::namespaces;
use husk_tests::cri::{ContainerState, NamespaceMode, PodSandboxState};
use husk_tests::process::{Process, monitors};
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, container, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Victim {
    pod: Pod,
    container: String,
    processes: Vec<u32>,
}

impl Victim {
    /// A pod with one container, and the pids of everything that runs for it.
    async fn begin(node: &Arc<Node>, pid: NamespaceMode) -> Result<Self> {
        let mut config = node.host_pod("victim");
        namespaces(&mut config).pid = pid.into();
        let pod = Pod::run(node.clone(), config).await?;
        let mut main = container("main", "sleep 600 & exec sleep 601");
        let options = main
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
            .namespace_options
            .get_or_insert_default();
        options.pid = pid.into();
        let container = pod.launch(main).await?;
        let monitors = monitors(&pod.id);
        let mut processes: Vec<u32> = monitors.iter().map(|found| found.pid).collect();
        for monitor in &monitors {
            let descendants = husk_tests::process::descendants(monitor.pid);
            processes.extend(descendants.iter().map(|found| found.pid));
        }
        assert!(
            processes.len() >= 3,
            "the monitor and two sleepers: {processes:?}"
        );
        Ok(Self {
            pod,
            container,
            processes,
        })
    }

    fn kill_monitor(&self) -> Result<()> {
        let monitor = self.processes.first().context("no monitor")?;
        Ok(kill(
            Pid::from_raw(i32::try_from(*monitor)?),
            Signal::SIGKILL,
        )?)
    }

    /// The truth is shown, and the pod can be removed without anything left of it.
    async fn ends_well(mut self, node: &Arc<Node>) -> Result<()> {
        self.pod.client = node.client().await?;
        let client = &self.pod.client;
        wait_for("the pod is not ready", DEADLINE, async || {
            let status = client.pod_status(&self.pod.id).await.ok()?;
            (status.state() == PodSandboxState::SandboxNotready).then_some(())
        })
        .await?;
        let status = client.container_status(&self.container).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
        client.delete_pod(&self.pod.id).await?;
        wait_for("every process of the pod is gone", DEADLINE, async || {
            let left = self.processes.iter().filter_map(|pid| Process::find(*pid));
            (left.count() == 0).then_some(())
        })
        .await
    }
}

async fn node() -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Node::start(NodeOptions::default()).await?.into()))
}

#[tokio::test]
async fn a_monitor_that_is_killed_leaves_nothing_of_its_pod() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    for pid in [NamespaceMode::Pod, NamespaceMode::Container] {
        let victim = Victim::begin(&node, pid).await?;
        victim.kill_monitor()?;
        victim.ends_well(&node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_monitor_that_is_killed_while_the_daemon_is_away_leaves_nothing_of_its_pod() -> Result<()>
{
    let Some(node) = node().await? else {
        return Ok(());
    };
    for pid in [NamespaceMode::Pod, NamespaceMode::Container] {
        let victim = Victim::begin(&node, pid).await?;
        node.end_daemon(Signal::SIGKILL)?;
        victim.kill_monitor()?;
        node.launch().await?;
        victim.ends_well(&node).await?;
    }
    Ok(())
}
