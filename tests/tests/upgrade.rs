//! Monitors execute another program in place, while their pods run on.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use husk_tests::command::output;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, container, logs, settings, wait_for};

/// The file that a process executes.
fn program(pid: u32) -> Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{pid}/exe"))?.ino())
}

fn monitor(pod: &Pod) -> Result<u32> {
    let found = husk_tests::process::monitor(&pod.id);
    Ok(found.context("no monitor")?.pid)
}

async fn more_lines(pod: &Pod) -> Result<()> {
    let log = pod.log("main");
    let before = logs::read(&log)?.len();
    wait_for("more lines", DEADLINE, async || {
        (logs::read(&log).ok()?.len() > before + 20).then_some(())
    })
    .await
}

#[tokio::test]
async fn monitors_become_another_program_and_no_line_is_lost_or_doubled() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    let mut pod = Pod::run(node.clone(), node.host_pod("counter")).await?;
    // In bursts, since an upgrade in the middle of one is what could lose something.
    let script = "trap 'exit 7' TERM; i=0; while :; do sleep 0.01; \
                  while echo $i; i=$((i+1)); [ $((i % 50)) != 0 ]; do :; done; done";
    let id = pod.launch(container("main", script)).await?;
    logs::wait_for_line(&pod.log("main"), "100", DEADLINE).await?;
    let (pid, before) = (monitor(&pod)?, program(monitor(&pod)?)?);
    // Another daemon has the program in another file, as it would be with another build.
    node.restart().await?;
    pod.client = node.client().await?;
    assert_eq!(program(pid)?, before);
    let client = pod.client.clone();
    let container = id.clone();
    let script =
        "touch /tmp/begun; while ! test -e /tmp/go; do sleep 0.05; done; echo done; exit 5";
    let session = tokio::spawn(async move {
        client
            .exec(&container, &["/bin/sh", "-c", script], 60)
            .await
    });
    wait_for("the exec runs", DEADLINE, async || {
        pod.client.shell(&id, "test -e /tmp/begun").await.ok()
    })
    .await?;
    for round in 0..3 {
        more_lines(&pod).await?;
        let said = output(&mut node.husk(&["upgrade-monitors"])?)?;
        ensure!(said.contains("upgraded"), "{said}");
        assert_eq!(monitor(&pod)?, pid);
        ensure!(
            program(pid)? != before,
            "round {round}: the old program runs"
        );
    }
    more_lines(&pod).await?;
    // The session was there before, and is there still.
    pod.client.shell(&id, "touch /tmp/go").await?;
    let answer = session.await??;
    assert_eq!(
        (answer.exit_code, answer.stdout.as_slice()),
        (5, &b"done\n"[..])
    );
    pod.client.stop(&id, 20).await?;
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 7);
    for (number, line) in logs::read(&pod.log("main"))?.iter().enumerate() {
        ensure!(line.text == number.to_string(), "line {number} is {line:?}");
    }
    pod.delete().await
}
