//! Monitors execute another program in place, while their pods run on.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use husk_tests::checkpoint::checkpoint;
use husk_tests::command::output;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, container, logs, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

/// The file that a process executes.
fn program(pid: u32) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/exe"))?.ino())
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

/// Counts in bursts, since an upgrade in the middle of one is what could lose something.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while :; do sleep 0.01; \
                     while echo $i; i=$((i+1)); [ $((i % 50)) != 0 ]; do :; done; done";

/// No line is missing and none is there twice.
fn counted(pod: &Pod) -> Result<()> {
    for (number, line) in logs::read(&pod.log("main"))?.iter().enumerate() {
        ensure!(line.text == number.to_string(), "line {number} is {line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_daemon_with_another_program_upgrades_its_monitors_where_that_is_configured() -> Result<()>
{
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    let mut pod = Pod::run(node.clone(), node.host_pod("counter")).await?;
    let id = pod.launch(container("main", COUNT)).await?;
    logs::wait_for_line(&pod.log("main"), "100", DEADLINE).await?;
    let (pid, first) = (monitor(&pod)?, program(monitor(&pod)?)?);
    // As a package does that is installed over its predecessor; the kernel does not mind what follows a program.
    let path = node.directory().join("pod-monitor");
    let mut bytes = fs::read(settings::pod_monitor()?)?;
    fs::write(&path, &bytes)?;
    let drop_in = node.directory().join("husk.toml.d/90-upgrade.toml");
    let configuration = |upgrade: &str| {
        format!(
            "[monitor]\npath = \"{}\"\nupgrade = \"{upgrade}\"\n",
            path.display()
        )
    };
    let said = |count: usize| {
        let log = node.log_tail(1000);
        log.lines()
            .filter(|line| line.contains("had another program"))
            .count()
            == count
    };
    // The same program is no other one, and by hand is by hand.
    fs::write(&drop_in, configuration("on-start"))?;
    node.restart().await?;
    wait_for("the look at monitors", DEADLINE, async || {
        said(1).then_some(())
    })
    .await?;
    assert_eq!(program(pid)?, first);
    bytes.extend(b"the next version");
    fs::write(&path, &bytes)?;
    fs::write(&drop_in, configuration("manual"))?;
    node.restart().await?;
    pod.client = node.client().await?;
    pod.client.shell(&id, "true").await?;
    assert_eq!(program(pid)?, first);
    fs::write(&drop_in, configuration("on-start"))?;
    node.restart().await?;
    wait_for("the look at monitors", DEADLINE, async || {
        said(2).then_some(())
    })
    .await?;
    pod.client = node.client().await?;
    assert_eq!(fs::read(format!("/proc/{pid}/exe"))?, bytes);
    assert_eq!(monitor(&pod)?, pid);
    more_lines(&pod).await?;
    pod.client.stop(&id, 20).await?;
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 7);
    counted(&pod)?;
    pod.delete().await
}

#[tokio::test]
async fn monitors_become_another_program_and_no_line_is_lost_or_doubled() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    let mut pod = Pod::run(node.clone(), node.host_pod("counter")).await?;
    let id = pod.launch(container("main", COUNT)).await?;
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
    counted(&pod)?;
    pod.delete().await
}

/// Gives the daemon another program for monitors, as a package does that is installed.
async fn give(pod: &mut Pod, program: &Path) -> Result<()> {
    let drop_in = pod.node.directory().join("husk.toml.d/90-upgrade.toml");
    fs::write(
        drop_in,
        format!("[monitor]\npath = \"{}\"\n", program.display()),
    )?;
    pod.node.restart().await?;
    pod.client = pod.node.client().await?;
    Ok(())
}

/// Whether the pod's monitor is from before the second version of the protocol, which brought checkpoints.
async fn is_unknown(pod: &Pod, id: &str) -> Result<bool> {
    let output = tempfile::tempdir()?;
    match checkpoint(&pod.client, id, &output.path().join("c.tar"), 60).await {
        Err(refused) if refused.code() == Code::Unimplemented => {
            ensure!(
                refused.message().contains("did not know the call"),
                "{refused}"
            );
            Ok(true)
        }
        Err(refused) if matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded) => {
            Err(refused.into())
        }
        // Whether CRIU works here is another matter.
        _ => Ok(false),
    }
}

#[tokio::test]
async fn a_monitor_of_the_last_version_serves_todays_daemon_and_becomes_todays_and_back()
-> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let configuration = "[runtime]\ndefault = \"runc\"\n".to_owned();
    let options = NodeOptions {
        monitor: Some("first-version"),
        configuration,
        ..NodeOptions::default()
    };
    let node = Arc::new(Node::start(options).await?);
    let mut pod = Pod::run(node.clone(), node.host_pod("versions")).await?;
    let id = pod.launch(container("main", COUNT)).await?;
    let pid = monitor(&pod)?;
    let (first, todays) = (
        settings::pod_monitor_with("first-version")?,
        settings::pod_monitor()?,
    );
    for (round, path) in [&first, &todays, &first].into_iter().enumerate() {
        if round > 0 {
            give(&mut pod, path).await?;
            output(&mut node.husk(&["upgrade-monitors"])?)?;
        }
        assert_eq!(monitor(&pod)?, pid);
        assert_eq!(fs::read(format!("/proc/{pid}/exe"))?, fs::read(path)?);
        more_lines(&pod).await?;
        assert_eq!(pod.client.shell(&id, "echo here").await?, "here");
        let other = pod
            .launch(container(&format!("other{round}"), "exit 3"))
            .await?;
        assert_eq!(pod.client.wait_exit(&other).await?.exit_code, 3);
        let known = !is_unknown(&pod, &id).await?;
        assert_eq!(known, path == &todays, "round {round}");
    }
    counted(&pod)?;
    // One that dies is followed by today's too.
    give(&mut pod, &todays).await?;
    let former = i32::try_from(pid)?;
    kill(Pid::from_raw(former), Signal::SIGKILL)?;
    let next = wait_for("another monitor", DEADLINE, async || {
        monitor(&pod).ok().filter(|next| *next != pid)
    })
    .await?;
    more_lines(&pod).await?;
    assert_eq!(fs::read(format!("/proc/{next}/exe"))?, fs::read(&todays)?);
    pod.client.stop(&id, 20).await?;
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 7);
    pod.delete().await
}
