//! Who a container is and what it may do: users, capabilities, seccomp, devices, paths, namespaces.

use std::fs;

use anyhow::Result;
use husk_tests::client::{codes, expect_error};
use husk_tests::config::{namespaces, security, words};
use husk_tests::cri::{self, NamespaceMode};
use husk_tests::{Image, Pod, container};
use serde_json::json;
use tonic::Code;

fn int(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

#[tokio::test]
async fn users_and_groups_are_the_ones_asked() -> Result<()> {
    let pod = Pod::on_host("users").await?;
    pod.node
        .import(&Image::busybox("husk.test/alice:1")?.with("User", json!("alice")))?;
    let run = async |name: &str,
                     image: &str,
                     change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container(name, "id -u; id -g; id -G");
        config.image = Some(husk_tests::config::image_spec(image));
        change(security(&mut config));
        anyhow::Ok(pod.once(config).await?.1)
    };
    let user = run("image-user", "husk.test/alice:1", &|_| ()).await?;
    assert_eq!(user, ["1000", "1001", "1001 2001"]);
    assert_eq!(
        run("uid", husk_tests::BUSYBOX, &|it| it.run_as_user = int(1000)).await?[..2],
        ["1000", "1001"]
    );
    let both = |it: &mut cri::LinuxContainerSecurityContext| {
        it.run_as_user = int(4321);
        it.run_as_group = int(1234);
        it.supplemental_groups = vec![77, 88];
    };
    assert_eq!(
        run("numbers", husk_tests::BUSYBOX, &both).await?,
        ["4321", "1234", "1234 77 88"]
    );
    let named =
        |it: &mut cri::LinuxContainerSecurityContext| "alice".clone_into(&mut it.run_as_username);
    assert_eq!(
        run("named", husk_tests::BUSYBOX, &named).await?,
        ["1000", "1001", "1001 2001"]
    );
    let strict = |it: &mut cri::LinuxContainerSecurityContext| {
        it.run_as_user = int(1000);
        it.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
    };
    assert_eq!(
        run("strict", husk_tests::BUSYBOX, &strict).await?,
        ["1000", "1001", "1001"]
    );
    let mut config = container("group-alone", "true");
    security(&mut config).run_as_group = int(5);
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(refused, &[Code::InvalidArgument], &["run_as_group"])?;
    pod.delete().await
}

#[tokio::test]
async fn capabilities_no_new_privs_and_seccomp_show_in_proc() -> Result<()> {
    let pod = Pod::on_host("privileges").await?;
    let script =
        "grep -E '^(Cap(Inh|Eff)|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' ' ,'";
    let run = async |name: &str, change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container(name, script);
        change(security(&mut config));
        anyhow::Ok(pod.once(config).await?.1.join(""))
    };
    let profile = |kind: cri::security_profile::ProfileType| {
        Some(cri::SecurityProfile {
            profile_type: kind.into(),
            ..Default::default()
        })
    };
    let plain = run("plain", &|it| {
        it.seccomp = profile(cri::security_profile::ProfileType::RuntimeDefault)
    })
    .await?;
    assert!(
        plain.contains("CapInh: 0000000000000000") && plain.contains("Seccomp: 2"),
        "{plain}"
    );
    let unconfined = profile(cri::security_profile::ProfileType::Unconfined);
    let capability = |add: &[&str], drop: &[&str]| {
        Some(cri::Capability {
            add_capabilities: words(add),
            drop_capabilities: words(drop),
            ..Default::default()
        })
    };
    let powerless = |it: &mut cri::LinuxContainerSecurityContext| {
        it.capabilities = capability(&[], &["ALL"]);
        it.no_new_privs = true;
        it.seccomp.clone_from(&unconfined);
    };
    let none = run("none", &powerless).await?;
    assert!(none.contains("CapEff: 0000000000000000"), "{none}");
    assert!(
        none.contains("NoNewPrivs: 1") && none.contains("Seccomp: 0"),
        "{none}"
    );
    let one = run("one", &|it| {
        it.capabilities = capability(&["NET_ADMIN"], &["ALL"])
    })
    .await?;
    assert!(one.contains("CapEff: 0000000000001000"), "{one}");
    pod.delete().await
}

#[tokio::test]
async fn a_seccomp_profile_of_the_host_is_applied() -> Result<()> {
    let pod = Pod::on_host("localhost-profile").await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("no-mkdir.json");
    let names = ["mkdir", "mkdirat"];
    let rules = json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]);
    fs::write(
        &path,
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).to_string(),
    )?;
    let mut config = container("main", "mkdir /tmp/x || echo refused");
    let profile = |reference: &std::path::Path| {
        let kind = cri::security_profile::ProfileType::Localhost.into();
        Some(cri::SecurityProfile {
            profile_type: kind,
            localhost_ref: reference.display().to_string(),
        })
    };
    security(&mut config).seccomp = profile(&path);
    assert_eq!(pod.once(config).await?.1, ["refused"]);
    let mut config = container("missing", "true");
    security(&mut config).seccomp = profile(&directory.path().join("absent.json"));
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    let codes = codes(
        Code::FailedPrecondition,
        &[Code::InvalidArgument, Code::Internal, Code::Unknown],
    );
    expect_error(refused, &codes, &["absent.json"])?;
    pod.delete().await
}

#[tokio::test]
async fn a_privileged_container_sees_the_devices_and_an_ordinary_one_does_not() -> Result<()> {
    let node = husk_tests::Node::shared().await?;
    let mut config = node.host_pod("privileged");
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let pod = Pod::run(node, config).await?;
    let script = "mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l";
    let mut privileged = container("privileged", script);
    security(&mut privileged).privileged = true;
    let (_, all) = pod.once(privileged).await?;
    let (_, few) = pod.once(container("ordinary", script)).await?;
    assert_eq!(all[0], "mounted");
    assert_eq!(few.len(), 1, "{few:?}");
    assert!(
        all[1].parse::<u32>()? > few[0].parse::<u32>()?,
        "{all:?} {few:?}"
    );
    pod.delete().await
}

#[tokio::test]
async fn masked_and_read_only_paths_and_a_read_only_root() -> Result<()> {
    let pod = Pod::on_host("paths").await?;
    let script = "cat /proc/version | wc -c; touch /proc/sys/kernel/domainname 2>/dev/null || echo locked; \
                  touch /x 2>/dev/null || echo root locked";
    let mut config = container("main", script);
    let context = security(&mut config);
    context.masked_paths = words(&["/proc/version"]);
    context.readonly_paths = words(&["/proc/sys"]);
    context.readonly_rootfs = true;
    assert_eq!(pod.once(config).await?.1, ["0", "locked", "root locked"]);
    pod.delete().await
}

#[tokio::test]
async fn a_container_in_a_siblings_pid_namespace_sees_its_processes() -> Result<()> {
    let pod = Pod::on_host("pid-modes").await?;
    let target = pod.launch(container("target", "exec sleep 31337")).await?;
    let mut config = container("guest", "ps -o args");
    security(&mut config).namespace_options = Some(cri::NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: target,
        ..Default::default()
    });
    let (_, seen) = pod.once(config).await?;
    assert!(
        seen.iter().any(|line| line.contains("sleep 31337")),
        "{seen:?}"
    );
    pod.delete().await
}

/// The node's processes, its System V objects and its shared memory are seen where they are asked for, and nowhere else.
#[tokio::test]
async fn the_nodes_pid_and_ipc_namespaces_are_shared_where_asked() -> Result<()> {
    let node = husk_tests::Node::shared().await?;
    let place = node.network().unwrap_or_else(std::process::id);
    let nodes = ["pid", "ipc"].map(|kind| fs::read_link(format!("/proc/{place}/ns/{kind}")));
    let shared = tempfile::Builder::new()
        .prefix("husk-test-")
        .tempfile_in("/dev/shm")?;
    let shown = shared.path().display();
    let script = format!(
        "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; test -e {shown} && echo shared || echo alone"
    );
    let inside = async |mode: NamespaceMode, others: NamespaceMode| {
        let mut config = node.host_pod("node-namespaces");
        let options = namespaces(&mut config);
        (options.pid, options.ipc) = (mode.into(), others.into());
        let options = options.clone();
        let pod = Pod::run(node.clone(), config).await?;
        let mut main = container("main", &script);
        security(&mut main).namespace_options = Some(options);
        let (_, seen) = pod.once(main).await?;
        pod.delete().await?;
        anyhow::Ok(seen)
    };
    let seen = inside(NamespaceMode::Node, NamespaceMode::Node).await?;
    for (at, own) in nodes.into_iter().enumerate() {
        assert_eq!(seen[at], own?.to_string_lossy(), "{seen:?}");
    }
    assert_eq!(seen[2], "shared");
    let apart = inside(NamespaceMode::Container, NamespaceMode::Pod).await?;
    assert!(
        apart[0] != seen[0] && apart[1] != seen[1] && apart[2] == "alone",
        "{apart:?} {seen:?}"
    );
    Ok(())
}
