//! Pulls from a registry that misbehaves on request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::server::{Fault, Server};
use crate::common::{Node, Recorder, TestImage, layer};
use husk_image::{
    Credentials, Digest, ErrorKind, LayerPhase, ProgressEvent, PullError, RootfsOptions, Silent,
};
use serde_json::json;

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

#[tokio::test]
async fn tokens_are_fetched_once_and_again_when_they_expire() {
    let image = TestImage::new(vec![layer(&[("a", b"a")]), layer(&[("b", b"b")])]);
    let server = Server::start().await;
    server.add("app", "1", &image);
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s 1\"",
        server.host
    );
    server.guard(&["Bearer first"], &realm);
    server.put("/token", br#"{"token": "first", "expires_in": 60}"#);
    let node = node(&[&server], "").await;
    let basic = Credentials::Basic {
        username: "user".to_owned(),
        password: "pass".to_owned(),
    };
    let reference = format!("{}/app:1", server.host);
    node.images
        .pull(&reference, Some(basic), Arc::new(Silent))
        .await
        .unwrap();
    let tokens = server.seen("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?scope=repository%3Aapp%3Apull&service=s+1"
    );
    assert_eq!(
        tokens[0].authorization.as_deref(),
        Some("Basic dXNlcjpwYXNz")
    );

    // An identity token is exchanged by a form, and a 401 in the middle leads to a new token.
    server.put("/token", br#"{"access_token": "first"}"#);
    let other = TestImage::new(vec![layer(&[("c", b"c")])]);
    server.add("app", "2", &other);
    let blob = format!("/v2/app/blobs/{}", Digest::of(&other.blobs[0].0));
    let expired = Fault::Status(401, vec![("WWW-Authenticate", realm)]);
    server.fail(&blob, [expired]);
    let reference = format!("{}/app:2", server.host);
    let identity = Credentials::IdentityToken("secret+".to_owned());
    node.images
        .pull(&reference, Some(identity), Arc::new(Silent))
        .await
        .unwrap();
    let tokens = server.seen("/token");
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens[2].method, "POST");
    assert!(
        tokens[2].body.contains("refresh_token=secret%2B"),
        "{}",
        tokens[2].body
    );
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_unauthorized() {
    let server = Server::start().await;
    server.add("app", "1", &small());
    server.guard(&["Basic dXNlcjpwYXNz"], "Basic realm=\"r\"");
    let node = node(&[&server], "").await;
    let reference = format!("{}/app:1", server.host);
    let basic = |password: &str| Credentials::Basic {
        username: "user".to_owned(),
        password: password.to_owned(),
    };
    for credentials in [
        None,
        Some(basic("wrong")),
        Some(Credentials::IdentityToken("t".to_owned())),
    ] {
        let error = node
            .images
            .pull(&reference, credentials, Arc::new(Silent))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    }
    node.images
        .pull(&reference, Some(basic("pass")), Arc::new(Silent))
        .await
        .unwrap();

    // The same from auth.json.
    node.images.remove(&reference).await.unwrap();
    let file = json!({"auths": {format!("{}/app", server.host): {"auth": "dXNlcjpwYXNz"}}});
    std::fs::write(node.directory.path().join("auth.json"), file.to_string()).unwrap();
    pull(&node, &server).await.unwrap();
}

#[tokio::test]
async fn mirrors_come_first_and_do_not_see_the_callers_credentials() {
    let (mirror, origin) = (Server::start().await, Server::start().await);
    let image = small();
    origin.add("app", "1", &image);
    origin.add("app", "2", &image);
    mirror.add("cache/app", "2", &image);
    let blob = format!("/v2/cache/app/blobs/{}", Digest::of(&image.blobs[0].0));
    mirror.fail(&blob, vec![Fault::Status(404, Vec::new()); 2]);
    let more = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{}/cache\"\ninsecure = true\n",
        origin.host, mirror.host
    );
    let node = node(&[], &more).await;
    origin.guard(&["Basic dTpw"], "Basic realm=\"r\"");
    let basic = || {
        Some(Credentials::Basic {
            username: "u".to_owned(),
            password: "p".to_owned(),
        })
    };
    // The mirror has the manifest of 2 but not the layer, which then comes from the origin.
    let reference = format!("{}/app:2", origin.host);
    let pulled = node
        .images
        .pull(&reference, basic(), Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(pulled.repo_tags, [reference]);
    assert!(origin.seen("/manifests/").is_empty() && !origin.seen("/blobs/").is_empty());
    // It does not have 1 at all.
    let reference = format!("{}/app:1", origin.host);
    node.images
        .pull(&reference, basic(), Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(mirror.seen("/manifests/1").len(), 1);
    assert!(
        mirror
            .seen("")
            .iter()
            .all(|seen| seen.authorization.is_none())
    );
    let missing = format!("{}/app:3", origin.host);
    let error = node
        .images
        .pull(&missing, basic(), Arc::new(Silent))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.cause.to_string().contains(&mirror.host),
        "{}",
        error.cause
    );
}

#[tokio::test]
async fn blocked_and_wrong_references_are_refused_without_a_request() {
    let node = node(
        &[],
        "[[registry]]\nprefix = \"evil.example\"\nblocked = true\n",
    )
    .await;
    for (reference, expect) in [
        ("evil.example/a", ErrorKind::Blocked),
        ("A B", ErrorKind::InvalidReference),
        ("", ErrorKind::InvalidReference),
        ("a.b/c@sha256:12", ErrorKind::InvalidReference),
    ] {
        let error = node
            .images
            .pull(reference, None, Arc::new(Silent))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), expect, "{reference}");
    }
}

#[tokio::test]
async fn redirects_are_followed_without_the_authorization() {
    let (server, store) = (Server::start().await, Server::start().await);
    let image = small();
    server.add("app", "1", &image);
    server.guard(&["Basic dTpw"], "Basic realm=\"r\"");
    let blob = format!("/v2/app/blobs/{}", Digest::of(&image.blobs[0].0));
    store.put("/signed", &image.blobs[0].0);
    let location = format!("http://{}/signed", store.host);
    server.fail(&blob, [Fault::Status(307, vec![("Location", location)])]);
    let node = node(&[&server], "").await;
    let basic = Credentials::Basic {
        username: "u".to_owned(),
        password: "p".to_owned(),
    };
    let reference = format!("{}/app:1", server.host);
    node.images
        .pull(&reference, Some(basic), Arc::new(Silent))
        .await
        .unwrap();
    let signed = store.seen("/signed");
    assert_eq!((signed.len(), signed[0].authorization.clone()), (1, None));
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

#[tokio::test]
async fn short_names_are_searched_in_order() {
    let (first, second) = (Server::start().await, Server::start().await);
    second.add("app", "1", &small());
    let more = format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\n",
        first.host, second.host
    );
    let node = node(&[&first, &second], &more).await;
    let image = node
        .images
        .pull("app:1", None, Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(image.repo_tags, [format!("{}/app:1", second.host)]);
    assert_eq!(node.images.find("app:1").unwrap().unwrap().id, image.id);
    assert_eq!(first.seen("/manifests/1").len(), 1);
}
