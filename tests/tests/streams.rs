//! The Stream* lists: every item exactly once, at least one a message, then the end; and the same as the unary lists.

use std::collections::BTreeSet;

use anyhow::Result;
use husk_tests::{Node, Pod, container, cri};

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
