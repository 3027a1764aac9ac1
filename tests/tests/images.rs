//! Images: every packing, manifest and name, and the store behind them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use husk_tests::client::{codes, expect_error};
use husk_tests::config::image_spec;
use husk_tests::image::{Packing, architecture};
use husk_tests::registry::{Access, Registry};
use husk_tests::wait::DEADLINE;
use husk_tests::{
    BUSYBOX, Client, Image, Layer, Node, NodeOptions, container, cri, settings, wait_for,
};
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

#[tokio::test]
async fn layers_packed_with_gzip_zstd_and_not_at_all_make_the_same_image() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    for (tag, packing) in [
        ("gzip", Packing::Gzip),
        ("zstd", Packing::Zstd),
        ("plain", Packing::Plain),
    ] {
        let reference = registry.push(&format!("packing:{tag}"), &[image(tag)?.packed(packing)])?;
        client.pull(&reference, None).await?;
        assert_eq!(run(&node, &reference, "cat /name").await?, [tag]);
    }
    Ok(())
}

#[tokio::test]
async fn a_docker_schema_2_manifest_is_understood() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    let reference = registry.push_as("docker:2", &[image("docker")?], &["--format", "v2s2"])?;
    client.pull(&reference, None).await?;
    assert_eq!(run(&node, &reference, "cat /name").await?, ["docker"]);
    Ok(())
}

#[tokio::test]
async fn an_index_gives_the_image_of_this_platform_and_a_missing_platform_is_named() -> Result<()> {
    let (node, client, registry) = shared(Access::Plain).await?;
    let foreign = || anyhow::Ok(image("foreign")?.architecture("s390x"));
    let own = image("own")?.architecture(architecture());
    let reference = registry.push("index:both", &[foreign()?, own])?;
    client.pull(&reference, None).await?;
    assert_eq!(run(&node, &reference, "cat /name").await?, ["own"]);
    let reference = registry.push(
        "index:foreign",
        &[foreign()?, foreign()?.architecture("riscv64")],
    )?;
    let refused = client.pull(&reference, None).await;
    let codes = codes(Code::FailedPrecondition, &[Code::NotFound, Code::Unknown]);
    let named = match node.is_husk() {
        true => vec![reference.as_str(), architecture(), "s390x", "riscv64"],
        false => vec![reference.as_str()],
    };
    expect_error(refused, &codes, &named)
}

#[tokio::test]
async fn a_digest_pulls_exactly_that_image_and_the_id_is_the_same_everywhere() -> Result<()> {
    let (_node, client, registry) = shared(Access::Plain).await?;
    let reference = registry.push("digest:1", &[image("by digest")?])?;
    let by_tag = client.pull(&reference, None).await?;
    let pulled = client
        .image(&reference)
        .await?
        .context("the pulled image")?;
    let by_digest = pulled.repo_digests.first().context("a digest")?.clone();
    assert_eq!(client.pull(&by_digest, None).await?, by_tag);
    for name in [&reference, &by_digest, &pulled.id] {
        assert_eq!(
            client.image(name).await?.context("by any of its names")?.id,
            by_tag,
            "{name}"
        );
    }
    let listed = client.list_images().await?;
    let listed = listed.iter().find(|it| it.id == by_tag).context("listed")?;
    assert!(
        listed.size > 0 && listed.repo_tags == [reference.clone()],
        "{listed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_filter_lists_the_image_that_it_names_and_no_other() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    node.import(&image("husk.test/filtered:1")?)?;
    node.import(&image("husk.test/unfiltered:1")?)?;
    let listed = async |name: &str| {
        let filter = Some(cri::ImageFilter {
            image: Some(image_spec(name)),
        });
        let mut images = client.images.clone();
        let request = cri::ListImagesRequest {
            filter: filter.clone(),
        };
        let whole = images.list_images(request).await?.into_inner().images;
        // Others import at the same time: only what is named stays the same.
        if node.is_husk() && !name.is_empty() {
            let stream = images.stream_images(cri::StreamImagesRequest { filter });
            let pieces: Vec<_> = stream.await?.into_inner().try_collect().await?;
            let streamed: Vec<_> = pieces.into_iter().flat_map(|it| it.images).collect();
            ensure!(streamed == whole, "{streamed:?} is not {whole:?}");
        }
        anyhow::Ok(whole)
    };
    let found = listed("husk.test/filtered:1").await?;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].repo_tags, ["husk.test/filtered:1"]);
    assert_eq!(listed(&found[0].id).await?, found, "by its id");
    assert_eq!(listed("husk.test/absent:1").await?, []);
    let all = listed("").await?;
    assert!(all.len() >= 3 && all.contains(&found[0]), "{all:?}");
    Ok(())
}

#[tokio::test]
async fn removing_one_tag_removes_all_tags_of_the_image() -> Result<()> {
    let (_node, client, registry) = shared(Access::Plain).await?;
    let same = image("two tags")?;
    let one = registry.push("tags:one", std::slice::from_ref(&same))?;
    let two = registry.push("tags:two", &[same])?;
    let id = client.pull(&one, None).await?;
    assert_eq!(client.pull(&two, None).await?, id);
    client.remove_image(&one).await?;
    assert!(client.image(&two).await?.is_none() && client.image(&id).await?.is_none());
    Ok(())
}

/// How many layers of the store have the file `name` with this content.
fn layers_with(node: &Node, content: &str) -> Result<usize> {
    let layers = std::fs::read_dir(node.directory().join("root/images/layers"))?;
    let names = layers.flatten().map(|layer| layer.path().join("diff/name"));
    let contents = names.filter_map(|name| std::fs::read_to_string(name).ok());
    Ok(contents.filter(|found| found == content).count())
}

#[tokio::test]
async fn an_image_in_use_survives_its_removal_until_the_container_is_gone() -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("it looks into the image store") {
        return Ok(());
    }
    let client = node.client().await?;
    node.import(&image("husk.test/in-use:1")?)?;
    let config = node.host_pod("in-use");
    let pod = client.run_pod(&config).await?;
    let mut task = container("main", "exec sleep 600");
    task.image = Some(image_spec("husk.test/in-use:1"));
    let id = client.launch(&pod, &config, task).await?;
    assert_eq!(layers_with(&node, "husk.test/in-use:1")?, 1);
    client.remove_image("husk.test/in-use:1").await?;
    assert!(client.image("husk.test/in-use:1").await?.is_none());
    assert_eq!(client.shell(&id, "cat /name").await?, "husk.test/in-use:1");
    assert_eq!(layers_with(&node, "husk.test/in-use:1")?, 1);
    client.delete_pod(&pod).await?;
    wait_for("its layer is gone", DEADLINE, async || {
        let left = layers_with(&node, "husk.test/in-use:1").ok()?;
        (left == 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn image_fs_info_names_the_store_and_grows_with_it() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let used = async || {
        let answer = client
            .images
            .clone()
            .image_fs_info(cri::ImageFsInfoRequest {})
            .await?
            .into_inner();
        let usage = answer
            .image_filesystems
            .into_iter()
            .next()
            .context("an image file system")?;
        anyhow::Ok((
            usage.fs_id.context("its mount point")?.mountpoint,
            usage.used_bytes.context("used bytes")?.value,
        ))
    };
    let (place, before) = used().await?;
    assert!(Path::new(&place).is_dir(), "{place}");
    let layer = Layer::new().file("big", 0o644, &vec![1; 3 << 20]);
    node.import(&Image::busybox("husk.test/big:1")?.layer(layer))?;
    if node.is_husk() {
        assert!(
            used().await?.1 >= before + (2 << 20),
            "3 MiB more in the store are not seen"
        );
    }
    assert!(client.image(BUSYBOX).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn whiteouts_hard_links_and_modes_are_applied_layer_by_layer() -> Result<()> {
    let node = Node::shared().await?;
    let lower = Layer::new()
        .directory("data", 0o755)
        .file("data/gone", 0o644, b"x")
        .directory("opaque", 0o755)
        .file("opaque/old", 0o644, b"x");
    let upper = Layer::new()
        .file("data/.wh.gone", 0o644, b"")
        .file("data/kept", 0o644, b"kept")
        .hard_link("data/linked", "data/kept")
        .directory("opaque", 0o700)
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o644, b"y");
    node.import(
        &Image::busybox("husk.test/whiteout:1")?
            .layer(lower)
            .layer(upper),
    )?;
    let script = "ls /data; ls /opaque; stat -c %a /data/linked /opaque; cat /data/linked";
    let output = run(&node, "husk.test/whiteout:1", script).await?;
    assert_eq!(output, ["kept", "linked", "new", "644", "700", "kept"]);
    Ok(())
}

#[tokio::test]
async fn pinned_images_say_so_and_outlive_every_collection() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let configuration = "[image]\npinned = [\"husk.test/pinned:*\"]\n".to_owned();
    let node = Node::start(NodeOptions {
        configuration,
        ..Default::default()
    })
    .await?;
    let client = node.client().await?;
    for name in ["husk.test/pinned:1", "husk.test/other:1"] {
        node.import(&image(name)?)?;
    }
    let pinned = |images: Vec<cri::Image>| {
        let pinned = images
            .into_iter()
            .filter(|it| it.pinned)
            .flat_map(|it| it.repo_tags);
        pinned.collect::<Vec<_>>()
    };
    assert_eq!(pinned(client.list_images().await?), ["husk.test/pinned:1"]);
    let one = client
        .image("husk.test/pinned:1")
        .await?
        .context("the pinned image")?;
    assert!(one.pinned);
    // What the kubelet does when a disk is full: every image that is not pinned goes.
    for image in client.list_images().await?.iter().filter(|it| !it.pinned) {
        client.remove_image(&image.id).await?;
    }
    // A daemon that starts collects what nothing needs.
    node.restart().await?;
    let client = node.client().await?;
    let left = client.list_images().await?;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(pinned(left), ["husk.test/pinned:1"]);
    assert_eq!(
        run(&node, "husk.test/pinned:1", "cat /name").await?,
        ["husk.test/pinned:1"]
    );
    Ok(())
}
