//! Disks that are full or broken: no container is stopped by its log, what is missing is counted and said, and state
//! that cannot be kept fails the call that needs it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::cri::{self, ContainerState};
use husk_tests::volume::Volume;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, container, logs, settings, wait_for};
use tonic::Code;

const LINES: usize = 40_000;
const LINE: &str =
    "a line of eighty bytes, so that forty thousand of them are more than the disk is";

/// Writes more than the disk takes, then a few lines more when it is told, and ends with 9 when it is told again.
fn writer() -> cri::ContainerConfig {
    let script = format!(
        "trap 'exit 9' TERM; yes '{LINE}' | head -n {LINES}; touch /tmp/written; \
         until test -e /tmp/go; do sleep 0.05; done; seq 1 50; touch /tmp/gone; while :; do sleep 0.05; done"
    );
    container("writer", &script)
}

async fn node() -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Arc::new(Node::start(NodeOptions::default()).await?)))
}

/// A pod that logs to `directory` of the node, with the writer in it.
async fn begin(node: &Arc<Node>, directory: &std::path::Path) -> Result<(Pod, String)> {
    let mut config = node.host_pod("writer");
    config.log_directory = directory.display().to_string();
    let pod = Pod::run(node.clone(), config).await?;
    let id = pod.launch(writer()).await?;
    Ok((pod, id))
}

/// Waits until a file is in the container.
async fn reaches(pod: &Pod, id: &str, file: &str) -> Result<()> {
    let (probe, what) = (
        format!("test -e {file}"),
        format!("the container has made {file}"),
    );
    let reached = wait_for(&what, DEADLINE, async || {
        pod.client.shell(id, &probe).await.ok()
    });
    reached.await.map(drop)
}

/// How many bytes the container's log lacks, as the metric tells.
async fn lost(pod: &Pod, id: &str) -> Option<u64> {
    let request = cri::ListPodSandboxMetricsRequest {};
    let mut runtime = pod.client.runtime.clone();
    let answer = runtime.list_pod_sandbox_metrics(request).await.ok()?;
    let pods = answer.into_inner().items.into_iter();
    let mut containers = pods.flat_map(|pod| pod.container_metrics);
    let found = containers.find(|it| it.container_id == id)?;
    let mut metrics = found.metrics.into_iter();
    let metric = metrics.find(|it| it.name == "container_log_lost_bytes_total")?;
    Some(metric.value?.value)
}

async fn reopen(pod: &Pod, id: &str) -> Result<(), tonic::Status> {
    let request = cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    let mut runtime = pod.client.runtime.clone();
    runtime.reopen_container_log(request).await.map(drop)
}

/// Ends the writer, whose exit is its own.
async fn ends(pod: Pod, id: &str) -> Result<()> {
    pod.client.stop(id, 10).await?;
    let status = pod.client.container_status(id).await?;
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 9)
    );
    pod.delete().await
}

#[tokio::test]
async fn a_full_log_disk_stops_no_container_and_what_is_lost_is_counted_marked_and_exported()
-> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let volume = Volume::disk(&node, &node.directory().join("logs/small"), 4)?;
    volume.reserve(2 << 10)?;
    let (pod, id) = begin(&node, &volume.path).await?;
    reaches(&pod, &id, "/tmp/written").await?;
    wait_for("the loss is exported", DEADLINE, async || {
        lost(&pod, &id).await.filter(|it| *it > 0)
    })
    .await?;
    volume.free()?;
    pod.client.shell(&id, "touch /tmp/go").await?;
    reaches(&pod, &id, "/tmp/gone").await?;
    let log = volume.seen(&pod.log("writer"))?;
    let lines = logs::wait_for_line(&log, "50", DEADLINE).await?;
    let lost = lost(&pod, &id).await.context("no metric")?;
    let marks: Vec<_> = lines
        .iter()
        .filter(|it| it.text.contains("pod-monitor:"))
        .collect();
    let counted = marks.iter().map(|mark| {
        assert!(mark.text.contains("No space"), "{mark:?}");
        let number = mark.text.split(' ').nth(1).unwrap_or_default();
        number.parse::<u64>().unwrap_or_default()
    });
    assert_eq!(counted.sum::<u64>(), lost, "{marks:?}");
    let stdout = logs::text(&lines, "stdout");
    let (last, first) = (&stdout[stdout.len() - 50..], &stdout[..stdout.len() - 50]);
    assert!(
        last.iter()
            .enumerate()
            .all(|(index, line)| *line == (index + 1).to_string())
    );
    assert!(first.iter().all(|line| line == LINE), "a line is torn");
    let written = u64::try_from(LINES * LINE.len())?;
    assert_eq!(u64::try_from(first.len() * LINE.len())? + lost, written);
    ends(pod, &id).await
}

#[tokio::test]
async fn a_log_disk_that_fails_stops_no_container_and_the_next_file_says_what_is_missing()
-> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let place = node.directory().join("logs/broken");
    let volume = Volume::disk(&node, &place, 16)?;
    let (pod, id) = begin(&node, &place).await?;
    reaches(&pod, &id, "/tmp/written").await?;
    volume.break_off()?;
    pod.client.shell(&id, "touch /tmp/go").await?;
    reaches(&pod, &id, "/tmp/gone").await?;
    wait_for("the loss is exported", DEADLINE, async || {
        lost(&pod, &id).await.filter(|it| *it > 0)
    })
    .await?;
    let refused = reopen(&pod, &id).await;
    expect_error(refused, &[Code::Internal], &["I/O"])?;
    volume.unmount()?;
    let volume = Volume::disk(&node, &place, 16)?;
    reopen(&pod, &id).await?;
    let log = volume.seen(&pod.log("writer"))?;
    ends(pod, &id).await?;
    let lines = logs::read(&log)?;
    let said = lines
        .iter()
        .any(|it| it.text.contains("bytes of output are missing here"));
    assert!(said, "{lines:?}");
    Ok(())
}

/// The state and the images of a node on a file system of their own, which is then filled.
async fn on_a_small_disk() -> Result<Option<(Arc<Node>, PathBuf)>> {
    let Some(node) = node().await? else {
        return Ok(None);
    };
    node.end_daemon(nix::sys::signal::Signal::SIGTERM)?;
    let root = node.directory().join("root");
    fs::remove_dir_all(&root)?;
    Ok(Some((node, root)))
}

#[tokio::test]
async fn a_full_state_disk_fails_calls_with_the_cause_and_corrupts_nothing() -> Result<()> {
    let Some((node, root)) = on_a_small_disk().await? else {
        return Ok(());
    };
    let volume = Volume::memory(&node, &root, 32)?;
    node.launch().await?;
    node.import(&husk_tests::Image::busybox(husk_tests::BUSYBOX)?)?;
    let config = node.host_pod("before");
    let mut pod = Pod::run(node.clone(), config).await?;
    let running = pod.launch(container("running", "exec sleep 600")).await?;
    let leaver = pod
        .launch(container(
            "leaver",
            "until test -e /tmp/go; do sleep 0.05; done; exit 3",
        ))
        .await?;
    volume.fill()?;
    let full = [Code::ResourceExhausted];
    let mut refused = pod.client.run_pod(&node.host_pod("refused")).await;
    // What the database had room for does not count: in the end it has none.
    for attempt in 1..20 {
        if refused.is_err() {
            break;
        }
        refused = pod
            .client
            .run_pod(&node.host_pod(&format!("refused-{attempt}")))
            .await;
    }
    expect_error(refused, &full, &["No space left"])?;
    let created = pod
        .client
        .create(&pod.id, &pod.config, container("no", "true"))
        .await;
    expect_error(created, &full, &["No space left"])?;
    // What lives goes on and is seen.
    assert_eq!(pod.client.shell(&running, "echo alive").await?, "alive");
    pod.client.shell(&leaver, "touch /tmp/go").await?;
    assert_eq!(pod.client.wait_exit(&leaver).await?.exit_code, 3);
    node.crash().await.context("a start on a full disk")?;
    volume.free()?;
    pod.client = node.client().await?;
    let status = pod.client.container_status(&leaver).await?;
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 3)
    );
    assert_eq!(pod.client.shell(&running, "echo alive").await?, "alive");
    let after = pod.client.run_pod(&node.host_pod("after")).await?;
    pod.client.delete_pod(&after).await?;
    node.crash().await?;
    pod.client = node.client().await?;
    let containers = pod.client.containers(None).await?;
    assert_eq!(containers.len(), 2, "{containers:?}");
    pod.delete().await
}
