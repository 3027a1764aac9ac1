//! Pods: what a sandbox is configured with is what its containers find.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use husk_tests::client::{codes, expect_error};
use husk_tests::config::{namespaces, security};
use husk_tests::cri::{self, NamespaceMode, PodSandboxState};
use husk_tests::{Node, Pod, container};
use tonic::Code;

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn hostname_and_resolv_conf_are_what_was_asked_and_shm_is_64_mib() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.pod("hostnamed");
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.1.1.1".to_owned()],
        searches: vec!["a.test".to_owned(), "b.test".to_owned()],
        options: vec!["ndots:3".to_owned()],
    });
    let pod = Pod::run(node, config).await?;
    let id = pod.launch(container("main", "sleep 600")).await?;
    assert_eq!(pod.client.shell(&id, "hostname").await?, "hostnamed");
    assert_eq!(
        pod.client.shell(&id, "cat /etc/hostname").await?,
        "hostnamed"
    );
    let resolv = pod.client.shell(&id, "cat /etc/resolv.conf").await?;
    for line in [
        "nameserver 10.1.1.1",
        "search a.test b.test",
        "options ndots:3",
    ] {
        assert!(resolv.lines().any(|it| it == line), "{resolv}");
    }
    let shm = pod
        .client
        .shell(&id, "grep ' /dev/shm ' /proc/self/mounts")
        .await?;
    assert!(
        shm.contains("tmpfs") && shm.contains("size=65536k"),
        "{shm}"
    );
    pod.delete().await
}

#[tokio::test]
async fn containers_of_a_pod_share_network_ipc_hostname_and_shm_but_not_processes() -> Result<()> {
    let pod = Pod::on_network("sharing").await?;
    let one = pod
        .launch(container(
            "one",
            "echo shared > /dev/shm/file; nc -l -p 7000 -e echo found; sleep 600",
        ))
        .await?;
    let two = pod.launch(container("two", "sleep 600")).await?;
    for namespace in ["net", "ipc", "uts"] {
        let script = format!("readlink /proc/self/ns/{namespace}");
        assert_eq!(
            pod.client.shell(&one, &script).await?,
            pod.client.shell(&two, &script).await?,
            "{namespace}"
        );
    }
    let pid = "readlink /proc/self/ns/pid";
    assert_ne!(
        pod.client.shell(&one, pid).await?,
        pod.client.shell(&two, pid).await?
    );
    assert_eq!(pod.client.shell(&two, "cat /dev/shm/file").await?, "shared");
    let found = "until nc -w 2 127.0.0.1 7000 </dev/null; do sleep 0.05; done";
    assert_eq!(pod.client.shell(&two, found).await?, "found");
    pod.delete().await
}

#[tokio::test]
async fn a_shared_pid_namespace_shows_the_siblings_and_reaps_their_orphans() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.host_pod("shared-pid");
    namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let pod = Pod::run(node, config).await?;
    let with_pod_pid = |name: &str, script: &str| {
        let mut container = container(name, script);
        security(&mut container).namespace_options = Some(cri::NamespaceOption {
            pid: NamespaceMode::Pod.into(),
            ..Default::default()
        });
        container
    };
    pod.launch(with_pod_pid("one", "(sleep 0.1 &) ; exec sleep 4242"))
        .await?;
    let two = pod.launch(with_pod_pid("two", "sleep 600")).await?;
    assert!(
        pod.client
            .shell(&two, "ps -o args")
            .await?
            .contains("sleep 4242")
    );
    if pod.node.is_husk() {
        // elsewhere this is up to the pause image
        let script = "for n in $(seq 100); do ps -o stat,args | grep -q '^Z' || exit 0; sleep 0.05; done; exit 1";
        pod.client.shell(&two, script).await?;
    }
    pod.delete().await
}

#[tokio::test]
async fn namespaced_sysctls_are_set_and_host_ones_refused() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.pod("sysctls");
    let linux = config.linux.get_or_insert_default();
    linux.sysctls = map(&[
        ("net.ipv4.ip_unprivileged_port_start", "81"),
        ("kernel.shm_rmid_forced", "1"),
    ]);
    let pod = Pod::run(node.clone(), config).await?;
    let id = pod.launch(container("main", "sleep 600")).await?;
    assert_eq!(
        pod.client
            .shell(&id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
            .await?,
        "81"
    );
    assert_eq!(
        pod.client
            .shell(&id, "cat /proc/sys/kernel/shm_rmid_forced")
            .await?,
        "1"
    );
    let client = pod.client.clone();
    pod.delete().await?;
    for (name, value) in [
        ("kernel.pid_max", "99999"),
        ("vm.swappiness", "1"),
        ("kernel.shm_rmid_forced", "1+x=2"),
    ] {
        let mut config = node.pod("host-sysctl");
        config.linux.get_or_insert_default().sysctls = map(&[(name, value)]);
        expect_error(
            client.run_pod(&config).await,
            &[Code::InvalidArgument],
            &[name],
        )?;
    }
    let mut config = node.host_pod("net-sysctl-on-host-network");
    config.linux.get_or_insert_default().sysctls = map(&[("net.ipv4.ip_forward", "1")]);
    expect_error(
        client.run_pod(&config).await,
        &[Code::InvalidArgument],
        &["net.ipv4.ip_forward"],
    )?;
    Ok(())
}

#[tokio::test]
async fn labels_and_annotations_come_back_unaltered_and_filters_select() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.host_pod("labelled");
    config.labels = map(&[("app", "one"), ("tier", "back")]);
    config.annotations = map(&[
        ("weird/key", "line one\nline two = { \"json\": true }"),
        ("empty", ""),
    ]);
    let pod = Pod::run(node, config.clone()).await?;
    let status = pod.client.pod_status(&pod.id).await?;
    assert_eq!(
        (status.labels, status.annotations),
        (config.labels.clone(), config.annotations.clone())
    );
    assert_eq!(status.metadata, config.metadata);

    let select =
        |state: PodSandboxState, labels: &[(&str, &str)], id: &str| cri::PodSandboxFilter {
            id: id.to_owned(),
            state: Some(cri::PodSandboxStateValue {
                state: state.into(),
            }),
            label_selector: map(labels),
        };
    let cases = [
        (
            select(PodSandboxState::SandboxReady, &[("app", "one")], &pod.id),
            1,
        ),
        (
            select(PodSandboxState::SandboxReady, &[("app", "two")], &pod.id),
            0,
        ),
        (
            select(
                PodSandboxState::SandboxReady,
                &[("app", "one"), ("tier", "front")],
                &pod.id,
            ),
            0,
        ),
        (select(PodSandboxState::SandboxNotready, &[], &pod.id), 0),
        (select(PodSandboxState::SandboxReady, &[], &pod.id[..12]), 1),
        (select(PodSandboxState::SandboxReady, &[], "nowhere"), 0),
    ];
    for (filter, count) in cases {
        assert_eq!(
            pod.client.pods(Some(filter.clone())).await?.len(),
            count,
            "{filter:?}"
        );
    }
    pod.delete().await
}

#[tokio::test]
async fn stop_and_remove_are_idempotent_and_a_stopped_pod_takes_no_containers() -> Result<()> {
    let pod = Pod::on_network("twice").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    pod.client.stop_pod(&pod.id).await?;
    pod.client.stop_pod(&pod.id).await?;
    assert_eq!(
        pod.client.pod_status(&pod.id).await?.state(),
        PodSandboxState::SandboxNotready
    );
    assert_eq!(
        pod.client.container_status(&id).await?.state(),
        cri::ContainerState::ContainerExited
    );
    let refused = pod
        .client
        .create(&pod.id, &pod.config, container("late", "true"))
        .await;
    let codes = codes(
        Code::FailedPrecondition,
        &[Code::NotFound, Code::Unknown, Code::Internal],
    );
    expect_error(refused, &codes, &[])?;
    pod.client.remove_pod(&pod.id).await?;
    pod.client.remove_pod(&pod.id).await?;
    pod.client.stop_pod(&pod.id).await?;
    let named: &[&str] = if pod.node.is_husk() { &[&pod.id] } else { &[] };
    expect_error(
        pod.client.pod_status(&pod.id).await,
        &[Code::NotFound],
        named,
    )
}

#[tokio::test]
async fn removing_a_running_pod_takes_its_containers_with_it() -> Result<()> {
    let pod = Pod::on_host("at-once").await?;
    let id = pod.launch(container("main", "sleep 600")).await?;
    pod.client.remove_pod(&pod.id).await?;
    expect_error(
        pod.client.container_status(&id).await,
        &[Code::NotFound],
        &[&id],
    )?;
    assert!(
        pod.client
            .containers(None)
            .await?
            .iter()
            .all(|it| it.pod_sandbox_id != pod.id)
    );
    Ok(())
}

#[tokio::test]
async fn the_status_names_what_is_ready_and_what_the_handlers_can() -> Result<()> {
    let node = Node::shared().await?;
    let status = node.client().await?.status().await?;
    let conditions = status.status.unwrap_or_default().conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        assert!(
            conditions.iter().any(|it| it.r#type == wanted && it.status),
            "{conditions:?}"
        );
    }
    assert!(
        status.runtime_handlers.iter().any(|it| it.name.is_empty()),
        "{:?}",
        status.runtime_handlers
    );
    assert!(!status.info.is_empty(), "verbose was asked");
    let client = node.client().await?;
    let answer = client
        .runtime
        .clone()
        .runtime_config(cri::RuntimeConfigRequest {})
        .await?
        .into_inner();
    let linux = answer
        .linux
        .context("RuntimeConfig names the cgroup driver")?;
    if node.is_husk() {
        let expect = match husk_tests::cgroup::is_systemd() {
            true => cri::CgroupDriver::Systemd,
            false => cri::CgroupDriver::Cgroupfs,
        };
        assert_eq!(linux.cgroup_driver(), expect);
    }
    Ok(())
}
