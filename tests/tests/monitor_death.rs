//! A pod's monitor is killed: another one takes the pod over, and its containers notice nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use husk_tests::config::namespaces;
use husk_tests::cri::{self, ContainerState, NamespaceMode, PodSandboxState};
use husk_tests::process::{Process, ends_are_kept, monitor, monitors};
use husk_tests::service::ServiceManager;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, cgroup, container, logs, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes a number every few milliseconds, and ends with 7 when it is told to.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";

/// A pod with a container that counts.
struct Counter {
    pod: Pod,
    container: String,
    /// How often its monitor was killed.
    kills: usize,
}

impl Counter {
    async fn begin(node: &Arc<Node>, pid: NamespaceMode) -> Result<Self> {
        let mut config = node.host_pod("counter");
        namespaces(&mut config).pid = pid.into();
        let pod = Pod::run(node.clone(), config).await?;
        let mut main = container("main", COUNT);
        main.linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
            .namespace_options
            .get_or_insert_default()
            .pid = pid.into();
        let container = pod.launch(main).await?;
        let counter = Self {
            pod,
            container,
            kills: 0,
        };
        counter.goes_on().await?;
        Ok(counter)
    }

    fn monitor(&self) -> Option<u32> {
        monitor(&self.pod.id).map(|found| found.pid)
    }

    fn kill_monitor(&mut self) -> Result<u32> {
        let monitor = self.monitor().context("no monitor")?;
        kill(Pid::from_raw(i32::try_from(monitor)?), Signal::SIGKILL)?;
        self.kills += 1;
        Ok(monitor)
    }

    async fn info(&self) -> Option<BTreeMap<String, serde_json::Value>> {
        let status = self
            .pod
            .client
            .verbose_pod_status(&self.pod.id)
            .await
            .ok()?;
        serde_json::from_str(status.info.get("info")?).ok()
    }

    /// How often the pod's metrics say that it has another one.
    async fn metric(&self) -> Result<u64> {
        let request = cri::ListPodSandboxMetricsRequest {};
        let mut runtime = self.pod.client.runtime.clone();
        let answer = runtime.list_pod_sandbox_metrics(request).await?;
        let mut pods = answer.into_inner().items.into_iter();
        let pod = pods.find(|it| it.pod_sandbox_id == self.pod.id);
        let mut metrics = pod.context("no metrics")?.metrics.into_iter();
        let metric = metrics.find(|it| it.name == "container_monitor_restarts_total");
        Ok(metric.and_then(|it| it.value).context("no metric")?.value)
    }

    /// Waits until the pod has another monitor than this one, so many in all.
    async fn has_another(&self, before: u32, restarts: usize) -> Result<()> {
        wait_for("another monitor", DEADLINE, async || {
            let info = self.info().await?;
            let pid = info.get("monitorPid")?.as_u64()?;
            let counted = info.get("monitorRestarts")?.as_u64()?;
            (pid != u64::from(before) && counted == restarts as u64).then_some(())
        })
        .await
    }

    /// Waits until there are more lines. None is doubled, and what a monitor had in its hand is all that is missing.
    async fn goes_on(&self) -> Result<()> {
        let log = self.pod.log("main");
        let before = logs::read(&log).map_or(0, |lines| lines.len());
        wait_for("more lines", DEADLINE, async || {
            let lines = logs::read(&log).ok()?;
            (lines.len() > before + 5).then_some(())
        })
        .await?;
        counted(&log, self.kills)
    }

    /// It runs, and is the process that it was.
    async fn lives(&self, pid: u64) -> Result<()> {
        let status = self.pod.client.container_status(&self.container).await?;
        ensure!(
            status.state() == ContainerState::ContainerRunning,
            "{status:?}"
        );
        ensure!(self.first_process().await? == pid, "it is another process");
        let pod = self.pod.client.pod_status(&self.pod.id).await?;
        ensure!(pod.state() == PodSandboxState::SandboxReady, "{pod:?}");
        Ok(())
    }

    /// The monitor, and the init where there is one, are in the monitor's own cgroup.
    fn is_accounted(&self) -> Result<()> {
        let own = format!("pod-monitor-{}", self.pod.id);
        let mut cgroups = cgroup::tree(&cgroup::tracking_root()).into_iter();
        let cgroup = cgroups.find(|path| path.to_string_lossy().contains(&own));
        let inside = cgroup::processes(&cgroup.context("no cgroup of the monitor's own")?);
        let monitors = monitors(&self.pod.id);
        ensure!(!monitors.is_empty(), "no monitor");
        for process in monitors {
            ensure!(inside.contains(&process.pid), "{inside:?} lack {process:?}");
        }
        Ok(())
    }

    async fn first_process(&self) -> Result<u64> {
        let client = &self.pod.client;
        let status = client.verbose_container_status(&self.container).await?;
        let info = status.info.get("info").context("no info")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        info["pid"].as_u64().context("no pid")
    }

    /// What can be done with a container, and its end, which comes with its code.
    async fn ends_well(self, code: &[i32]) -> Result<()> {
        let client = &self.pod.client;
        assert_eq!(client.shell(&self.container, "echo hello").await?, "hello");
        let log = self.pod.log("main");
        std::fs::rename(&log, log.with_extension("old"))?;
        client.reopen_log(&self.container).await?;
        wait_for("a new log", DEADLINE, async || {
            (!logs::read(&log).ok()?.is_empty()).then_some(())
        })
        .await?;
        client.stop(&self.container, 20).await?;
        let status = client.container_status(&self.container).await?;
        ensure!(code.contains(&status.exit_code), "{status:?}");
        let processes: Vec<u32> = monitors(&self.pod.id).iter().map(|it| it.pid).collect();
        self.pod.delete().await?;
        wait_for("every process of the pod is gone", DEADLINE, async || {
            let left = processes.iter().filter_map(|pid| Process::find(*pid));
            (left.count() == 0).then_some(())
        })
        .await
    }
}

/// Lines of a counter count, but for a short gap for each kill.
fn counted(log: &Path, kills: usize) -> Result<()> {
    let (mut next, mut gaps) = (0, 0);
    for line in logs::read(log)? {
        let number: usize = line.text.parse().with_context(|| format!("{line:?}"))?;
        ensure!(number >= next, "{number} comes again");
        // They come 10 ms apart: more than a few would be more than one read.
        ensure!(number - next <= 3, "{next} to {number} are missing");
        gaps += usize::from(number > next);
        next = number + 1;
    }
    ensure!(gaps <= kills, "{gaps} gaps after {kills} kills");
    Ok(())
}

async fn node() -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Node::start(NodeOptions::default()).await?.into()))
}

#[tokio::test]
async fn a_container_outlives_its_monitor_again_and_again() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    for pid in [NamespaceMode::Pod, NamespaceMode::Container] {
        let mut counter = Counter::begin(&node, pid).await?;
        counter.is_accounted()?;
        let process = counter.first_process().await?;
        let mut runtime = counter.pod.client.runtime.clone();
        let events = runtime.get_container_events(cri::GetEventsRequest {});
        let mut events = events.await?.into_inner();
        for restarts in 1..=2 {
            let killed = counter.kill_monitor()?;
            counter.has_another(killed, restarts).await?;
            counter.is_accounted()?;
            counter.lives(process).await?;
            counter.goes_on().await?;
        }
        assert_eq!(counter.metric().await?, 2);
        counter.ends_well(&[7]).await?;
        // What the CRI has events for has not happened until then.
        let first = events.message().await?.context("no event")?;
        let stopped = cri::ContainerEventType::ContainerStoppedEvent;
        assert_eq!(first.container_event_type(), stopped, "{first:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_exit_that_no_monitor_saw_has_its_code_and_its_output() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let pod = Pod::run(node.clone(), node.host_pod("leaver")).await?;
    let script = "echo first; while ! test -e /tmp/go; do sleep 0.01; done; seq 1 2000; exit 3";
    let id = pod.launch(container("main", script)).await?;
    logs::wait_for_line(&pod.log("main"), "first", DEADLINE).await?;
    pod.client.shell(&id, "touch /tmp/go").await?;
    let monitor = monitor(&pod.id).context("no monitor")?.pid;
    kill(Pid::from_raw(i32::try_from(monitor)?), Signal::SIGKILL)?;
    let status = pod.client.wait_exit(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    let log = logs::read(&pod.log("main"))?;
    assert_eq!(log.last().map(|line| line.text.as_str()), Some("2000"));
    pod.delete().await
}

/// The codes that a container may end with that nobody could wait for.
fn codes() -> &'static [i32] {
    if ends_are_kept() { &[7] } else { &[7, 255] }
}

#[tokio::test]
async fn a_container_outlives_its_monitor_and_the_daemon_where_it_has_its_pipes() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    for pid in [NamespaceMode::Pod, NamespaceMode::Container] {
        // Without a store nobody holds the pipes meanwhile, so it must not write: it would break.
        let mut config = node.host_pod("patient");
        namespaces(&mut config).pid = pid.into();
        let pod = Pod::run(node.clone(), config).await?;
        let script = "trap 'exit 7' TERM; echo 0; while ! test -e /tmp/go; do sleep 0.05; done; \
                      i=1; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
        let container = pod.launch(container("main", script)).await?;
        logs::wait_for_line(&pod.log("main"), "0", DEADLINE).await?;
        let mut counter = Counter {
            pod,
            container,
            kills: 0,
        };
        let process = counter.first_process().await?;
        node.end_daemon(Signal::SIGKILL)?;
        let killed = counter.kill_monitor()?;
        wait_for("the monitor is gone", DEADLINE, async || {
            Process::find(killed).is_none().then_some(())
        })
        .await?;
        node.launch().await?;
        counter.pod.client = node.client().await?;
        counter.has_another(killed, 1).await?;
        counter.lives(process).await?;
        let client = &counter.pod.client;
        client.shell(&counter.container, "touch /tmp/go").await?;
        counter.goes_on().await?;
        counter.ends_well(codes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn with_a_store_of_descriptors_nothing_breaks_when_both_die() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let service = Arc::new(ServiceManager::start(directory.path())?);
    let options = NodeOptions {
        service: Some(service.clone()),
        ..NodeOptions::default()
    };
    let node = Arc::new(Node::start(options).await?);
    let mut counter = Counter::begin(&node, NamespaceMode::Pod).await?;
    let process = counter.first_process().await?;
    for restarts in 1..=2 {
        assert_eq!(service.stored().len(), 3, "{:?}", service.stored());
        node.end_daemon(Signal::SIGKILL)?;
        let killed = counter.kill_monitor()?;
        node.launch().await?;
        counter.pod.client = node.client().await?;
        counter.has_another(killed, restarts).await?;
        counter.lives(process).await?;
        counter.goes_on().await?;
    }
    // And a daemon that comes back to a living monitor keeps what it had.
    node.crash().await?;
    counter.pod.client = node.client().await?;
    counter.goes_on().await?;
    wait_for("all is stored", DEADLINE, async || {
        (service.stored().len() == 3).then_some(())
    })
    .await?;
    counter.ends_well(codes()).await?;
    assert_eq!(service.stored(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_monitor_that_dies_again_and_again_is_given_up_with_its_pod() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let mut counter = Counter::begin(&node, NamespaceMode::Container).await?;
    let processes: Vec<u32> = monitors(&counter.pod.id)
        .iter()
        .flat_map(|monitor| husk_tests::process::descendants(monitor.pid))
        .map(|found| found.pid)
        .collect();
    for restarts in 1..=6 {
        let killed = counter.kill_monitor()?;
        counter.has_another(killed, restarts).await?;
    }
    counter.kill_monitor()?;
    let client = &counter.pod.client;
    wait_for("the pod is not ready", DEADLINE, async || {
        let status = client.pod_status(&counter.pod.id).await.ok()?;
        (status.state() == PodSandboxState::SandboxNotready).then_some(())
    })
    .await?;
    let status = client.container_status(&counter.container).await?;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    wait_for("the cause", DEADLINE, async || {
        let info = counter.info().await?;
        let reason = info.get("reason")?.as_str()?;
        (reason == "the pod's monitor ended again and again").then_some(())
    })
    .await?;
    client.delete_pod(&counter.pod.id).await?;
    wait_for("every process of the pod is gone", DEADLINE, async || {
        let left = processes.iter().filter_map(|pid| Process::find(*pid));
        (left.count() == 0).then_some(())
    })
    .await
}
