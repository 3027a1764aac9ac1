//! The daemon stops, is killed and comes back with pods running: nothing of them is lost.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use husk_tests::config::namespaces;
use husk_tests::cri::{self, ContainerState, NamespaceMode, PodSandboxState};
use husk_tests::process;
use husk_tests::service::ServiceManager;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, Snapshot, container, logs, settings, wait_for};
use nix::sys::signal::Signal;

/// A node of the test's own; none on an endpoint that the harness cannot restart.
async fn node() -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Node::start(NodeOptions::default()).await?.into()))
}

/// The containers of one pod, each in another state, and the pod's status before the daemon goes.
struct Life {
    writer: String,
    leaver: String,
    created: String,
    ended: String,
    sandbox: cri::PodSandboxStatus,
}

impl Life {
    async fn begin(pod: &Pod) -> Result<Self> {
        let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
        let writer = pod.launch(container("writer", script)).await?;
        let script = "while ! test -e /tmp/go; do sleep 0.05; done; echo last words; exit 33";
        let leaver = pod.launch(container("leaver", script)).await?;
        let created = pod.create(container("created", "exit 4")).await?;
        let ended = pod.launch(container("ended", "exit 5")).await?;
        pod.client.wait_exit(&ended).await?;
        let sandbox = pod.client.pod_status(&pod.id).await?;
        Ok(Self {
            writer,
            leaver,
            created,
            ended,
            sandbox,
        })
    }

    /// While the daemon is down, the leaver leaves and the writer writes on.
    async fn goes_on(pod: &Pod) -> Result<()> {
        logs::wait_for_line(&pod.log("leaver"), "last words", DEADLINE).await?;
        let lines = logs::read(&pod.log("writer"))?.len() + 50;
        wait_for("lines while the daemon is down", DEADLINE, async || {
            logs::read(&pod.log("writer"))
                .ok()
                .filter(|log| log.len() > lines)
        })
        .await?;
        Ok(())
    }

    async fn is_as_before(&self, pod: &Pod, down_until: jiff::Timestamp) -> Result<()> {
        let client = &pod.client;
        let status = client.pod_status(&pod.id).await?;
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status, self.sandbox);
        let left = client.wait_exit(&self.leaver).await?;
        assert_eq!(left.exit_code, 33);
        let late = i128::from(left.finished_at) >= down_until.as_nanosecond();
        assert!(
            !late,
            "the exit has the time of the daemon's return, not its own"
        );
        assert_eq!(client.container_status(&self.ended).await?.exit_code, 5);
        assert_eq!(
            client.container_status(&self.writer).await?.state(),
            ContainerState::ContainerRunning
        );
        assert_eq!(
            client.container_status(&self.created).await?.state(),
            ContainerState::ContainerCreated
        );
        client.start(&self.created).await?;
        assert_eq!(client.wait_exit(&self.created).await?.exit_code, 4);
        assert_eq!(
            client.shell(&self.writer, "echo exec works").await?,
            "exec works"
        );
        Ok(())
    }
}

async fn survives(signal: Signal) -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let config = node.pod("survivor");
    let mut pod = Pod::run(node.clone(), config).await?;
    let life = Life::begin(&pod).await?;
    pod.client
        .shell(&life.leaver, "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &")
        .await?;
    let leaver = first_process(&pod, &life.leaver).await?;
    node.end_daemon(signal)?;
    Life::goes_on(&pod).await?;
    process::wait_for_reaped(leaver, DEADLINE).await?;
    let down_until = jiff::Timestamp::now();
    node.launch().await?;
    pod.client = node.client().await?;
    life.is_as_before(&pod, down_until).await?;

    pod.client.stop(&life.writer, 0).await?;
    let lines = logs::text(&logs::read(&pod.log("writer"))?, "stdout");
    let whole = lines
        .iter()
        .enumerate()
        .all(|(index, line)| *line == (index + 1).to_string());
    assert!(whole, "a line is missing or doubled");
    pod.delete().await
}

#[tokio::test]
async fn pods_exits_and_log_lines_survive_a_stop() -> Result<()> {
    survives(Signal::SIGTERM).await
}

#[tokio::test]
async fn pods_exits_and_log_lines_survive_a_kill() -> Result<()> {
    survives(Signal::SIGKILL).await
}

#[tokio::test]
async fn a_stop_goes_on_while_the_daemon_is_away() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let mut pod = Pod::run(node.clone(), node.host_pod("stops")).await?;
    // One ends by itself in its grace period, one is killed when that is over.
    let rows = [
        ("gentle", "trap 'echo told; sleep 1; exit 7' TERM", 20, 7),
        ("stubborn", "trap 'echo told' TERM", 3, 137),
    ];
    for (name, trap, grace, code) in rows {
        let script = format!("{trap}; echo ready; while :; do sleep 0.05; done");
        let id = pod.launch(container(name, &script)).await?;
        logs::wait_for_line(&pod.log(name), "ready", DEADLINE).await?;
        let first = first_process(&pod, &id).await?;
        let (client, stopped) = (pod.client.clone(), id.clone());
        let begin = jiff::Timestamp::now();
        let stop = tokio::spawn(async move { client.stop(&stopped, grace).await });
        logs::wait_for_line(&pod.log(name), "told", DEADLINE).await?;
        node.end_daemon(Signal::SIGKILL)?;
        assert!(stop.await?.is_err(), "whoever asked for it is told");
        process::wait_for_reaped(first, DEADLINE).await?;
        let down_until = jiff::Timestamp::now();
        node.launch().await?;
        pod.client = node.client().await?;
        pod.client.stop(&id, grace).await?;
        let status = pod.client.container_status(&id).await?;
        assert_eq!(status.exit_code, code, "{status:?}");
        assert!(i128::from(status.finished_at) < down_until.as_nanosecond());
        if code == 137 {
            let took = i128::from(status.finished_at) - begin.as_nanosecond();
            assert!(took >= i128::from(grace) * 1_000_000_000, "after {took} ns");
        }
    }
    pod.delete().await
}

async fn first_process(pod: &Pod, container: &str) -> Result<u32> {
    let status = pod.client.verbose_container_status(container).await?;
    let info = status.info.get("info").context("no info")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    Ok(u32::try_from(info["pid"].as_u64().context("no pid")?)?)
}

/// As many lines of 8 KiB as 50 MB/s are in half a minute, as fast as they are taken.
const FAST_LINES: usize = 50_000_000 * 30 / 8192;

fn fast_writer() -> String {
    format!(
        "while ! test -e /tmp/go; do sleep 0.02; done; awk 'BEGIN {{ x = \"x\"; while (length(x) < 8192) x = x x; \
         for (i = 1; i <= {FAST_LINES}; i++) print i, x }}'; exit 9"
    )
}

#[tokio::test]
async fn a_container_that_writes_fast_loses_nothing_while_the_daemon_is_away() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let mut pod = Pod::run(node.clone(), node.host_pod("fast")).await?;
    let id = pod.launch(container("main", &fast_writer())).await?;
    let first = first_process(&pod, &id).await?;
    let go = "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &";
    pod.client.shell(&id, go).await?;
    node.end_daemon(Signal::SIGKILL)?;
    assert!(!pod.log("main").exists() || logs::read(&pod.log("main"))?.is_empty());
    process::wait_for_reaped(first, DEADLINE * 10).await?;
    let down_until = jiff::Timestamp::now();
    node.launch().await?;
    pod.client = node.client().await?;
    let status = pod.client.wait_exit(&id).await?;
    assert_eq!(status.exit_code, 9, "{status:?}");
    assert!(i128::from(status.finished_at) < down_until.as_nanosecond());
    let mut times = Vec::new();
    for line in BufReader::new(File::open(pod.log("main"))?).lines() {
        let line = logs::parse(&line?)?.remove(0);
        times.push(line.time);
        let count = times.len();
        let (number, rest) = line.text.split_once(' ').context("no number")?;
        let whole = line.full && number == count.to_string() && rest.len() == 8192;
        assert!(whole, "line {count} is {number} with {} bytes", rest.len());
    }
    assert_eq!(times.len(), FAST_LINES);
    let took = times[times.len() - 1].duration_since(times[0]);
    eprintln!("1.5 GB of log in {took:?} without a daemon");
    pod.delete().await
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_comes_back_and_the_retry_gets_the_right_answer() -> Result<()>
{
    let Some(node) = node().await? else {
        return Ok(());
    };
    for milliseconds in [0, 1, 3, 7, 15, 30, 60, 120] {
        let config = node.host_pod(&format!("moment-{milliseconds}"));
        let client = node.client().await?;
        let creation = async {
            let pod = client.run_pod(&config).await?;
            client
                .launch(&pod, &config, container("main", "exec sleep 600"))
                .await
        };
        // The moment is the variable of this test, not something it waits for.
        let moment = Duration::from_millis(milliseconds);
        let _cut = tokio::time::timeout(moment, creation).await;
        node.crash().await?;
        let client = node.client().await?;
        let pod = client.run_pod(&config).await?;
        // A kubelet looks before it creates: the container may be there already.
        let main = match client.containers(None).await?.pop() {
            Some(found) => found.id,
            None => {
                client
                    .create(&pod, &config, container("main", "exec sleep 600"))
                    .await?
            }
        };
        if client.container_status(&main).await?.state() == ContainerState::ContainerCreated {
            client.start(&main).await?;
        }
        assert_eq!(
            client.container_status(&main).await?.state(),
            ContainerState::ContainerRunning
        );
        assert_eq!(client.pods(None).await?.len(), 1, "after {milliseconds} ms");
        assert_eq!(
            client.containers(None).await?.len(),
            1,
            "after {milliseconds} ms"
        );
        client.delete_pod(&pod).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_address_is_given_back_by_a_daemon_that_did_not_take_it() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    // The daemon is another one afterwards, with other descriptors and another process id.
    let lasting = |snapshot: Snapshot| {
        snapshot
            .only("descriptors", |_| false)
            .only("processes", |_| false)
    };
    let before = lasting(node.settled().await?);
    let pod = node.client().await?.run_pod(&node.pod("addressed")).await?;
    node.crash().await?;
    node.client().await?.delete_pod(&pod).await?;
    let clean = wait_for("all given back", DEADLINE / 3, async || {
        before.assert_same(&lasting(node.snapshot())).ok()
    });
    clean
        .await
        .or_else(|_late| before.assert_same(&lasting(node.snapshot())))
}

#[tokio::test]
async fn a_shared_pid_pod_survives_a_kill() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let mut config = node.host_pod("shared");
    namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let mut pod = Pod::run(node.clone(), config).await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    node.crash().await?;
    pod.client = node.client().await?;
    assert_eq!(pod.client.shell(&id, "echo here").await?, "here");
    pod.delete().await
}

#[tokio::test]
async fn a_network_that_was_changed_meanwhile_is_told_of_by_cni_check() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let changed = Pod::run(node.clone(), node.pod("changed")).await?;
    let intact = Pod::run(node.clone(), node.pod("intact")).await?;
    node.end_daemon(Signal::SIGTERM)?;
    let namespace = node
        .directory()
        .join("run/pods")
        .join(&changed.id)
        .join("ns/net");
    let flush = format!(
        "nsenter --net={} ip address flush dev eth0",
        namespace.display()
    );
    node.script(&flush)?;
    node.launch().await?;
    let told = |id: &str| {
        let log = node.log_tail(1000);
        let mut lines = log.lines().map(str::to_owned);
        lines.find(|line| line.contains("network is not as it was") && line.contains(id))
    };
    let line = wait_for("the warning", DEADLINE, async || told(&changed.id)).await?;
    assert!(line.contains("bridge"), "{line}");
    let client = node.client().await?;
    let status = client.pod_status(&changed.id).await?;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    for pod in [changed, intact] {
        let id = pod.id.clone();
        client.delete_pod(&id).await?;
        assert_eq!(told(&id).is_some(), pod.config.hostname == "changed");
    }
    Ok(())
}

#[tokio::test]
async fn the_service_manager_hears_when_recovery_is_over_and_that_the_daemon_lives() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let service = ServiceManager::start(directory.path())?;
    let service = Arc::new(service.with_watchdog(Duration::from_millis(200)));
    let options = NodeOptions {
        service: Some(service.clone()),
        ..Default::default()
    };
    let node = Arc::new(Node::start(options).await?);
    let pod = Pod::run(node.clone(), node.host_pod("told")).await?;
    let heard = ["READY=1", "STOPPING=1"].map(|line| service.heard(line));
    assert_eq!(heard, [1, 0]);
    node.end_daemon(Signal::SIGTERM)?;
    let begin = "adopt.begin";
    node.arm(begin, "wait")?;
    let recovery = async {
        wait_for("recovery has begun", DEADLINE, async || {
            node.hit(begin).then_some(())
        })
        .await?;
        assert_eq!(service.heard("READY=1"), 1, "ready before it is");
        node.release(begin)
    };
    let before = service.heard("WATCHDOG=1");
    let (launched, released) = tokio::join!(node.launch(), recovery);
    launched.and(released)?;
    for (line, times) in [
        ("READY=1", 2),
        ("STOPPING=1", 1),
        ("WATCHDOG=1", before + 2),
    ] {
        wait_for(line, DEADLINE, async || {
            (service.heard(line) >= times).then_some(())
        })
        .await?;
    }
    let client = node.client().await?;
    Ok(client.delete_pod(&pod.id).await?)
}
