//! What goes wrong at a registry, and how a pull takes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::server::{Fault, Server};
use crate::common::{Node, Recorder, TestImage};
use husk_image::{Digest, ErrorKind, ProgressEvent, Silent};
use serde_json::json;

use super::{node, pull, small};

#[tokio::test]
async fn passing_failures_are_waited_out() {
    let server = Server::start().await;
    server.add("app", "1", &small());
    let manifest = "/v2/app/manifests/1";
    let busy = Fault::Status(429, vec![("Retry-After", "1".to_owned())]);
    server.fail(
        manifest,
        [
            busy,
            Fault::Status(500, Vec::new()),
            Fault::Cut(10),
            Fault::Status(503, Vec::new()),
        ],
    );
    let node = node(&[&server], "").await;
    let recorder = Recorder::new();
    let start = Instant::now();
    let reference = format!("{}/app:1", server.host);
    node.images
        .pull(&reference, None, recorder.clone())
        .await
        .unwrap();
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "Retry-After is obeyed"
    );
    assert_eq!(server.seen(manifest).len(), 5);
    assert_eq!(
        recorder.count(|event| matches!(event, ProgressEvent::Retrying { .. })),
        4
    );
}

/// Pulls with each row's faults on its path, and expects its kind of failure and no leftovers.
async fn check_failures(image: &TestImage, rows: Vec<(&str, Vec<Fault>, ErrorKind)>) {
    for (at, (path, faults, expect)) in rows.into_iter().enumerate() {
        let server = Server::start().await;
        server.add("app", "1", image);
        server.fail(path, faults);
        let node = node(&[&server], "").await;
        let error = pull(&node, &server).await.expect_err(&format!("row {at}"));
        assert_eq!(error.kind(), expect, "row {at}: {error:?}");
        assert!(node.images.list().is_empty());
        assert_eq!(
            (node.count("layers"), node.count("temp")),
            (0, 0),
            "row {at}"
        );
    }
}

#[tokio::test]
async fn lasting_refusals_have_their_kind() {
    let status = |code: u16| vec![Fault::Status(code, vec![("Retry-After", "0".to_owned())]); 9];
    let manifest = "/v2/app/manifests/1";
    let rows = vec![
        (manifest, status(404), ErrorKind::NotFound),
        (manifest, status(403), ErrorKind::Unauthorized),
        (manifest, status(429), ErrorKind::Throttled),
        (manifest, status(502), ErrorKind::Unreachable),
        (manifest, vec![Fault::Stall], ErrorKind::Unreachable),
    ];
    check_failures(&small(), rows).await;
}

#[tokio::test]
async fn wrong_content_has_its_kind() {
    let image = small();
    let blob = format!("/v2/app/blobs/{}", Digest::of(&image.blobs[0].0));
    let config = format!("/v2/app/blobs/{}", Digest::of(&image.config));
    let manifest = "/v2/app/manifests/1";
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": {}});
    let both = serde_json::to_vec(&both).unwrap();
    let other: Vec<u8> = image.blobs[0].0.iter().map(|byte| byte ^ 1).collect();
    let longer = [image.blobs[0].0.clone(), vec![0; 100]].concat();
    let bodies = |bodies: &[&[u8]]| {
        bodies
            .iter()
            .map(|body| Fault::Body(body.to_vec()))
            .collect()
    };
    let rows: Vec<(&str, Vec<Fault>, ErrorKind)> = vec![
        (manifest, bodies(&[b"<html>"]), ErrorKind::Malformed),
        (manifest, bodies(&[&both]), ErrorKind::Malformed),
        (
            manifest,
            bodies(&[&vec![b' '; 5 << 20]]),
            ErrorKind::TooLarge,
        ),
        (&config, bodies(&[b"{}"]), ErrorKind::DigestMismatch),
        (&blob, bodies(&[&other, &other]), ErrorKind::DigestMismatch),
        (&blob, bodies(&[&longer, &longer]), ErrorKind::TooLarge),
        (&blob, vec![Fault::Stall], ErrorKind::Unreachable),
    ];
    check_failures(&image, rows).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let server = Server::start().await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let more = format!("[[registry]]\nlocation = \"{closed}\"\ninsecure = true\n");
    let node = node(&[&server], &more).await;
    let reference = format!("{closed}/app:1");
    let error = node
        .images
        .pull(&reference, None, Arc::new(Silent))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    // Without "insecure" a plain HTTP server is not talked to.
    let strict = Node::new().await;
    let error = pull(&strict, &server).await;
    strict.images.reload_registries().unwrap();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unreachable);
    assert!(server.seen("/v2/").is_empty());
}
