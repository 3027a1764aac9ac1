//! Pods with users of their own, in each OCI runtime: who owns what, inside and on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::config::{image_spec, namespaces, security};
use husk_tests::cri::{self, NamespaceMode};
use husk_tests::image::Layer;
use husk_tests::{Image, Node, NodeOptions, Pod, cgroup, container, settings};
use tonic::Code;

/// Who the pod's root is on the host.
const ROOT: u32 = 2_000_000;
const LENGTH: u32 = 65_536;
/// The handlers of the node: Debian's two, and one that maps mounts.
const OLD: [&str; 2] = ["crun", "runc"];
const CURRENT: &str = "current";

fn mapping(host_id: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id,
        container_id: 0,
        length: LENGTH,
    }]
}

fn mapped(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    namespaces(&mut config).userns_options = Some(cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: mapping(ROOT),
        gids: mapping(ROOT),
    });
    config
}

async fn node() -> Result<(Arc<Node>, Vec<&'static str>)> {
    let mut handlers = OLD.to_vec();
    let mut configuration = String::new();
    if settings::endpoint().is_none() {
        let runc = settings::current_runc()?;
        configuration = format!(
            "[runtime.handlers.{CURRENT}]\npath = {:?}\nkind = \"runc\"\n",
            runc.display().to_string()
        );
        handlers.push(CURRENT);
    }
    let node = Node::start(NodeOptions {
        configuration,
        ..NodeOptions::default()
    });
    Ok((Arc::new(node.await?), handlers))
}

async fn pod(node: &Arc<Node>, handler: &str, name: &str) -> Result<Pod> {
    let config = mapped(node.pod(name));
    let client = node.client().await?;
    let id = client.run_pod_with(&config, handler).await?;
    Ok(Pod {
        node: Arc::clone(node),
        client,
        config,
        id,
    })
}

#[tokio::test]
async fn the_pods_root_is_root_inside_and_nobody_on_the_host() -> Result<()> {
    let (node, handlers) = node().await?;
    if node.skips("it needs handlers of the node's own") {
        return Ok(());
    }
    for handler in handlers {
        let pod = pod(&node, handler, &format!("root-{handler}")).await?;
        let script = "echo to-stdout > /dev/stdout; echo ready; exec sleep 600";
        let id = pod.launch(container("main", script)).await?;
        let shell = async |script: &str| pod.client.shell(&id, script).await;
        let map = shell("cat /proc/self/uid_map").await?;
        let words: Vec<_> = map.split_whitespace().map(str::parse::<u32>).collect();
        assert_eq!(words, [Ok(0), Ok(ROOT), Ok(LENGTH)], "{handler}");
        assert_eq!(
            shell("id -u; stat -c %u:%g / /etc/passwd /bin/sh").await?,
            "0\n0:0\n0:0\n0:0"
        );
        let written = "touch /new /dev/shm/new && echo 10.0.0.9 x >> /etc/hosts && chown 7:8 /new && stat -c %u:%g /new";
        assert_eq!(shell(written).await?, "7:8", "{handler}");
        assert_eq!(
            shell("mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && echo mounted || echo refused")
                .await?,
            "refused"
        );
        on_the_host(&pod, &id).with_context(|| handler.to_owned())?;
        let log = husk_tests::logs::read(&pod.log("main"))?;
        let text = husk_tests::logs::text(&log, "stdout");
        assert_eq!(text, ["to-stdout", "ready"], "{handler}");
        measured(&pod, &id).await?;
        pod.delete().await?;
    }
    Ok(())
}

/// The process, and the way to its root file system, as the host sees them.
fn on_the_host(pod: &Pod, id: &str) -> Result<()> {
    let processes = cgroup::of_container(id, &["cgroup.procs"])?;
    let process = processes.lines().next().context("a process")?;
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    assert!(
        status.contains(&format!("Uid:\t{ROOT}\t{ROOT}\t{ROOT}\t{ROOT}")),
        "{status}"
    );
    let place = pod
        .node
        .directory()
        .join("run/images/mapped/rootfs")
        .join(id);
    let place = place.metadata()?;
    assert_eq!(
        (place.mode() & 0o777, place.uid(), place.gid()),
        (0o710, 0, ROOT)
    );
    let upper = pod.node.directory().join("root/images/containers").join(id);
    let new = upper.join("upper/new").metadata()?;
    assert_eq!((new.uid(), new.gid()), (ROOT + 7, ROOT + 8));
    Ok(())
}

async fn measured(pod: &Pod, id: &str) -> Result<()> {
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let stats = pod.client.runtime.clone().container_stats(request).await?;
    let stats = stats.into_inner().stats.context("stats")?;
    assert!(stats.memory.is_some() && stats.cpu.is_some(), "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn volumes_are_mapped_where_the_runtime_can_and_refused_where_it_cannot() -> Result<()> {
    let (node, handlers) = node().await?;
    if node.skips("it needs handlers of the node's own") {
        return Ok(());
    }
    let volume = tempfile::tempdir()?;
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(volume.path().join("file"), "kept")?;
    chown(volume.path().join("file"), Some(33), Some(44))?;
    for handler in handlers {
        let pod = pod(&node, handler, &format!("volume-{handler}")).await?;
        let mut config = container("main", "exec sleep 600");
        config.mounts = vec![cri::Mount {
            host_path: volume.path().display().to_string(),
            container_path: "/volume".to_owned(),
            uid_mappings: mapping(ROOT),
            gid_mappings: mapping(ROOT),
            ..Default::default()
        }];
        if handler == CURRENT {
            let id = pod.launch(config).await?;
            let script =
                "stat -c %u:%g /volume /volume/file; echo x > /volume/new; chown 5:6 /volume/new";
            assert_eq!(pod.client.shell(&id, script).await?, "0:0\n33:44");
            let new = volume.path().join("new").metadata()?;
            assert_eq!((new.uid(), new.gid()), (5, 6));
        } else {
            let refused = pod.client.create(&pod.id, &pod.config, config).await;
            let words = ["/volume", "uidMappings", "id-mapped"];
            expect_error(refused, &[Code::InvalidArgument], &words)?;
        }
        pod.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn images_as_volumes_belong_to_the_pods_users() -> Result<()> {
    let (node, _) = node().await?;
    if node.skips("it needs handlers of the node's own") {
        return Ok(());
    }
    let model = Image::empty("husk.test/model:1").layer(
        Layer::new()
            .directory("data", 0o755)
            .file("data/weights", 0o600, b"w"),
    );
    node.import(&model)?;
    let pod = pod(&node, "", "image-volume").await?;
    let mut config = container(
        "main",
        "stat -c %u:%g /model /model/data/weights; cat /model/data/weights",
    );
    config.mounts = vec![cri::Mount {
        container_path: "/model".to_owned(),
        image: Some(image_spec("husk.test/model:1")),
        readonly: true,
        ..Default::default()
    }];
    let (status, output) = pod.once(config).await?;
    assert_eq!(output, ["0:0", "0:0", "w"], "{status:?}");
    pod.delete().await
}

#[tokio::test]
async fn a_restarted_daemon_finds_such_a_pod_and_nothing_of_it_stays() -> Result<()> {
    let (node, _) = node().await?;
    if node.skips("it restarts the daemon") {
        return Ok(());
    }
    let before = node.settled().await?;
    let short = pod(&node, "", "short").await?;
    short.launch(container("main", "exec sleep 600")).await?;
    short.delete().await?;
    node.assert_settles(&before).await?;
    let pod = pod(&node, "", "restart").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    node.restart().await?;
    let client = node.client().await?;
    assert_eq!(
        client.shell(&id, "id -u; touch /again && echo ok").await?,
        "0\nok"
    );
    let next = container("next", "stat -c %u /bin/sh");
    let (_, output) = client.run_to_end(&pod.id, &pod.config, next).await?;
    assert_eq!(output, ["0"]);
    client.delete_pod(&pod.id).await?;
    let left = fs::read_dir(node.directory().join("run/images/mapped/rootfs"))?;
    assert_eq!(left.count(), 0);
    Ok(())
}

#[tokio::test]
async fn handlers_tell_truly_what_they_can() -> Result<()> {
    let (node, handlers) = node().await?;
    if node.skips("it needs handlers of the node's own") {
        return Ok(());
    }
    // Before Linux 6.3 no runtime can map mounts of tmpfs, which pods have too.
    let release = nix::sys::utsname::uname()?.release().to_owned();
    let release = release.to_string_lossy();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let maps = (numbers.next(), numbers.next()) >= (Some(6), Some(3));
    let status = node.client().await?.status().await?;
    for name in handlers {
        let found = status.runtime_handlers.iter().find(|it| it.name == name);
        let features = found.and_then(|it| it.features).context("features")?;
        assert_eq!(features.user_namespaces, maps && name == CURRENT, "{name}");
        assert!(features.recursive_read_only_mounts, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_mappings_are_refused() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    type Change = fn(&mut cri::UserNamespace);
    let cases: [(&str, Change); 6] = [
        ("none", |it| it.uids.clear()),
        ("two", |it| it.gids.extend(mapping(9_000_000))),
        ("overlapping", |it| it.uids.extend(mapping(ROOT + 1))),
        ("empty", |it| it.uids[0].length = 0),
        ("root unmapped", |it| it.gids[0].container_id = 1),
        ("past the end", |it| it.uids[0].host_id = u32::MAX),
    ];
    for (name, change) in cases {
        let mut config = mapped(node.pod("refused"));
        let options = namespaces(&mut config);
        change(options.userns_options.get_or_insert_default());
        let refused = client.run_pod(&config).await;
        expect_error(refused, &[Code::InvalidArgument], &["userns_options"])
            .with_context(|| name.to_owned())?;
    }
    let pod = Pod::run(Arc::clone(&node), mapped(node.pod("mismatch"))).await?;
    let mut config = container("main", "true");
    security(&mut config).namespace_options = Some(cri::NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(cri::UserNamespace {
            mode: NamespaceMode::Node.into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(
        refused,
        &[Code::InvalidArgument],
        &["userns_options", "pod's"],
    )?;
    pod.delete().await
}
