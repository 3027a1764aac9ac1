//! Mounts beyond plain ones: images as volumes, and options; and what a process may ask of
//! the OOM killer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::config::{image_spec, resources, words};
use husk_tests::cri;
use husk_tests::image::Layer;
use husk_tests::{Image, Pod, container};
use tonic::Code;

const MODEL: &str = "husk.test/model:2";

fn image_mount(sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: "/model".to_owned(),
        image: Some(image_spec(MODEL)),
        image_sub_path: sub_path.to_owned(),
        readonly: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn an_image_volume_shows_the_image_or_a_directory_of_it_and_its_id() -> Result<()> {
    let pod = Pod::on_host("image-volumes").await?;
    let layer = Layer::new()
        .directory("a", 0o755)
        .directory("a/b", 0o755)
        .file("a/b/weights", 0o644, b"deep\n")
        .file("top", 0o644, b"top\n")
        .symlink("inside", "/a/b")
        .symlink("outside", "../../../../../../../../../../etc");
    pod.node.import(&Image::empty(MODEL).layer(layer))?;
    let id = pod.client.image(MODEL).await?.context("the image")?.id;
    for (name, sub_path, script, expect) in [
        ("whole", "", "cat /model/top /model/a/b/weights", "top deep"),
        (
            "part",
            "a/b",
            "ls /model; cat /model/weights",
            "weights deep",
        ),
        (
            "read-only",
            "a",
            "touch /model/x 2>/dev/null || echo refused",
            "refused",
        ),
    ] {
        let mut config = container(name, script);
        config.mounts = vec![image_mount(sub_path)];
        let (status, output) = pod.once(config).await?;
        assert_eq!(output.join(" "), expect, "{name}");
        let image = status.mounts.iter().find_map(|mount| mount.image.clone());
        assert_eq!(image.context("the mount's image")?.image_ref, id, "{name}");
    }
    for (name, sub_path) in [
        ("missing", "a/c"),
        ("leaving", "outside"),
        ("dots", "a/../../x"),
    ] {
        let mut config = container(name, "true");
        config.mounts = vec![image_mount(sub_path)];
        let refused = pod.client.create(&pod.id, &pod.config, config).await;
        let sub_path_named = refused.is_err_and(|it| it.message().contains(sub_path));
        assert!(sub_path_named, "{name}");
    }
    let mut config = container("written", "true");
    config.mounts = vec![cri::Mount {
        readonly: false,
        ..image_mount("")
    }];
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(refused, &[Code::InvalidArgument], &["readonly"])?;
    pod.delete().await
}

#[tokio::test]
async fn mount_options_take_effect() -> Result<()> {
    let pod = Pod::on_host("mount-options").await?;
    let host = tempfile::tempdir()?;
    let program = host.path().join("true");
    fs::copy("/bin/busybox", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    for (name, options, expect) in [
        ("none", words(&[]), "ran"),
        ("noexec", words(&["noexec", "nodev", "nosuid"]), "refused"),
    ] {
        let script =
            "/host/true 2>/dev/null && echo ran || echo refused; grep ' /host ' /proc/mounts";
        let mut config = container(name, script);
        config.mounts = vec![cri::Mount {
            host_path: host.path().display().to_string(),
            container_path: "/host".to_owned(),
            mount_options: options.clone(),
            ..Default::default()
        }];
        let (_, output) = pod.once(config).await?;
        assert_eq!(output[0], expect, "{name}");
        for option in options {
            assert!(output[1].contains(&option), "{name}: {output:?}");
        }
    }
    let mut config = container("unknown", "true");
    config.mounts = vec![cri::Mount {
        host_path: host.path().display().to_string(),
        container_path: "/host".to_owned(),
        mount_options: words(&["remount"]),
        ..Default::default()
    }];
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(refused, &[Code::InvalidArgument], &["remount"])?;
    pod.delete().await
}

#[tokio::test]
async fn the_oom_score_is_the_one_asked_or_the_lowest_that_the_host_permits() -> Result<()> {
    let pod = Pod::on_host("oom-score").await?;
    // CAP_SYS_RESOURCE in capability.h.
    let capability = 1_u64 << 24;
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let may_lower = u64::from_str_radix(effective.context("CapEff")?, 16)? & capability != 0;
    let own: i64 = fs::read_to_string("/proc/self/oom_score_adj")?
        .trim()
        .parse()?;
    let lowest = if may_lower { -900 } else { own.max(-900) };
    for (name, wanted, expect) in [("raised", 500, 500), ("lowered", -900, lowest)] {
        let mut config = container(name, "exec sleep 600");
        resources(&mut config).oom_score_adj = wanted;
        let id = pod.launch(config).await?;
        let inside = pod.client.shell(&id, "cat /proc/1/oom_score_adj").await?;
        assert_eq!(inside, expect.to_string(), "{name}");
        let status = pod.client.container_status(&id).await?;
        let told = status.resources.and_then(|it| it.linux).unwrap_or_default();
        assert_eq!(told.oom_score_adj, expect, "{name}");
    }
    pod.delete().await
}
