//! Disks that are full: RESOURCE_EXHAUSTED with the cause, nothing half-made, and all is well once there is room.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::image::Packing;
use husk_tests::registry::Access;
use husk_tests::wait::DEADLINE;
use husk_tests::{
    Client, Image, Layer, Node, NodeOptions, Pod, Snapshot, container, cri, settings, wait_for,
};
use tonic::Code;

/// A node with a small file system at `place`, which is below its directory.
async fn node(place: &str, megabytes: u32) -> Result<Option<std::sync::Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    let prepare = format!(
        "mkdir -p \"$0/{place}\" && mount -t tmpfs -o size={megabytes}m husk-test \"$0/{place}\""
    );
    let options = NodeOptions {
        prepare,
        ..Default::default()
    };
    Ok(Some(Node::start(options).await?.into()))
}

/// Takes all the room that is left.
fn fill(node: &Node, place: &str) -> Result<()> {
    node.script(&format!(
        "dd if=/dev/zero of=\"$0/{place}/filler\" bs=4k 2>/dev/null || true"
    ))?;
    Ok(())
}

fn empty(node: &Node, place: &str) -> Result<()> {
    fs::remove_file(inside(node, place).join("filler")).context("remove the filler")
}

fn inside(node: &Node, place: &str) -> PathBuf {
    node.seen_inside(&node.directory().join(place))
}

fn files(node: &Node, place: &str) -> Snapshot {
    Snapshot::default().with_files(&inside(node, place))
}

async fn assert_files(node: &Node, place: &str, before: &Snapshot) -> Result<()> {
    let same = wait_for("nothing half-made is left", DEADLINE / 3, async || {
        before.assert_same(&files(node, place)).ok()
    });
    same.await
        .or_else(|_late| before.assert_same(&files(node, place)))
}

/// Bytes that no packing makes small.
fn noise(megabytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..megabytes << 17).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

#[tokio::test]
async fn an_image_that_does_not_fit_is_refused_and_leaves_nothing() -> Result<()> {
    const STORE: &str = "root/images";
    let Some(node) = node(STORE, 10).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let registry = node.registry(Access::Plain)?;
    let small = Image::busybox("small:1")?.layer(Layer::new().file("small", 0o644, b"small"));
    let large = Image::busybox("large:1")?
        .layer(Layer::new().file("first", 0o644, &noise(1)))
        .layer(Layer::new().file("large", 0o644, &noise(12)))
        .packed(Packing::Plain);
    let small = registry.push("small:1", &[small])?;
    let large = registry.push("large:1", &[large])?;
    let before = files(&node, STORE);
    for _ in 0..2 {
        let refused = client.pull(&large, None).await;
        expect_error(
            refused,
            &[Code::ResourceExhausted],
            &[&large, "No space left"],
        )?;
        assert_files(&node, STORE, &before).await?;
    }
    assert!(client.image(&large).await?.is_none());
    client.pull(&small, None).await?;
    Ok(())
}

#[tokio::test]
async fn a_container_without_room_for_its_files_is_refused_and_leaves_nothing() -> Result<()> {
    const STORE: &str = "root/images";
    let Some(node) = node(STORE, 10).await? else {
        return Ok(());
    };
    let config = node.host_pod("full");
    let pod = Pod::run(node.clone(), config).await?;
    fill(&node, STORE)?;
    let before = (files(&node, STORE), node.snapshot());
    for _ in 0..2 {
        let refused = pod.create(container("main", "echo works")).await;
        let refused = refused.map_err(|error| match error.downcast() {
            Ok(status) => status,
            Err(other) => tonic::Status::unknown(other.to_string()),
        });
        expect_error(refused, &[Code::ResourceExhausted], &["No space left"])?;
        assert_files(&node, STORE, &before.0).await?;
        node.assert_settles(&before.1).await?;
    }
    empty(&node, STORE)?;
    assert_eq!(
        pod.once(container("main", "echo works")).await?.1,
        ["works"]
    );
    pod.delete().await
}

async fn runtime_condition(client: &Client) -> Result<cri::RuntimeCondition> {
    let conditions = client.status().await?.status.unwrap_or_default().conditions;
    let mut conditions = conditions.into_iter();
    conditions
        .find(|it| it.r#type == "RuntimeReady")
        .context("no RuntimeReady")
}

#[tokio::test]
async fn state_that_cannot_be_written_makes_the_node_not_ready_until_there_is_room() -> Result<()> {
    let Some(node) = node("root", 24).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let before = node.settled().await?;
    fill(&node, "root")?;
    // More than fits into what the database has of its file already.
    let mut config = node.host_pod("full");
    config
        .annotations
        .insert("long".to_owned(), "x".repeat(4 << 20));
    for _ in 0..2 {
        let refused = client.run_pod(&config).await;
        expect_error(
            refused,
            &[Code::ResourceExhausted],
            &["state.redb", "No space left"],
        )?;
    }
    let condition = runtime_condition(&client).await?;
    assert_eq!(
        (condition.status, condition.reason.as_str()),
        (false, "StateNotWritable")
    );
    assert!(
        condition.message.contains("No space left"),
        "{}",
        condition.message
    );
    assert!(client.pods(None).await?.is_empty());

    empty(&node, "root")?;
    wait_for("the node is ready again", DEADLINE, async || {
        runtime_condition(&client).await.ok().filter(|it| it.status)
    })
    .await?;
    let pod = client.run_pod(&config).await?;
    node.restart().await?;
    let client = node.client().await?;
    assert_eq!(client.pods(None).await?.len(), 1, "it was not kept");
    client.delete_pod(&pod).await?;
    // The daemon is another process now.
    let rest = |snapshot: Snapshot| {
        let snapshot = snapshot.only("descriptors", |_line| false);
        snapshot.only("processes", |_line| false)
    };
    rest(before).assert_same(&rest(node.snapshot()))
}
