//! What goes on when a pod's monitor is killed in the middle of it, and what works with the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use husk_tests::config::resources;
use husk_tests::cri::{self, ContainerState};
use husk_tests::process::monitor;
use husk_tests::streaming::{Channel, PROTOCOLS, Remote};
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, container, logs, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

async fn node(options: NodeOptions) -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Node::start(options).await?.into()))
}

async fn pod(name: &str) -> Result<Option<Pod>> {
    let Some(node) = node(NodeOptions::default()).await? else {
        return Ok(None);
    };
    let config = node.host_pod(name);
    Ok(Some(Pod::run(node, config).await?))
}

fn kill_monitor(pod: &Pod) -> Result<u32> {
    let pid = monitor(&pod.id).context("no monitor")?.pid;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    Ok(pid)
}

/// The process id of the pod's monitor, as the daemon has it; none while there is none.
async fn known_monitor(pod: &Pod) -> Option<Option<u64>> {
    let status = pod.client.verbose_pod_status(&pod.id).await.ok()?;
    let info: serde_json::Value = serde_json::from_str(status.info.get("info")?).ok()?;
    Some(info["monitorPid"].as_u64())
}

async fn replace_monitor(pod: &Pod) -> Result<()> {
    let killed = u64::from(kill_monitor(pod)?);
    wait_for("another monitor", DEADLINE, async || {
        let pid = known_monitor(pod).await??;
        (pid != killed).then_some(())
    })
    .await
}

#[tokio::test]
async fn the_next_monitor_sees_what_memory_kills_and_spares_the_sibling() -> Result<()> {
    let Some(pod) = pod("oom").await? else {
        return Ok(());
    };
    let sibling = pod.launch(container("sibling", "exec sleep 600")).await?;
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; exec tail /dev/zero";
    let mut config = container("greedy", script);
    let limits = resources(&mut config);
    limits.memory_limit_in_bytes = 16 << 20;
    limits.memory_swap_limit_in_bytes = 16 << 20;
    let greedy = pod.launch(config).await?;
    replace_monitor(&pod).await?;
    pod.client.shell(&greedy, "touch /tmp/go").await?;
    let status = pod.client.wait_exit(&greedy).await?;
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    pod.client.stop(&sibling, 0).await?;
    let status = pod.client.container_status(&sibling).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    pod.delete().await
}

#[tokio::test]
async fn a_stop_goes_on_with_what_is_left_of_its_grace_period() -> Result<()> {
    let Some(pod) = pod("stops").await? else {
        return Ok(());
    };
    // The second would take no signal but the last one.
    let rows = [
        ("gentle", "trap 'echo told; sleep 2; exit 7' TERM", 20, 7),
        ("stubborn", "trap 'echo told' TERM", 3, 137),
    ];
    for (name, trap, grace, code) in rows {
        let script = format!("{trap}; echo ready; while :; do sleep 0.05; done");
        let id = pod.launch(container(name, &script)).await?;
        logs::wait_for_line(&pod.log(name), "ready", DEADLINE).await?;
        let begin = Instant::now();
        let (client, stopped) = (pod.client.clone(), id.clone());
        let stop = tokio::spawn(async move { client.stop(&stopped, grace).await });
        logs::wait_for_line(&pod.log(name), "told", DEADLINE).await?;
        kill_monitor(&pod)?;
        stop.await?.context(name)?;
        let status = pod.client.container_status(&id).await?;
        assert_eq!(status.exit_code, code, "{status:?}");
        if code == 137 {
            let took = begin.elapsed();
            let grace = Duration::from_secs(u64::try_from(grace)?);
            ensure!(took >= grace, "it was killed after {took:?}");
            let late = Duration::from_secs(8) * settings::patience();
            ensure!(took < grace + late, "it was killed after {took:?}");
        }
    }
    pod.delete().await
}

#[tokio::test]
async fn calls_wait_for_the_next_monitor() -> Result<()> {
    let Some(pod) = pod("calls").await? else {
        return Ok(());
    };
    let script = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let running = pod.launch(container("running", script)).await?;
    let stopped = pod.launch(container("stopped", script)).await?;
    let created = pod.create(container("created", "exit 5")).await?;
    // The fourth is started no sooner than after a second.
    for _ in 0..3 {
        replace_monitor(&pod).await?;
    }
    kill_monitor(&pod)?;
    wait_for("the daemon knows", DEADLINE, async || {
        known_monitor(&pod).await?.is_none().then_some(())
    })
    .await?;
    let client = &pod.client;
    let exec = client.exec(&running, &["echo", "hello"], 20);
    let attach = cri::AttachRequest {
        container_id: running.clone(),
        stdout: true,
        ..cri::AttachRequest::default()
    };
    let mut runtime = client.runtime.clone();
    let (exec, attach, start, stop, create) = tokio::join!(
        exec,
        runtime.attach(attach),
        client.start(&created),
        client.stop(&stopped, 20),
        pod.create(container("late", "exit 6")),
    );
    assert_eq!(exec?.stdout, b"hello\n");
    attach?;
    start?;
    stop?;
    assert_eq!(client.container_status(&stopped).await?.exit_code, 7);
    assert_eq!(client.wait_exit(&created).await?.exit_code, 5);
    let late = create?;
    client.start(&late).await?;
    assert_eq!(client.wait_exit(&late).await?.exit_code, 6);
    pod.delete().await
}

#[tokio::test]
async fn whoever_is_attached_is_told_and_the_next_client_reaches_the_container() -> Result<()> {
    let Some(pod) = pod("attached").await? else {
        return Ok(());
    };
    let mut config = container(
        "open",
        "while read line; do echo \"got $line\"; done; exit 3",
    );
    config.stdin = true;
    let id = pod.launch(config).await?;
    let request = || cri::AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        let mut session = Remote::attach(&pod.node, protocol, request()).await?;
        let (line, answer) = (format!("{number}\n"), format!("got {number}\n"));
        session.send(Channel::Stdin, line.as_bytes()).await?;
        session.read_until(Channel::Stdout, &answer).await?;
        // Offered before the monitor dies, used afterwards.
        let mut runtime = pod.client.runtime.clone();
        let url = runtime.attach(request()).await?.into_inner().url;
        replace_monitor(&pod).await?;
        let ended = tokio::time::timeout(DEADLINE, session.finish()).await;
        ended
            .context("the session does not end with its monitor")?
            .ok();
        let channels = Channel::of(true, false);
        let mut session = Remote::open(&pod.node, &url, protocol, &channels).await?;
        session.send(Channel::Stdin, b"again\n").await?;
        session.read_until(Channel::Stdout, "got again\n").await?;
    }
    let status = pod.client.container_status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    pod.delete().await
}

#[tokio::test]
async fn a_start_that_its_monitor_died_of_is_finished_by_the_next() -> Result<()> {
    let options = NodeOptions {
        monitor: Some("faults"),
        ..NodeOptions::default()
    };
    let Some(node) = node(options).await? else {
        return Ok(());
    };
    let pod = Pod::run(node.clone(), node.host_pod("starts")).await?;
    // Before the OCI runtime was called, and after it had done its work.
    for point in ["monitor.start.begin", "monitor.start.called"] {
        let name = point.replace('.', "-");
        let script = "trap 'exit 7' TERM; echo once; while :; do sleep 0.05; done";
        let id = pod.create(container(&name, script)).await?;
        node.arm(point, "abort")?;
        pod.client.start(&id).await.context(point)?;
        ensure!(node.hit(point), "{point} was not passed");
        logs::wait_for_line(&pod.log(&name), "once", DEADLINE).await?;
        let status = pod.client.container_status(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning, "{point}");
        ensure!(status.started_at > 0, "{status:?}");
        pod.client.stop(&id, 20).await?;
        assert_eq!(pod.client.container_status(&id).await?.exit_code, 7);
        assert_eq!(logs::read(&pod.log(&name))?.len(), 1, "{point}");
    }
    pod.delete().await
}
