//! Checkpoints: the archive, and what a node says that cannot make one.
//!
//! CRIU works on few test machines. What Husk does around it is tried with a stand-in: an OCI runtime that answers
//! `checkpoint` by itself and hands everything else to runc.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::{Client, Node, NodeOptions, Pod, container, cri};
use tonic::{Code, Status};

const STAND_IN: &str = r#"#!/bin/sh
for word; do [ "$word" = checkpoint ] && mine=1; done
[ "$mine" ] || exec runc "$@"
while [ $# -gt 0 ]; do
    case "$1" in --image-path) images=$2 ;; --work-path) work=$2 ;; --leave-running) stays=1 ;; esac
    shift
done
[ "$stays" ] || exit 9
if [ -e "$0.hangs" ]; then exec sleep 600; fi
if [ -e "$0.fails" ]; then echo "(00.1) Error (criu/x.c:1): no such luck" > "$work/dump.log"; exit 1; fi
echo memory > "$images/pages-1.img"
"#;

async fn checkpoint(
    client: &Client,
    id: &str,
    location: &Path,
    timeout: i64,
) -> Result<(), Status> {
    let request = cri::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let mut runtime = client.runtime.clone();
    runtime.checkpoint_container(request).await.map(drop)
}

/// A pod in the stand-in, which looks for files beside itself.
async fn pod() -> Result<Option<Pod>> {
    if husk_tests::settings::skips("it needs a handler of the node's own") {
        return Ok(None);
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    // Within the node's directory, so that it goes with the node.
    let kept = node.directory().join("stand-in");
    fs::create_dir(&kept)?;
    fs::write(kept.join("oci"), STAND_IN)?;
    fs::set_permissions(kept.join("oci"), fs::Permissions::from_mode(0o755))?;
    let drop_in = node.directory().join("husk.toml.d/60-stand-in.toml");
    let path = kept.join("oci");
    fs::write(
        drop_in,
        format!("[runtime.handlers.stand-in]\npath = {path:?}\nkind = \"runc\"\n"),
    )?;
    node.restart().await?;
    let config = node.host_pod("checkpoint");
    let client = node.client().await?;
    let id = client.run_pod_with(&config, "stand-in").await?;
    Ok(Some(Pod {
        node,
        client,
        config,
        id,
    }))
}

/// Names and contents of an archive.
fn contents(archive: impl std::io::Read) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        found.insert(entry.path()?.display().to_string(), bytes);
    }
    Ok(found)
}

#[tokio::test]
async fn an_archive_has_all_parts_and_the_container_runs_on() -> Result<()> {
    let Some(pod) = pod().await? else {
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
    let Some(pod) = pod().await? else {
        return Ok(());
    };
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let output = tempfile::tempdir()?;
    let location = output.path().join("c.tar");
    let switch = |name: &str| pod.node.directory().join("stand-in").join(name);
    fs::write(switch("oci.fails"), "")?;
    let refused = checkpoint(&pod.client, &id, &location, 60).await;
    let words = ["checkpoint of", "CRIU says", "no such luck"];
    expect_error(refused, &[Code::FailedPrecondition], &words)?;
    fs::rename(switch("oci.fails"), switch("oci.hangs"))?;
    let late = checkpoint(&pod.client, &id, &location, 1).await;
    expect_error(late, &[Code::DeadlineExceeded], &["checkpoint"])?;
    assert_eq!(fs::read_dir(output.path())?.count(), 0);
    assert_eq!(pod.client.shell(&id, "echo alive").await?, "alive");
    fs::remove_file(switch("oci.hangs"))?;
    checkpoint(&pod.client, &id, &location, 60).await?;
    pod.delete().await
}

#[tokio::test]
async fn a_checkpoint_works_or_says_what_the_node_lacks() -> Result<()> {
    let pod = Pod::on_host("real-checkpoint").await?;
    if pod.node.skips("others say it in other words") {
        return pod.delete().await;
    }
    let count = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done";
    let id = pod.launch(container("main", count)).await?;
    let output = tempfile::tempdir()?;
    let location = output.path().join("c.tar");
    match checkpoint(&pod.client, &id, &location, 60).await {
        Ok(()) => {
            let parts = contents(fs::File::open(&location)?)?;
            assert!(
                parts.contains_key("checkpoint/inventory.img"),
                "{:?}",
                parts.keys()
            );
        }
        Err(status) => {
            let codes = [Code::FailedPrecondition, Code::Unimplemented];
            assert!(codes.contains(&status.code()), "{status}");
            assert!(status.message().contains("CRIU"), "{status}");
            assert_eq!(fs::read_dir(output.path())?.count(), 0);
        }
    }
    let now = pod.client.shell(&id, "cat /count").await?;
    let later = "until [ $(cat /count) -gt 0NOW ]; do sleep 0.1; done".replace("0NOW", &now);
    pod.client.shell(&id, &later).await.context("it runs on")?;
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
