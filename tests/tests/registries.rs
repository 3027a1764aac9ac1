//! Registries as they are: locked, mirrored, blocked, absent, broken, stalling.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use husk_tests::client::{codes, expect_error};
use husk_tests::config::image_spec;
use husk_tests::image::Packing;
use husk_tests::proxy::Fault;
use husk_tests::registry::{Access, PASSWORD, Registry, USER};
use husk_tests::{Client, Image, Layer, Node, NodeOptions, container, cri, settings, token};
use serde_json::json;
use tonic::Code;

/// An image whose content is its name's, so that no two tests share a layer by chance.
fn image(name: &str) -> Result<Image> {
    Ok(Image::busybox(name)?.layer(Layer::new().file("name", 0o644, name.as_bytes())))
}

async fn shared(access: Access) -> Result<(Arc<Node>, Client, Registry)> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let registry = node.registry(access)?;
    Ok((node, client, registry))
}

/// What `script` prints in a container of the image.
async fn run(node: &Node, image: &str, script: &str) -> Result<Vec<String>> {
    let client = node.client().await?;
    let config = node.host_pod("image-test");
    let pod = client.run_pod(&config).await?;
    let mut task = container("main", script);
    task.image = Some(image_spec(image));
    let (status, output) = client.run_to_end(&pod, &config, task).await?;
    client.delete_pod(&pod).await?;
    ensure!(
        status.exit_code == 0,
        "{script:?} ended with {}: {output:?}",
        status.exit_code
    );
    Ok(output)
}

fn unauthenticated() -> Vec<Code> {
    let others = [
        Code::PermissionDenied,
        Code::FailedPrecondition,
        Code::Unknown,
    ];
    codes(Code::Unauthenticated, &others)
}

#[tokio::test]
async fn credentials_of_the_caller_open_a_registry_and_wrong_ones_do_not() -> Result<()> {
    let (_node, client, registry) = shared(Access::Password).await?;
    let reference = registry.push("private:1", &[image("private")?])?;
    let codes = unauthenticated();
    expect_error(client.pull(&reference, None).await, &codes, &[&reference])?;
    let login = |password: &str| cri::AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let refused = client.pull(&reference, Some(login("let me in"))).await;
    assert!(
        refused
            .as_ref()
            .is_err_and(|it| !it.message().contains("let me in")),
        "the password is told: {refused:?}"
    );
    expect_error(refused, &codes, &[&reference])?;
    client.pull(&reference, Some(login(PASSWORD))).await?;
    assert!(client.image(&reference).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_registry_with_tokens_takes_passwords_refresh_tokens_and_tokens_of_the_caller()
-> Result<()> {
    let (_node, client, registry) = shared(Access::Token).await?;
    let reference = registry.push("team/tokens:1", &[image("tokens")?])?;
    let login = |password: &str| cri::AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    for wrong in [None, Some(login("let me in"))] {
        let refused = client.pull(&reference, wrong).await;
        expect_error(refused, &unauthenticated(), &[&reference])?;
    }
    let refresh = cri::AuthConfig {
        identity_token: token::REFRESH.to_owned(),
        ..Default::default()
    };
    let bearer = cri::AuthConfig {
        registry_token: registry.token("team/tokens")?,
        ..Default::default()
    };
    for right in [login(PASSWORD), refresh, bearer] {
        client.pull(&reference, Some(right)).await?;
        assert!(client.image(&reference).await?.is_some());
        client.remove_image(&reference).await?;
    }
    // A token for another repository opens that one only.
    let other = cri::AuthConfig {
        registry_token: registry.token("team/other")?,
        ..Default::default()
    };
    let refused = client.pull(&reference, Some(other)).await;
    expect_error(refused, &unauthenticated(), &[&reference])
}

/// A node whose image configuration is written once the registry's address is known.
async fn configured(
    access: Access,
    write: impl Fn(&Node, &Registry) -> Result<()>,
) -> Result<Option<(Node, Registry)>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    let node = Node::start(NodeOptions::default()).await?;
    let registry = node.registry(access)?;
    write(&node, &registry)?;
    node.restart().await?;
    Ok(Some((node, registry)))
}

#[tokio::test]
async fn a_registry_with_tls_is_trusted_by_its_certificate_only() -> Result<()> {
    let write = |_node: &Node, _registry: &Registry| Ok(());
    let Some((node, registry)) = configured(Access::Tls, write).await? else {
        return Ok(());
    };
    let reference = registry.push("tls:1", &[image("tls")?])?;
    let client = node.client().await?;
    let refused = client.pull(&reference, None).await;
    expect_error(refused, &[Code::Unavailable], &[&reference, "certificate"])?;
    let certificates = node.directory().join("certs.d").join(registry.host());
    fs::create_dir_all(&certificates)?;
    fs::copy(registry.certificate(), certificates.join("ca.crt"))?;
    client.pull(&reference, None).await?;
    assert_eq!(run(&node, &reference, "cat /name").await?, ["tls"]);
    Ok(())
}

#[tokio::test]
async fn an_auth_file_opens_a_registry_without_the_callers_help() -> Result<()> {
    let write = |node: &Node, registry: &Registry| {
        let login = base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            format!("{USER}:{PASSWORD}"),
        );
        let path = node.directory().join("auth.json");
        fs::write(
            &path,
            json!({"auths": {registry.host(): {"auth": login}}}).to_string(),
        )?;
        let drop_in = node.directory().join("husk.toml.d/60-auth.toml");
        Ok(fs::write(
            drop_in,
            format!("[image]\nauth_file = \"{}\"\n", path.display()),
        )?)
    };
    let Some((node, registry)) = configured(Access::Password, write).await? else {
        return Ok(());
    };
    let reference = registry.push("private:2", &[image("auth file")?])?;
    node.client().await?.pull(&reference, None).await?;
    Ok(())
}

#[tokio::test]
async fn mirrors_blocked_registries_and_short_names_follow_registries_conf() -> Result<()> {
    let write = |node: &Node, registry: &Registry| {
        let text = format!(
            "unqualified-search-registries = [\"images.test\"]\n[[registry]]\nprefix = \"images.test\"\nlocation = \
             \"images.test\"\n[[registry.mirror]]\nlocation = \"{}/mirrored\"\ninsecure = true\n",
            registry.host()
        );
        fs::write(node.directory().join("registries.conf"), text)?;
        let directory = node.directory().join("registries.conf.d");
        fs::create_dir_all(&directory)?;
        let blocked = "[[registry]]\nprefix = \"blocked.test\"\nlocation = \"blocked.test\"\nblocked = true\n";
        Ok(fs::write(directory.join("50-blocked.conf"), blocked)?)
    };
    let Some((node, registry)) = configured(Access::Plain, write).await? else {
        return Ok(());
    };
    registry.push("mirrored/team/app:1", &[image("mirrored")?])?;
    let client = node.client().await?;
    client.pull("images.test/team/app:1", None).await?;
    let pulled = client
        .image("images.test/team/app:1")
        .await?
        .context("by the name asked for")?;
    assert_eq!(
        pulled.repo_tags,
        ["images.test/team/app:1"],
        "the mirror's name is nobody's business"
    );
    assert!(client.image("team/app:1").await?.is_some(), "a short name");
    let refused = client.pull("blocked.test/app:1", None).await;
    expect_error(
        refused,
        &[Code::PermissionDenied],
        &["blocked.test", "blocked"],
    )
}

#[tokio::test]
async fn absent_images_and_dead_registries_are_named_with_the_cause() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    let absent = format!("{}/no/such:image", registry.host());
    expect_error(
        client.pull(&absent, None).await,
        &codes(Code::NotFound, &[Code::Unknown]),
        &[&absent],
    )?;
    let address = registry.host();
    drop(registry);
    let refused = client.pull(&format!("{address}/any:1"), None).await;
    let cause: &[&str] = if node.is_husk() {
        &[&address, "refused"]
    } else {
        &[&address]
    };
    expect_error(refused, &codes(Code::Unavailable, &[Code::Unknown]), cause)?;
    for bad in ["UPPER CASE", "a:b:c", "", "x@sha256:short"] {
        let refused = client.pull(bad, None).await;
        let named: &[&str] = if node.is_husk() { &[bad] } else { &[] };
        let codes = codes(Code::InvalidArgument, &[Code::Unknown]);
        expect_error(refused, &codes, named)?;
    }
    assert!(client.image(&absent).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_digest_says_is_refused_and_nothing_of_it_stays() -> Result<()>
{
    let (node, client, registry) = shared(Access::Plain).await?;
    let layout = tempfile::tempdir()?;
    // Plain, so that the layer is stored by the digest that it is sent by.
    let layer = Layer::new().file("damaged", 0o644, &[7; 4096]);
    let layer = layer.packed(Packing::Plain);
    let images = [Image::busybox("damaged")?.layer(layer)];
    Image::write_layout(layout.path(), &images)?;
    let reference = registry.push("damaged:1", &images)?;
    let layer = last_layer(layout.path())?;
    let stored = registry.blob_file(&layer);
    let mut bytes = fs::read(&stored)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&stored, bytes)?;
    let refused = client.pull(&reference, None).await;
    expect_error(refused, &[Code::DataLoss], &[&reference, "digest"])?;
    assert!(client.image(&reference).await?.is_none());
    if !node.is_husk() {
        return Ok(());
    }
    let store = node.directory().join("root/images");
    for place in ["layers", "partial", "blobs"] {
        let left = store.join(place).join(layer.trim_start_matches("sha256:"));
        assert!(!left.exists(), "{} is left", left.display());
    }
    Ok(())
}

fn last_layer(layout: &Path) -> Result<String> {
    let read = |path: &Path| {
        anyhow::Ok(serde_json::from_slice::<serde_json::Value>(&fs::read(
            path,
        )?)?)
    };
    let index = read(&layout.join("index.json"))?;
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .context("a manifest")?
        .replace(':', "/");
    let manifest = read(&layout.join("blobs").join(digest))?;
    let layers = manifest["layers"].as_array().context("layers")?;
    Ok(layers
        .last()
        .and_then(|it| it["digest"].as_str())
        .context("a layer")?
        .to_owned())
}

#[tokio::test]
async fn a_download_that_breaks_is_resumed_and_too_many_requests_are_waited_out() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    let proxy = node.proxy(&registry)?;
    for (name, fault, times) in [
        ("cut", Fault::Cut(200_000), 2),
        ("busy", Fault::TooManyRequests, 2),
        ("garbage", Fault::Garbage, 1),
    ] {
        let content: Vec<u8> = (0..1_500_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect();
        let image = Image::busybox(name)?.layer(Layer::new().file(name, 0o644, &content));
        registry.push(&format!("faulty:{name}"), &[image.packed(Packing::Plain)])?;
        proxy.inject(fault, times);
        let reference = format!("{}/faulty:{name}", proxy.host());
        client.pull(&reference, None).await?;
        assert_eq!(
            run(&node, &reference, &format!("wc -c < /{name}")).await?,
            ["1500000"]
        );
    }
    assert!(
        proxy.requests().iter().any(|it| it.ends_with(" range")),
        "never resumed: {:#?}",
        proxy.requests()
    );
    Ok(())
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up_after_the_configured_time() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let configuration = "[image]\npull_progress_timeout = \"1s\"\n".to_owned();
    let node = Node::start(NodeOptions {
        configuration,
        ..Default::default()
    })
    .await?;
    let registry = node.registry(Access::Plain)?;
    registry.push("stalling:1", &[image("stalling")?])?;
    let proxy = node.proxy(&registry)?;
    proxy.inject(Fault::Stall, usize::MAX);
    let client = node.client().await?;
    let reference = format!("{}/stalling:1", proxy.host());
    let refused =
        tokio::time::timeout(Duration::from_secs(60), client.pull(&reference, None)).await?;
    expect_error(refused, &[Code::Unavailable], &[&reference])
}

#[tokio::test]
async fn concurrent_pulls_of_one_image_share_one_download() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    let proxy = node.proxy(&registry)?;
    let layer = Layer::new().file("shared", 0o644, b"one download");
    registry.push(
        "concurrent:1",
        &[Image::busybox("concurrent")?.layer(layer)],
    )?;
    let reference = format!("{}/concurrent:1", proxy.host());
    let answers = join_all((0..8).map(|_| client.pull(&reference, None))).await;
    let ids = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let mut blobs: Vec<_> = proxy
        .requests()
        .into_iter()
        .filter(|it| it.contains("GET") && it.contains("/blobs/"))
        .collect();
    let asked = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(
        asked,
        blobs.len(),
        "a blob was fetched twice: {:#?}",
        proxy.requests()
    );
    Ok(())
}

#[tokio::test]
async fn drop_ins_win_over_registries_conf_and_later_ones_over_earlier_ones() -> Result<()> {
    let write = |node: &Node, registry: &Registry| {
        let entry = |rest: &str| {
            format!("[[registry]]\nprefix = \"images.test\"\n{rest}\ninsecure = true\n")
        };
        let blocked = entry("location = \"images.test\"\nblocked = true");
        let wrong = entry("location = \"127.0.0.1:1\"");
        let right = entry(&format!("location = \"{}/dropped-in\"", registry.host()));
        let directory = node.directory().join("registries.conf.d");
        fs::create_dir_all(&directory)?;
        fs::write(node.directory().join("registries.conf"), blocked)?;
        fs::write(directory.join("10-wrong.conf"), wrong)?;
        Ok(fs::write(directory.join("20-right.conf"), right)?)
    };
    let Some((node, registry)) = configured(Access::Plain, write).await? else {
        return Ok(());
    };
    registry.push("dropped-in/app:1", &[image("dropped in")?])?;
    node.client().await?.pull("images.test/app:1", None).await?;
    assert_eq!(
        run(&node, "images.test/app:1", "cat /name").await?,
        ["dropped in"]
    );
    Ok(())
}
