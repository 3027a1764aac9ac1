//! The Stream* lists: every item exactly once, at least one a message, then the end; and the same as the unary lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};
use husk_tests::client::expect_error;
use husk_tests::{Node, NodeOptions, Pod, container, cri, settings};
use prost::Message as _;
use tonic::Code;

/// Checks one stream's messages against the ids of the unary list.
fn exactly(messages: &[Vec<String>], expected: &BTreeSet<String>) {
    assert!(
        messages.iter().all(|ids| !ids.is_empty()),
        "an empty message: {messages:?}"
    );
    let ids: Vec<_> = messages.iter().flatten().cloned().collect();
    assert_eq!(
        ids.len(),
        expected.len(),
        "an item twice, or missing: {ids:?}"
    );
    assert_eq!(&ids.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Reads a stream to its end: the ids of each message.
async fn drain<M>(
    mut stream: tonic::Streaming<M>,
    ids: impl Fn(M) -> Vec<String>,
) -> Result<Vec<Vec<String>>> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(ids(message));
    }
    Ok(messages)
}

#[tokio::test]
async fn pods_are_streamed_once_each() -> Result<()> {
    let pods = [
        Pod::on_host("streamed").await?,
        Pod::on_host("streamed-too").await?,
    ];
    let request = cri::StreamPodSandboxesRequest::default();
    let stream = pods[0]
        .client
        .runtime
        .clone()
        .stream_pod_sandboxes(request)
        .await;
    let ids = |message: cri::StreamPodSandboxesResponse| {
        message.pod_sandboxes.into_iter().map(|it| it.id).collect()
    };
    let messages = drain(stream?.into_inner(), ids).await?;
    assert!(
        messages.iter().all(|ids| !ids.is_empty()),
        "an empty message: {messages:?}"
    );
    for pod in &pods {
        assert_eq!(
            messages
                .iter()
                .flatten()
                .filter(|id| **id == pod.id)
                .count(),
            1,
            "{messages:?}"
        );
    }
    for pod in pods {
        pod.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn containers_are_streamed_once_each_and_filtered() -> Result<()> {
    let pod = Pod::on_host("streamed-containers").await?;
    let expected = [
        pod.launch(container("running", "exec sleep 600")).await?,
        pod.create(container("created", "true")).await?,
    ];
    let filter = Some(cri::ContainerFilter {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    });
    let request = cri::StreamContainersRequest { filter };
    let stream = pod.client.runtime.clone().stream_containers(request).await;
    let ids = |message: cri::StreamContainersResponse| {
        message.containers.into_iter().map(|it| it.id).collect()
    };
    exactly(&drain(stream?.into_inner(), ids).await?, &expected.into());
    pod.delete().await
}

#[tokio::test]
async fn images_are_streamed_once_each() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let expected = client
        .list_images()
        .await?
        .into_iter()
        .map(|it| it.id)
        .collect();
    let stream = client
        .images
        .clone()
        .stream_images(cri::StreamImagesRequest::default())
        .await;
    let ids =
        |message: cri::StreamImagesResponse| message.images.into_iter().map(|it| it.id).collect();
    exactly(&drain(stream?.into_inner(), ids).await?, &expected);
    Ok(())
}

#[tokio::test]
async fn a_stream_of_nothing_ends_at_once() -> Result<()> {
    let pod = Pod::on_host("no-stream").await?;
    let filter = Some(cri::ContainerFilter {
        id: "nowhere".to_owned(),
        ..Default::default()
    });
    let stream = pod
        .client
        .runtime
        .clone()
        .stream_containers(cri::StreamContainersRequest { filter })
        .await;
    assert!(stream?.into_inner().message().await?.is_none());
    pod.delete().await
}

/// What the kubelet writes to every container, at the length that its names may have.
fn kubelets(mut config: cri::ContainerConfig) -> cri::ContainerConfig {
    let longest = "n".repeat(63);
    let uid = "00000000-0000-0000-0000-000000000000";
    for (key, value) in [
        ("container.name", longest.as_str()),
        ("pod.name", &longest),
        ("pod.namespace", &longest),
        ("pod.uid", uid),
    ] {
        let key = format!("io.kubernetes.{key}");
        config.labels.insert(key, value.to_owned());
    }
    let ports = r#"[{"name":"metrics","containerPort":65535,"protocol":"TCP"}]"#;
    for (key, value) in [
        ("hash", "deadbeef"),
        ("restartCount", "0"),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
        ("ports", ports),
    ] {
        let key = format!("io.kubernetes.container.{key}");
        config.annotations.insert(key, value.to_owned());
    }
    config
}

#[tokio::test]
async fn eleven_thousand_containers_are_one_list() -> Result<()> {
    let pod = Pod::on_host("listed").await?;
    let id = pod.create(kubelets(container("main", "true"))).await?;
    let filter = cri::ContainerFilter {
        id,
        ..Default::default()
    };
    let items = pod.client.containers(Some(filter)).await?;
    // And what is around each of them in the list.
    let bytes: usize = items.iter().map(|item| item.encoded_len() + 4).sum();
    ensure!(
        bytes > 500 && bytes * 11_000 <= 16 << 20,
        "{bytes} bytes each"
    );
    pod.delete().await
}

#[tokio::test]
async fn a_list_that_no_client_takes_says_so_and_can_be_streamed() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Node::start(NodeOptions {
        configuration: "[limits]\ngrpc_message = \"1MiB\"\n".to_owned(),
        ..Default::default()
    });
    let node = Arc::new(node.await?);
    let pod = Pod::run(node.clone(), node.host_pod("large")).await?;
    let mut expected = BTreeSet::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let mut large = container(name, "true");
        let note = "x".repeat(200_000);
        large.annotations.insert("note".to_owned(), note);
        expected.insert(pod.create(large).await?);
    }
    expect_error(
        pod.client.containers(None).await,
        &[Code::ResourceExhausted],
        &["ListContainers", "limits.grpc_message", "Stream"],
    )?;
    let first = cri::ContainerFilter {
        id: expected.first().cloned().unwrap_or_default(),
        ..Default::default()
    };
    ensure!(pod.client.containers(Some(first)).await?.len() == 1);
    let request = cri::StreamContainersRequest::default();
    let stream = pod.client.runtime.clone().stream_containers(request).await;
    let ids = |message: cri::StreamContainersResponse| {
        message.containers.into_iter().map(|it| it.id).collect()
    };
    let messages = drain(stream?.into_inner(), ids).await?;
    ensure!(messages.len() == 6, "{messages:?}");
    exactly(&messages, &expected);
    pod.delete().await
}
