//! Checkpoints: the archive, and what a node says that cannot make one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use husk_tests::checkpoint::{checkpoint, contents, pod};
use husk_tests::client::expect_error;
use husk_tests::command::{command, output};
use husk_tests::config::image_spec;
use husk_tests::{Node, NodeOptions, Pod, container, settings};
use nix::sys::signal::Signal;
use pod_monitor_client::schema::TraceContext;
use pod_monitor_client::{Monitor, Rpc};
use tonic::Code;

#[tokio::test]
async fn an_archive_has_all_parts_and_the_container_runs_on() -> Result<()> {
    let Some((pod, _)) = pod("checkpoint", false).await? else {
        return Ok(());
    };
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let change = "echo changed > /new; rm /etc/passwd; mkdir /d; ln -s /new /d/link";
    pod.client.shell(&id, change).await?;
    let output = tempfile::tempdir()?;
    let location = output.path().join("c.tar");
    checkpoint(&pod.client, &id, &location, 60).await?;
    assert_eq!(pod.client.shell(&id, "echo alive").await?, "alive");
    assert_eq!(location.metadata()?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(output.path())?.count(), 1, "a draft is left");
    let parts = contents(fs::File::open(&location)?)?;
    assert_eq!(parts["checkpoint/pages-1.img"], b"memory\n");
    let config: serde_json::Value = serde_json::from_slice(&parts["config.dump"])?;
    assert_eq!(config["id"], id.as_str());
    assert_eq!(config["name"], "main");
    assert!(
        config["rootfsImage"]
            .as_str()
            .is_some_and(|image| image.starts_with("sha256:"))
    );
    let spec: serde_json::Value = serde_json::from_slice(&parts["spec.dump"])?;
    assert_eq!(spec["process"]["args"][2], "exec sleep 600");
    let changes = contents(&*parts["rootfs-diff.tar"])?;
    assert_eq!(changes["new"], b"changed\n");
    for name in ["etc/.wh.passwd", "d/link"] {
        assert!(changes.contains_key(name), "{name}: {:?}", changes.keys());
    }
    let drafts = pod.node.directory().join("root/checkpoints");
    assert_eq!(fs::read_dir(drafts)?.count(), 0);
    // A second one takes the place of the first.
    checkpoint(&pod.client, &id, &location, 0).await?;
    pod.delete().await
}

#[tokio::test]
async fn a_checkpoint_that_fails_or_hangs_leaves_nothing_and_the_container_running() -> Result<()> {
    let Some((pod, stand_in)) = pod("checkpoint", false).await? else {
        return Ok(());
    };
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let output = tempfile::tempdir()?;
    let location = output.path().join("c.tar");
    stand_in.fail(true)?;
    let refused = checkpoint(&pod.client, &id, &location, 60).await;
    let words = ["checkpoint of", "CRIU says", "no such luck"];
    expect_error(refused, &[Code::FailedPrecondition], &words)?;
    stand_in.fail(false)?;
    stand_in.hang(true)?;
    let late = checkpoint(&pod.client, &id, &location, 1).await;
    expect_error(late, &[Code::DeadlineExceeded], &["checkpoint"])?;
    assert_eq!(fs::read_dir(output.path())?.count(), 0);
    assert_eq!(pod.client.shell(&id, "echo alive").await?, "alive");
    stand_in.hang(false)?;
    checkpoint(&pod.client, &id, &location, 60).await?;
    pod.delete().await
}

/// The loop has something in its memory that it could not have by beginning anew.
const LOOP: &str =
    "token=$(cat /proc/sys/kernel/random/uuid); while :; do echo $token > /token; sleep 0.1; done";

async fn token(pod: &Pod, id: &str) -> Result<String> {
    let wait = "rm -f /token; until [ -s /token ]; do sleep 0.05; done; cat /token";
    pod.client.shell(id, wait).await
}

#[tokio::test]
async fn a_real_checkpoint_is_restored_or_the_node_says_what_it_lacks() -> Result<()> {
    if settings::skips("others say it in other words") {
        return Ok(());
    }
    let pod = pod_of("runc").await?;
    let id = pod.launch(container("main", LOOP)).await?;
    let first = token(&pod, &id).await?;
    let output = tempfile::tempdir()?;
    let location = output.path().join("c.tar");
    let made = checkpoint(&pod.client, &id, &location, 60).await;
    assert_eq!(token(&pod, &id).await?, first, "it runs on");
    if let Err(status) = made {
        assert!(!settings::has_criu(), "{status}");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("CRIU says"), "{status}");
        assert_eq!(fs::read_dir(output.path())?.count(), 0);
        eprintln!("not restored, for CRIU does not work here: {status}");
        return pod.delete().await;
    }
    let parts = contents(fs::File::open(&location)?)?;
    assert!(
        parts.contains_key("checkpoint/inventory.img"),
        "{:?}",
        parts.keys()
    );
    pod.client.stop(&id, 0).await?;
    let mut again = container("again", "exec sleep 600");
    again.image = Some(image_spec(&location.display().to_string()));
    let again = pod.launch(again).await?;
    assert_eq!(token(&pod, &again).await?, first, "it goes on");
    pod.client.stop(&again, 0).await?;
    assert_eq!(pod.client.container_status(&again).await?.exit_code, 137);
    pod.delete().await
}

/// A pod in that OCI runtime, on a node that restores.
async fn pod_of(runtime: &str) -> Result<Pod> {
    let options = NodeOptions {
        configuration: format!("[runtime]\nrestore = true\ndefault = \"{runtime}\""),
        ..NodeOptions::default()
    };
    let node = Arc::new(Node::start(options).await?);
    let config = node.host_pod("checkpoint");
    Pod::run(node, config).await
}

#[tokio::test]
async fn an_oci_runtime_without_criu_implements_neither_checkpoint_nor_restore() -> Result<()> {
    if settings::skips("it needs a runtime that was built so") {
        return Ok(());
    }
    let version = output(command("crun").arg("--version"))?;
    if version.contains("+CRIU") {
        eprintln!("not tried: this crun was built with CRIU");
        return Ok(());
    }
    let pod = pod_of("crun").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let place = tempfile::tempdir()?;
    let location = place.path().join("c.tar");
    let words = ["crun", "built without CRIU"];
    let refused = checkpoint(&pod.client, &id, &location, 60).await;
    expect_error(refused, &[Code::Unimplemented], &words)?;
    assert_eq!(fs::read_dir(place.path())?.count(), 0);
    fs::write(&location, "")?;
    let mut again = container("again", "true");
    again.image = Some(image_spec(&location.display().to_string()));
    let refused = pod.client.create(&pod.id, &pod.config, again).await;
    expect_error(refused, &[Code::Unimplemented], &words)?;
    pod.delete().await
}

#[tokio::test]
async fn a_container_that_a_killed_daemon_left_paused_runs_again() -> Result<()> {
    if settings::skips("it talks to a monitor") {
        return Ok(());
    }
    let pod = Pod::alone("paused").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    pod.node.end_daemon(Signal::SIGKILL)?;
    let run = pod.node.directory().join("run/pods").join(&pod.id);
    let (monitor, _events) = Monitor::connect(&Rpc::start("test/1")?, &run).await?;
    monitor.pause(&TraceContext::default(), &id).await?;
    pod.node.restart().await?;
    assert_eq!(pod.client.shell(&id, "echo alive").await?, "alive");
    pod.delete().await
}

#[tokio::test]
async fn wrong_locations_and_containers_that_do_not_run_are_refused() -> Result<()> {
    let pod = Pod::on_host("refused-checkpoint").await?;
    if pod.node.skips("the codes are Husk's") {
        return pod.delete().await;
    }
    let id = pod.create(container("main", "exec sleep 600")).await?;
    let output = tempfile::tempdir()?;
    let good = output.path().join("c.tar");
    let early = checkpoint(&pod.client, &id, &good, 5).await;
    expect_error(early, &[Code::FailedPrecondition], &["created"])?;
    pod.client.start(&id).await?;
    for location in [
        Path::new("c.tar"),
        &output.path().join("absent/c.tar"),
        output.path(),
    ] {
        let refused = checkpoint(&pod.client, &id, location, 5).await;
        expect_error(refused, &[Code::InvalidArgument], &["location"])?;
    }
    let nobody = checkpoint(&pod.client, "nobody", &good, 5).await;
    expect_error(nobody, &[Code::NotFound], &["nobody"])?;
    pod.delete().await
}
