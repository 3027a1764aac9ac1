//! Whom a pull asks, and as whom.

use std::sync::Arc;

use crate::common::server::{Fault, Server};
use crate::common::{TestImage, layer};
use husk_image::{Credentials, Digest, ErrorKind, Silent};
use serde_json::json;

use super::{node, pull, small};

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
