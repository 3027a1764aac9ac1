//! Resources: what an update says is in the kernel's files and is told, for containers and for whole pods.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::cri::{self, LinuxContainerResources};
use husk_tests::{Node, NodeOptions, Pod, cgroup, container};
use tonic::Code;

/// The cgroups whose paths end in `name`, in all hierarchies. One that systemd makes is a scope, below which an OCI
/// runtime may make the one that counts, so what is deeper comes first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let scope = format!("{name}.scope");
    let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
    let all = cgroup::roots();
    let all = all.iter().flat_map(|root| cgroup::tree(root));
    let is_it = |path: &PathBuf| {
        let parent = path.parent().is_some_and(|parent| ends(parent, &scope));
        ends(path, name) || ends(path, &scope) || parent
    };
    let mut found: Vec<_> = all.filter(is_it).collect();
    found.reverse();
    found
}

/// A file of the cgroup whose path ends in `name`, in whichever hierarchy has it.
fn setting(name: &str, file: &str) -> Option<String> {
    cgroups(name)
        .iter()
        .find_map(|path| fs::read_to_string(path.join(file)).ok())
        .map(|text| text.trim().to_owned())
}

fn is_v2() -> bool {
    cgroup::roots().len() == 1
}

/// Checks the settings of a pod that named no parent. With systemd such pods share a slice without limits.
fn check_own(cgroup: &str, rows: &[(&str, &str, &str, &str)]) {
    if cgroup::is_systemd() {
        let none = [("", "", "memory.max", "max")];
        check("husk.slice", &none);
    } else {
        check(cgroup, rows);
    }
}

/// Checks settings by the file that either version has; an empty name is none.
fn check(cgroup: &str, rows: &[(&str, &str, &str, &str)]) {
    for (v1, value, v2, value_v2) in rows {
        let (file, expect) = if is_v2() { (v2, value_v2) } else { (v1, value) };
        if !file.is_empty() {
            let found = setting(cgroup, file);
            assert_eq!(found.as_deref(), Some(*expect), "{file} of {cgroup}");
        }
    }
}

#[tokio::test]
async fn an_update_reaches_every_limit_and_is_told() -> Result<()> {
    let pod = Pod::on_host("update-all").await?;
    if pod.node.skips("it looks for Husk's cgroups") {
        return pod.delete().await;
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let wanted = LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        cpuset_cpus: "0".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 4 << 20,
        }],
        unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
        ..Default::default()
    };
    update(&pod, &id, wanted.clone()).await?;
    check(
        &id,
        &[
            ("cpu.cfs_period_us", "50000", "cpu.max", "25000 50000"),
            ("cpu.cfs_quota_us", "25000", "", ""),
            ("cpu.shares", "512", "cpu.weight", "20"),
            (
                "memory.limit_in_bytes",
                "67108864",
                "memory.max",
                "67108864",
            ),
            ("cpuset.cpus", "0", "cpuset.cpus", "0"),
            ("cpuset.mems", "0", "cpuset.mems", "0"),
            ("", "", "memory.high", "59998208"),
        ],
    );
    let told = told(&pod, &id).await?;
    assert_eq!(
        (told.cpu_period, told.cpu_quota, told.cpu_shares),
        (50_000, 25_000, 512)
    );
    assert_eq!(told.memory_limit_in_bytes, 64 << 20);
    assert_eq!((&*told.cpuset_cpus, &*told.cpuset_mems), ("0", "0"));
    // What this host cannot limit is not told as a limit.
    assert_eq!(told.unified.is_empty(), !is_v2(), "{:?}", told.unified);
    let huge =
        setting(&id, "hugetlb.2MB.limit_in_bytes").or_else(|| setting(&id, "hugetlb.2MB.max"));
    assert_eq!(told.hugepage_limits.is_empty(), huge.is_none());
    assert!(huge.is_none_or(|limit| limit == (4 << 20).to_string()));
    partly(&pod, &id).await?;
    pod.delete().await
}

async fn update(pod: &Pod, id: &str, linux: LinuxContainerResources) -> Result<(), tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let mut runtime = pod.client.runtime.clone();
    runtime.update_container_resources(request).await.map(drop)
}

async fn told(pod: &Pod, id: &str) -> Result<LinuxContainerResources> {
    let status = pod.client.container_status(id).await?;
    status
        .resources
        .and_then(|it| it.linux)
        .context("resources")
}

/// What an update does not mention stays; what makes no sense changes nothing.
async fn partly(pod: &Pod, id: &str) -> Result<()> {
    let more_memory = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        ..Default::default()
    };
    update(pod, id, more_memory).await?;
    let nonsense = LinuxContainerResources {
        cpu_quota: 7,
        ..Default::default()
    };
    let refused = update(pod, id, nonsense).await;
    expect_error(refused, &[Code::InvalidArgument], &["cpu_quota"])?;
    let told = told(pod, id).await?;
    assert_eq!(
        (
            told.memory_limit_in_bytes,
            told.cpu_quota,
            &*told.cpuset_cpus
        ),
        (96 << 20, 25_000, "0")
    );
    let limits = [(
        "memory.limit_in_bytes",
        "100663296",
        "memory.max",
        "100663296",
    )];
    check(id, &limits);
    Ok(())
}

async fn limit_pod(
    client: &husk_tests::Client,
    pod: &str,
    resources: Option<LinuxContainerResources>,
    overhead: Option<LinuxContainerResources>,
) -> Result<(), tonic::Status> {
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        overhead,
        resources,
    };
    let mut runtime = client.runtime.clone();
    runtime
        .update_pod_sandbox_resources(request)
        .await
        .map(drop)
}

/// The memory limits that a verbose status tells: of the resources, and of the overhead.
async fn pod_memory(client: &husk_tests::Client, pod: &str) -> Result<(i64, i64)> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    let answer = client.runtime.clone().pod_sandbox_status(request).await?;
    let info = answer.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
    let memory = |of: &str| info[of]["memoryLimitInBytes"].as_i64();
    memory("resources")
        .zip(memory("overhead"))
        .context("limits")
}

fn limits(cpu_shares: i64, cpu_quota: i64, memory_limit_in_bytes: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares,
        cpu_quota,
        cpu_period: 100_000,
        memory_limit_in_bytes,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_pods_limits_are_in_its_own_cgroup_and_survive_a_restart() -> Result<()> {
    let node = Node::start(NodeOptions::default()).await?;
    if node.skips("it looks for Husk's cgroups") {
        return Ok(());
    }
    let client = node.client().await?;
    let mut config = node.host_pod("own-cgroup");
    config.linux.get_or_insert_default().cgroup_parent.clear();
    let pod = client.run_pod(&config).await?;
    let main = container("main", "exec sleep 600");
    client.launch(&pod, &config, main).await?;
    let resources = limits(512, 50_000, 128 << 20);
    let overhead = limits(102, 10_000, 8 << 20);
    limit_pod(&client, &pod, Some(resources), Some(overhead)).await?;
    let own = format!("husk/{pod}");
    check_own(
        &own,
        &[
            ("cpu.shares", "614", "cpu.weight", "24"),
            ("cpu.cfs_quota_us", "60000", "cpu.max", "60000 100000"),
            (
                "memory.limit_in_bytes",
                "142606336",
                "memory.max",
                "142606336",
            ),
        ],
    );
    node.restart().await?;
    let client = node.client().await?;
    assert_eq!(pod_memory(&client, &pod).await?, (128 << 20, 8 << 20));
    let less = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    limit_pod(&client, &pod, Some(less), None).await?;
    assert_eq!(pod_memory(&client, &pod).await?, (64 << 20, 8 << 20));
    check_own(
        &own,
        &[(
            "memory.limit_in_bytes",
            "75497472",
            "memory.max",
            "75497472",
        )],
    );
    client.stop_pod(&pod).await?;
    let late = limit_pod(&client, &pod, None, None).await;
    expect_error(late, &[Code::FailedPrecondition], &["not ready"])?;
    client.remove_pod(&pod).await?;
    assert_eq!(setting(&own, "cgroup.procs"), None);
    Ok(())
}

#[tokio::test]
async fn the_kubelets_cgroup_is_its_own_and_wrong_limits_are_refused() -> Result<()> {
    let pod = Pod::on_host("kubelets-cgroup").await?;
    if pod.node.skips("it looks for Husk's cgroups") {
        return pod.delete().await;
    }
    let parent = pod.node.cgroup_parent();
    let file = if is_v2() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    let before = setting(&parent, file);
    let memory = |memory_limit_in_bytes| {
        Some(LinuxContainerResources {
            memory_limit_in_bytes,
            ..Default::default()
        })
    };
    limit_pod(&pod.client, &pod.id, memory(256 << 20), None).await?;
    assert_eq!(setting(&parent, file), before);
    assert_eq!(pod_memory(&pod.client, &pod.id).await?, (256 << 20, 0));
    let wrong = limit_pod(&pod.client, &pod.id, memory(-5), None).await;
    expect_error(wrong, &[Code::InvalidArgument], &["memory_limit"])?;
    let nobody = limit_pod(&pod.client, "nobody", None, None).await;
    expect_error(nobody, &[Code::NotFound], &["nobody"])?;
    pod.delete().await
}

/// The key moves monitors of new pods only: the cgroup of one that lives is found where it was made.
#[tokio::test]
async fn a_changed_monitor_cgroup_leaks_nothing_of_pods_from_before() -> Result<()> {
    let node = Node::start(NodeOptions::default()).await?;
    if node.skips("monitors are Husk's") {
        return Ok(());
    }
    let client = node.client().await?;
    let config = node.host_pod("moved");
    let pod = client.run_pod(&config).await?;
    let name = format!("pod-monitor-{pod}");
    let before = cgroups(&name);
    assert!(!before.is_empty());
    let elsewhere = node.cgroup_parent_of("monitors");
    let drop_in = node.directory().join("husk.toml.d/60-moved.toml");
    fs::write(drop_in, format!("[monitor]\ncgroup = \"{elsewhere}\"\n"))?;
    node.restart().await?;
    let client = node.client().await?;
    let next_config = node.host_pod("next");
    let next = client.run_pod(&next_config).await?;
    let moved = cgroups(&format!("pod-monitor-{next}"));
    assert!(
        moved
            .iter()
            .all(|it| it.to_string_lossy().contains("monitors")),
        "{moved:?}"
    );
    for pod in [pod, next] {
        client.delete_pod(&pod).await?;
    }
    assert_eq!(cgroups(&name), Vec::<PathBuf>::new());
    Ok(())
}
