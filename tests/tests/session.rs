//! A whole session as an operator would have it, call by call, and nothing left at its end.

use anyhow::{Context as _, Result};
use husk_tests::cri::{ContainerState, PodSandboxState};
use husk_tests::registry::Access;
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Client, Image, Node, NodeOptions, container, logs};

#[tokio::test]
async fn an_operator_runs_looks_executes_stops_and_removes_a_pod() -> Result<()> {
    let node = Node::start(NodeOptions::default()).await?;
    let client = node.client().await?;
    let before = node.settled().await?;

    let version = client.version().await?;
    assert_eq!(version.runtime_api_version, "v1");
    let config = node.pod("session");
    let pod = client.run_pod(&config).await?;
    let pods = client.pods(None).await?;
    assert!(
        pods.iter()
            .any(|it| it.id == pod && it.state() == PodSandboxState::SandboxReady),
        "{pods:?}"
    );

    let script =
        "echo to stdout; echo to stderr >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let id = client
        .create(&pod, &config, container("main", script))
        .await?;
    assert_eq!(
        client.container_status(&id).await?.state(),
        ContainerState::ContainerCreated
    );
    client.start(&id).await?;
    let status = client.container_status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert!(
        status.started_at >= status.created_at && status.created_at > 0,
        "{status:?}"
    );
    let listed = client.containers(None).await?;
    assert!(
        listed
            .iter()
            .any(|it| it.id == id && it.pod_sandbox_id == pod),
        "{listed:?}"
    );

    logs_and_exec(&client, &id, &status.log_path).await?;

    client.stop(&id, 10).await?;
    let status = client.container_status(&id).await?;
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 7),
        "{status:?}"
    );
    client.remove(&id).await?;
    client.stop_pod(&pod).await?;
    assert_eq!(
        client.pod_status(&pod).await?.state(),
        PodSandboxState::SandboxNotready
    );
    client.remove_pod(&pod).await?;
    assert!(client.pods(None).await?.iter().all(|it| it.id != pod));
    assert!(client.containers(None).await?.iter().all(|it| it.id != id));

    if node.skips("its own state is not known") {
        return Ok(());
    }
    node.assert_settles(&before).await
}

async fn logs_and_exec(client: &Client, id: &str, log: &str) -> Result<()> {
    let path = std::path::Path::new(log);
    logs::wait_for_line(path, "to stdout", DEADLINE).await?;
    let log = logs::wait_for_line(path, "to stderr", DEADLINE).await?;
    assert_eq!(logs::text(&log, "stdout"), ["to stdout"]);
    assert_eq!(logs::text(&log, "stderr"), ["to stderr"]);

    let answer = client
        .exec(id, &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 10)
        .await?;
    assert_eq!(
        (
            answer.stdout.as_slice(),
            answer.stderr.as_slice(),
            answer.exit_code
        ),
        (&b"out\n"[..], &b"err\n"[..], 3)
    );

    Ok(())
}

#[tokio::test]
async fn an_image_is_pulled_listed_used_and_removed() -> Result<()> {
    let node = Node::shared().await?;
    let registry = node.registry(Access::Plain)?;
    let reference = registry.push(
        "session/busybox:1",
        &[Image::busybox("pushed")?.with("Env", serde_json::json!(["PATH=/bin", "SESSION=1"]))],
    )?;
    let client = node.client().await?;

    let image_ref = client.pull(&reference, None).await?;
    let image = client
        .image(&reference)
        .await?
        .context("the pulled image")?;
    assert_eq!(image.id, image_ref);
    assert!(image.repo_tags.contains(&reference), "{image:?}");
    assert!(
        client
            .list_images()
            .await?
            .iter()
            .any(|it| it.id == image.id)
    );

    let config = node.host_pod("pulled");
    let pod = client.run_pod(&config).await?;
    let mut task = container("task", "echo it runs");
    task.image = Some(husk_tests::config::image_spec(&image_ref));
    let (status, output) = client.run_to_end(&pod, &config, task).await?;
    assert_eq!((status.exit_code, output), (0, vec!["it runs".to_owned()]));
    assert_eq!(status.image_id, image.id);
    client.delete_pod(&pod).await?;

    client.remove_image(&reference).await?;
    assert!(client.image(&reference).await?.is_none());
    client.remove_image(&reference).await?;
    assert!(
        client.image(BUSYBOX).await?.is_some(),
        "another image went away with it"
    );
    Ok(())
}
