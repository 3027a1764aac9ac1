//! The machine is started anew: the records of its pods are still there, and can be removed.

use std::fs;
use std::path::Path;

use anyhow::Result;
use husk_tests::cri::{ContainerState, PodSandboxState};
use husk_tests::{BUSYBOX, Node, NodeOptions, Pod, container, logs, settings};

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
