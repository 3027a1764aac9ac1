//! The machine is started anew: the records of its pods are still there, and can be removed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use husk_tests::config::image_spec;
use husk_tests::cri::{ContainerState, PodSandboxState};
use husk_tests::registry::Access;
use husk_tests::{BUSYBOX, Image, Layer, Node, NodeOptions, Pod, container, logs, settings};

/// The addresses that the node's CNI plugin has given away.
fn leases(node: &Node) -> usize {
    let files = fs::read_dir(node.directory().join("ipam/test"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with("10."))
        .count()
}

#[tokio::test]
async fn pods_are_listed_as_not_ready_and_their_containers_as_exited() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = std::sync::Arc::new(Node::start(NodeOptions::default()).await?);
    let config = node.pod("before");
    let mut pod = Pod::run(node.clone(), config).await?;
    let running = pod
        .launch(container("running", "echo before; exec sleep 600"))
        .await?;
    let ended = pod.launch(container("ended", "exit 5")).await?;
    let created = pod.create(container("created", "true")).await?;
    let before = pod.client.wait_exit(&ended).await?;
    logs::wait_for_line(&pod.log("running"), "before", husk_tests::wait::DEADLINE).await?;
    assert_eq!(leases(&node), 1);

    node.reboot().await?;
    pod.client = node.client().await?;
    let status = pod.client.pod_status(&pod.id).await?;
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    for id in [&running, &created] {
        let status = pod.client.container_status(id).await?;
        assert_eq!(
            status.state(),
            ContainerState::ContainerExited,
            "{status:?}"
        );
        assert_eq!(status.exit_code, 255, "{status:?}");
        assert!(
            status.reason == "Unknown" && status.message.contains("restarted"),
            "{status:?}"
        );
        assert!(status.finished_at > 0, "{status:?}");
    }
    assert_eq!(pod.client.container_status(&ended).await?, before);
    let log = pod.client.container_status(&running).await?.log_path;
    assert_eq!(
        logs::text(&logs::read(Path::new(&log))?, "stdout"),
        ["before"]
    );
    assert!(pod.client.image(BUSYBOX).await?.is_some());

    // What the kubelet does next: the same pod again, as another attempt, and the old one away.
    let mut again = pod.config.clone();
    again.metadata.get_or_insert_default().attempt = 1;
    let again = Pod::run(node.clone(), again).await?;
    let (status, output) = again.once(container("after", "echo works")).await?;
    assert_eq!((status.exit_code, output), (0, vec!["works".to_owned()]));
    again.delete().await?;
    let client = pod.client.clone();
    pod.delete().await?;
    assert!(client.pods(None).await?.is_empty() && client.containers(None).await?.is_empty());
    assert_eq!(leases(&node), 0, "an address was not given back");
    Ok(())
}

/// What a machine may have lost that went down with all it had not written yet.
#[tokio::test]
async fn an_image_with_a_damaged_layer_is_not_listed_and_pulled_again() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = std::sync::Arc::new(Node::start(NodeOptions::default()).await?);
    let registry = node.registry(Access::Plain)?;
    let image = Image::busybox("whole")?.layer(Layer::new().file("name", 0o644, b"whole"));
    let reference = registry.push("damaged:1", &[image])?;
    let mut client = node.client().await?;
    client.pull(&reference, None).await?;
    let layers = node.directory().join("root/images/layers");
    type Damage = fn(&Path) -> std::io::Result<()>;
    let damages: [(&str, Damage); 2] = [
        ("an empty record", |layer| {
            fs::write(layer.join("layer.json"), "")
        }),
        ("no content", |layer| fs::remove_dir_all(layer.join("diff"))),
    ];
    for (what, damage) in damages {
        let file = |layer: &fs::DirEntry| layer.path().join("diff/name").exists();
        let mut found = fs::read_dir(&layers)?.flatten();
        let layer = found.find(file).context("no layer has the file")?;
        damage(&layer.path())?;
        node.reboot().await?;
        client = node.client().await?;
        assert_eq!(client.image(&reference).await?, None, "{what}");
        assert!(client.image(BUSYBOX).await?.is_some(), "{what}");
        client.pull(&reference, None).await?;
        let config = node.host_pod("again");
        let pod = Pod::run(node.clone(), config).await?;
        let mut task = container("main", "cat /name");
        task.image = Some(image_spec(&reference));
        let (status, output) = pod.once(task).await?;
        assert_eq!(
            (status.exit_code, output),
            (0, vec!["whole".to_owned()]),
            "{what}"
        );
        pod.delete().await?;
    }
    Ok(())
}
