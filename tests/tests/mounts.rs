//! Mounts with propagation and recursive read-only: what happens on the node afterwards is seen, or not, inside.

use std::fs;

use anyhow::Result;
use husk_tests::config::security;
use husk_tests::cri::MountPropagation;
use husk_tests::{Node, NodeOptions, Pod, container, cri, settings};

/// A node with a shared mount at `<directory>/volume` that has another file system below it, at `below`.
async fn node() -> Result<Option<std::sync::Arc<Node>>> {
    if settings::skips("it makes mounts in the namespace of a node of the harness's own") {
        return Ok(None);
    }
    let prepare = r#"
        mkdir "$0/volume" && mount -t tmpfs husk-test "$0/volume" && mount --make-shared "$0/volume"
        mkdir "$0/volume/below" "$0/volume/late" "$0/volume/inner"
        mount -t tmpfs husk-test "$0/volume/below" && touch "$0/volume/below/file"
    "#;
    let options = NodeOptions {
        prepare: prepare.to_owned(),
        ..Default::default()
    };
    Ok(Some(Node::start(options).await?.into()))
}

fn volume(node: &Node) -> cri::Mount {
    cri::Mount {
        host_path: node.directory().join("volume").display().to_string(),
        container_path: "/volume".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn propagation_passes_mounts_in_the_directions_asked_for() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let mut config = node.host_pod("propagation");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    for handler in ["crun", "runc"] {
        let client = node.client().await?;
        let id = client.run_pod_with(&config, handler).await?;
        let pod = Pod {
            node: node.clone(),
            client,
            config: config.clone(),
            id,
        };
        // What is asked for; whether a mount on the node is seen inside, and one inside on the node.
        let cases = [
            (MountPropagation::PropagationPrivate, false, false),
            (MountPropagation::PropagationHostToContainer, true, false),
            (MountPropagation::PropagationBidirectional, true, true),
        ];
        for (propagation, inwards, outwards) in cases {
            let what = format!("{} in {handler}", propagation.as_str_name());
            let mut config = container(propagation.as_str_name(), "exec sleep 600");
            security(&mut config).privileged = true;
            config.mounts = vec![cri::Mount {
                propagation: propagation.into(),
                ..volume(&node)
            }];
            let id = pod.launch(config).await?;
            node.script(
                "mount -t tmpfs husk-test \"$0/volume/late\" && touch \"$0/volume/late/file\"",
            )?;
            let seen = pod
                .client
                .exec(&id, &["test", "-e", "/volume/late/file"], 10)
                .await?;
            assert_eq!(seen.exit_code == 0, inwards, "from the node: {what}");
            node.script("umount \"$0/volume/late\"")?;
            let mount = "mount -t tmpfs husk-test /volume/inner && touch /volume/inner/file";
            pod.client.shell(&id, mount).await?;
            let file = node.seen_inside(&node.directory().join("volume/inner/file"));
            assert_eq!(file.exists(), outwards, "from the container: {what}");
            let reported = pod.client.container_status(&id).await?.mounts;
            assert!(
                reported.iter().any(|it| it.propagation() == propagation),
                "{reported:?}"
            );
            pod.client.shell(&id, "umount /volume/inner").await?;
            pod.client.stop(&id, 0).await?;
        }
        pod.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn recursive_read_only_reaches_what_is_mounted_below() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let config = node.host_pod("recursive");
    for handler in ["crun", "runc"] {
        let client = node.client().await?;
        let pod = client.run_pod_with(&config, handler).await?;
        for recursive in [false, true] {
            let mut main = container(&format!("recursive-{recursive}"), "exec sleep 600");
            main.mounts = vec![cri::Mount {
                readonly: true,
                recursive_read_only: recursive,
                ..volume(&node)
            }];
            let id = client.launch(&pod, &config, main).await?;
            let top = client.exec(&id, &["touch", "/volume/new"], 10).await?;
            assert_ne!(top.exit_code, 0, "{handler}");
            let below = client
                .exec(&id, &["touch", "/volume/below/file"], 10)
                .await?;
            let said = String::from_utf8_lossy(&below.stderr).into_owned();
            assert_eq!(below.exit_code != 0, recursive, "{handler}: {said}");
            assert_eq!(said.contains("Read-only"), recursive, "{handler}: {said}");
            let mounts = client.container_status(&id).await?.mounts;
            let reported = mounts.iter().find(|it| it.container_path == "/volume");
            assert_eq!(
                reported.map(|it| (it.readonly, it.recursive_read_only)),
                Some((true, recursive))
            );
        }
        client.delete_pod(&pod).await?;
    }
    assert!(!fs::exists(
        node.seen_inside(&node.directory().join("volume/new"))
    )?);
    Ok(())
}
