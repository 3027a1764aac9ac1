//! Pulls from a registry that misbehaves on request.

use std::sync::Arc;
use std::time::Duration;

use crate::common::server::{Fault, Server};
use crate::common::{Node, Recorder, TestImage, layer};
use husk_image::{Digest, ErrorKind, LayerPhase, ProgressEvent, PullError, RootfsOptions, Silent};
use serde_json::json;

mod access;
mod failures;

fn small() -> TestImage {
    TestImage::new(vec![layer(&[("hello", b"hello")])])
}

/// An image whose one blob is large and does not compress.
fn large() -> (TestImage, String) {
    let mut state: u64 = 1;
    let noise: Vec<u8> = (0..2_000_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let mut image = TestImage::new(vec![layer(&[("noise", &noise)])]);
    image.blobs = vec![(image.layers[0].clone(), "")];
    let path = format!("/v2/app/blobs/{}", Digest::of(&image.blobs[0].0));
    (image, path)
}

/// A store that knows loopback servers as insecure, with more of the registry configuration.
async fn node(servers: &[&Server], more: &str) -> Node {
    let mut text = more.to_owned();
    for server in servers {
        text.push_str(&format!(
            "\n[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            server.host
        ));
    }
    Node::with(|config, directory| {
        let path = directory.join("registries.conf");
        std::fs::write(&path, text).unwrap();
        config.registries = vec![path];
        config.auth_file = Some(directory.join("auth.json"));
        config.pull_progress_timeout = Duration::from_secs(2);
    })
    .await
}

async fn pull(node: &Node, server: &Server) -> Result<husk_image::Image, PullError> {
    let reference = format!("{}/app:1", server.host);
    node.images.pull(&reference, None, Arc::new(Silent)).await
}

#[tokio::test]
async fn an_image_is_pulled_with_all_its_names() {
    let server = Server::start().await;
    let digest = server.add("app", "1", &small());
    let node = node(&[&server], "").await;
    let recorder = Recorder::new();
    let reference = format!("{}/app:1", server.host);
    let image = node
        .images
        .pull(&reference, None, recorder.clone())
        .await
        .unwrap();
    assert_eq!(image.id, small().id());
    assert_eq!(image.repo_tags, std::slice::from_ref(&reference));
    let by_digest = format!("{}/app@{digest}", server.host);
    assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
    for name in [&reference, &by_digest, &image.id] {
        assert_eq!(
            node.images.find(name).unwrap().unwrap().id,
            image.id,
            "{name}"
        );
    }
    let phase = |wanted: LayerPhase| {
        recorder
            .count(|event| matches!(event, ProgressEvent::Layer { phase, .. } if *phase == wanted))
    };
    assert!(phase(LayerPhase::Downloading) > 0 && phase(LayerPhase::Unpacking) > 0);
    assert_eq!(phase(LayerPhase::Done), 1);
    assert_eq!(
        recorder.count(|event| matches!(event, ProgressEvent::Resolved { .. })),
        1
    );
    assert_eq!((node.count("partial"), node.count("temp")), (0, 0));
    let root = node
        .images
        .rootfs(&image.id, "c", RootfsOptions::default())
        .await
        .unwrap();
    assert_eq!(std::fs::read(root.path.join("hello")).unwrap(), b"hello");
    node.images.release("c").await.unwrap();

    // By digest alone there is no tag; the layer is not fetched again.
    let again = node
        .images
        .pull(&by_digest, None, Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(again.repo_tags, [reference]);
    let blob = Digest::of(&small().blobs[0].0).to_string();
    assert_eq!(server.seen(&blob).len(), 1);
}

#[tokio::test]
async fn layers_are_fetched_side_by_side() {
    let image = TestImage::new(vec![layer(&[("a", b"a")]), layer(&[("b", b"b")])]);
    let server = Server::start().await;
    server.add("app", "1", &image);
    let [one, other] = [0, 1].map(|at| {
        let digest = Digest::of(&image.blobs[at].0);
        format!("/v2/app/blobs/{digest}")
    });
    // Neither comes before both are asked for: who asks for one after the other gives up and asks again.
    server.fail(&one, [Fault::After(other.clone())]);
    server.fail(&other, [Fault::After(one.clone())]);
    let node = node(&[&server], "").await;
    pull(&node, &server).await.unwrap();
    for path in [one, other] {
        assert_eq!(server.seen(&path).len(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_ended() {
    let (image, path) = large();
    for (faults, ranges) in [
        (
            vec![Fault::Cut(700_000), Fault::Cut(500_000)],
            vec![None, Some(700_000), Some(1_200_000)],
        ),
        // A server that cannot continue sends all of it again.
        (
            vec![Fault::Cut(700_000), Fault::Whole],
            vec![None, Some(700_000)],
        ),
        (
            vec![Fault::Cut(700_000), Fault::Status(416, Vec::new())],
            vec![None, Some(700_000), None],
        ),
    ] {
        let server = Server::start().await;
        server.add("app", "1", &image);
        server.fail(&path, faults);
        let node = node(&[&server], "").await;
        pull(&node, &server).await.unwrap();
        let expect: Vec<Option<String>> = ranges
            .iter()
            .map(|at| at.map(|at| format!("bytes={at}-")))
            .collect();
        let asked: Vec<Option<String>> = server
            .seen(&path)
            .into_iter()
            .map(|seen| seen.range)
            .collect();
        assert_eq!(asked, expect);
    }
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart() {
    let (image, path) = large();
    let server = Server::start().await;
    server.add("app", "1", &image);
    server.fail(&path, [Fault::Cut(900_000), Fault::Status(404, Vec::new())]);
    let node = node(&[&server], "").await;
    let failed = pull(&node, &server).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::NotFound);
    let node = node.reopen().await;
    let recorder = Recorder::new();
    let reference = format!("{}/app:1", server.host);
    node.images
        .pull(&reference, None, recorder.clone())
        .await
        .unwrap();
    assert_eq!(
        server.seen(&path).last().unwrap().range,
        Some("bytes=900000-".to_owned())
    );
    let verified = |event: &ProgressEvent| {
        matches!(
            event,
            ProgressEvent::Layer {
                phase: LayerPhase::Verifying,
                total: 900_000,
                ..
            }
        )
    };
    assert_eq!(recorder.count(verified), 1);
}

#[tokio::test]
async fn a_partial_file_damaged_by_a_crash_is_fetched_anew() {
    let (image, path) = large();
    let server = Server::start().await;
    server.add("app", "1", &image);
    let node = node(&[&server], "").await;
    let digest = Digest::of(&image.blobs[0].0);
    std::fs::write(
        node.root().join("partial").join(digest.hex()),
        vec![0; 800_000],
    )
    .unwrap();
    pull(&node, &server).await.unwrap();
    let asked: Vec<Option<String>> = server
        .seen(&path)
        .into_iter()
        .map(|seen| seen.range)
        .collect();
    assert_eq!(asked, [Some("bytes=800000-".to_owned()), None]);
}

#[tokio::test]
async fn the_right_image_of_an_index_is_chosen() {
    let server = Server::start().await;
    let image = small();
    let manifest = image.manifest();
    server.add("app", "single", &image);
    let entry = |platform: &str, digest: Digest, size: usize| {
        let (os, architecture) = platform.split_once('/').unwrap();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "platform": {"os": os, "architecture": architecture}})
    };
    let other = entry("linux/s390x", Digest::of(b"other"), 5);
    let ours = entry(
        &husk_image::Platform::host().to_string(),
        Digest::of(&manifest),
        manifest.len(),
    );
    let index = |entries: Vec<serde_json::Value>| {
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    };
    let full = index(vec![other.clone(), ours]);
    server.put("/v2/app/manifests/1", &full);
    server.put("/v2/app/manifests/2", &index(vec![other]));
    let node = node(&[&server], "").await;
    let pulled = pull(&node, &server).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(
        pulled.repo_digests,
        [format!("{}/app@{}", server.host, Digest::of(&full))]
    );
    let reference = format!("{}/app:2", server.host);
    let error = node
        .images
        .pull(&reference, None, Arc::new(Silent))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoPlatform);
    assert!(error.cause.to_string().contains("linux/s390x"));
}

#[tokio::test]
async fn callers_share_a_pull_and_may_go_away() {
    let (image, path) = large();
    let server = Server::start().await;
    server.add("app", "1", &image);
    let busy = Fault::Status(503, vec![("Retry-After", "1".to_owned())]);
    server.fail("/v2/app/manifests/1", [busy]);
    let node = node(&[&server], "").await;
    let reference = format!("{}/app:1", server.host);
    let recorders: Vec<Arc<Recorder>> = (0..8).map(|_| Recorder::new()).collect();
    let mut tasks: Vec<_> = recorders
        .iter()
        .map(|recorder| {
            let (images, reference, recorder) =
                (node.images.clone(), reference.clone(), recorder.clone());
            tokio::spawn(async move { images.pull(&reference, None, recorder).await })
        })
        .collect();
    // The one that started it goes away while the registry makes everybody wait.
    while server.seen("/manifests/1").is_empty() {
        tokio::task::yield_now().await;
    }
    tasks.remove(0).abort();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().id, image.id());
    }
    assert_eq!(server.seen("/manifests/1").len(), 2);
    assert_eq!(server.seen(&path).len(), 1);
    for recorder in &recorders[1..] {
        assert_eq!(
            recorder.count(|event| matches!(event, ProgressEvent::Stored { .. })),
            1
        );
    }
}

#[tokio::test]
async fn two_images_fetch_a_common_layer_once() {
    let base = layer(&[("base", &[1; 300_000])]);
    let one = TestImage::new(vec![base.clone(), layer(&[("one", b"1")])]);
    let two = TestImage::new(vec![base, layer(&[("two", b"2")])]);
    let server = Server::start().await;
    server.add("app", "1", &one);
    server.add("app", "2", &two);
    let node = node(&[&server], "").await;
    let names = ["1", "2"].map(|tag| format!("{}/app:{tag}", server.host));
    let pulls = names
        .iter()
        .map(|name| node.images.pull(name, None, Arc::new(Silent)));
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(
        server.seen(&Digest::of(&one.blobs[0].0).to_string()).len(),
        1
    );
    assert_eq!(node.count("layers"), 3);
}
