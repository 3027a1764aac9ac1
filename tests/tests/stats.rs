//! Statistics: what is told is what the machine did, and asking disturbs nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use husk_tests::config::resources;
use husk_tests::cri;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, Pod, cgroup, container, settings, wait_for};

const MIB: u64 = 1 << 20;

fn number(value: Option<cri::UInt64Value>) -> u64 {
    value.map(|it| it.value).unwrap_or_default()
}

async fn stats(client: &Client, id: &str) -> Result<cri::ContainerStats> {
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = client.runtime.clone().container_stats(request).await?;
    answer.into_inner().stats.context("no stats")
}

async fn list(
    client: &Client,
    filter: cri::ContainerStatsFilter,
) -> Result<Vec<cri::ContainerStats>> {
    let filter = Some(filter);
    let request = cri::ListContainerStatsRequest { filter };
    let answer = client.runtime.clone().list_container_stats(request).await?;
    Ok(answer.into_inner().stats)
}

async fn pod_stats(client: &Client, id: &str) -> Result<cri::LinuxPodSandboxStats> {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = client.runtime.clone().pod_sandbox_stats(request).await?;
    let stats = answer.into_inner().stats.context("no stats")?;
    stats.linux.context("not of Linux")
}

fn ids(stats: &[cri::ContainerStats]) -> BTreeSet<&str> {
    let ids = stats.iter().filter_map(|it| it.attributes.as_ref());
    ids.map(|attributes| attributes.id.as_str()).collect()
}

/// A pod on the node's network with a cgroup parent of its own, as a kubelet makes them.
async fn own_parent(name: &str) -> Result<Pod> {
    let node = Node::shared().await?;
    let mut config = node.host_pod(name);
    let parent = node.cgroup_parent_of(name);
    config.linux.get_or_insert_default().cgroup_parent = parent;
    Pod::run(node, config).await
}

#[tokio::test]
async fn cpu_and_memory_of_a_container_are_what_it_uses() -> Result<()> {
    let pod = Pod::on_host("uses").await?;
    let script = "head -c 20000000 /dev/zero > /dev/shm/x; while :; do :; done";
    let mut config = container("main", script);
    resources(&mut config).memory_limit_in_bytes = 256 << 20;
    config.labels.insert("a".into(), "b".into());
    config.annotations.insert("c".into(), "d".into());
    let id = pod.launch(config.clone()).await?;
    let first = stats(&pod.client, &id).await?;
    let attributes = first.attributes.context("no attributes")?;
    assert_eq!(attributes.id, id);
    assert_eq!(attributes.metadata, config.metadata);
    assert_eq!(attributes.labels, config.labels);
    assert_eq!(attributes.annotations, config.annotations);
    let before = first.cpu.context("no cpu")?;
    assert!(before.timestamp > 0);
    // It spins: its CPU time rises, and a rate over at least a second becomes known.
    let busy = wait_for("a rate", DEADLINE, async || {
        let cpu = stats(&pod.client, &id).await.ok()?.cpu?;
        let risen = number(cpu.usage_core_nano_seconds) > number(before.usage_core_nano_seconds);
        (risen && number(cpu.usage_nano_cores) > 0).then_some(cpu)
    });
    let busy = busy.await?;
    assert!(number(busy.usage_nano_cores) < 1_500_000_000, "{busy:?}");
    let used = wait_for("the memory it filled", DEADLINE, async || {
        let memory = stats(&pod.client, &id).await.ok()?.memory?;
        (number(memory.usage_bytes) >= 19 * MIB).then_some(memory)
    });
    let used = used.await?;
    let (usage, working) = (number(used.usage_bytes), number(used.working_set_bytes));
    assert!(working > 18 * MIB && working <= usage, "{used:?}");
    assert_eq!(number(used.available_bytes), 256 * MIB - working);
    assert!(
        used.timestamp > 0 && number(used.page_faults) > 0,
        "{used:?}"
    );
    pod.delete().await
}

#[tokio::test]
async fn swap_io_and_pressure_are_told_as_far_as_the_kernel_knows() -> Result<()> {
    let pod = Pod::on_host("pressure").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let found = stats(&pod.client, &id).await?;
    let unified = cgroup::roots().len() == 1;
    let cpu = found.cpu.context("no cpu")?;
    let memory = found.memory.context("no memory")?;
    let io = found.io.context("no io")?;
    let pressure = [cpu.psi.is_some(), memory.psi.is_some(), io.psi.is_some()];
    let known = unified && std::path::Path::new("/proc/pressure").exists();
    assert_eq!(pressure, [known; 3]);
    assert!(io.timestamp > 0);
    let accounted = PathBuf::from("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes");
    assert_eq!(found.swap.is_some(), unified || accounted.exists());
    pod.delete().await
}

#[tokio::test]
async fn lists_and_streams_tell_of_the_living_that_are_asked_for() -> Result<()> {
    let pods = [Pod::on_host("listed").await?, Pod::on_host("other").await?];
    let client = &pods[0].client;
    let mut labelled = container("labelled", "exec sleep 600");
    labelled.labels.insert("app".into(), "web".into());
    let labelled = pods[0].launch(labelled).await?;
    let plain = pods[0].launch(container("plain", "exec sleep 600")).await?;
    let other = pods[1].launch(container("other", "exec sleep 600")).await?;
    let ended = pods[0].launch(container("ended", "exit 0")).await?;
    client.wait_exit(&ended).await?;
    let all = list(client, cri::ContainerStatsFilter::default()).await?;
    for id in [&labelled, &plain, &other] {
        assert!(ids(&all).contains(id.as_str()), "{id} is missing");
    }
    let of_pod = cri::ContainerStatsFilter {
        pod_sandbox_id: pods[0].id.clone(),
        ..Default::default()
    };
    let by_label = cri::ContainerStatsFilter {
        label_selector: [("app".to_owned(), "web".to_owned())].into(),
        ..of_pod.clone()
    };
    let by_id = cri::ContainerStatsFilter {
        id: other[..20].to_owned(),
        ..Default::default()
    };
    let nobody = cri::ContainerStatsFilter {
        id: other.clone(),
        ..of_pod.clone()
    };
    let rows = [
        (of_pod.clone(), vec![&labelled, &plain]),
        (by_label, vec![&labelled]),
        (by_id, vec![&other]),
        (nobody, vec![]),
    ];
    for (filter, expected) in rows {
        let found = list(client, filter.clone()).await?;
        let expected: BTreeSet<&str> = expected.into_iter().map(String::as_str).collect();
        assert_eq!(ids(&found), expected, "{filter:?}");
        assert_eq!(found.len(), expected.len(), "one twice");
    }
    streams_the_same(&pods[0], of_pod, &[&labelled, &plain]).await?;
    let of_ended = stats(client, &ended).await?;
    assert_eq!((of_ended.cpu, of_ended.memory), (None, None));
    assert!(of_ended.writable_layer.is_some());
    for pod in pods {
        pod.delete().await?;
    }
    Ok(())
}

async fn streams_the_same(
    pod: &Pod,
    filter: cri::ContainerStatsFilter,
    expected: &[&String],
) -> Result<()> {
    let filter = Some(filter);
    let request = cri::StreamContainerStatsRequest { filter };
    let mut runtime = pod.client.runtime.clone();
    let mut stream = runtime.stream_container_stats(request).await?.into_inner();
    let message = stream.message().await?.context("no message")?;
    let expected = expected.iter().map(|id| id.as_str()).collect();
    assert_eq!(ids(&message.container_stats), expected);
    assert!(stream.message().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn what_a_container_writes_is_counted() -> Result<()> {
    let pod = Pod::on_host("writes").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let layer = stats(&pod.client, &id).await?.writable_layer;
    let before = layer.context("no writable layer")?;
    let mountpoint = before.fs_id.clone().unwrap_or_default().mountpoint;
    assert!(mountpoint.starts_with('/'), "{before:?}");
    pod.client
        .shell(&id, "head -c 5000000 /dev/zero > /x; touch /a /b")
        .await?;
    // Seen within the time for which a measurement is used again.
    let after = wait_for("the new size", DEADLINE, async || {
        let layer = stats(&pod.client, &id).await.ok()?.writable_layer?;
        (number(layer.used_bytes) >= number(before.used_bytes) + 5_000_000).then_some(layer)
    });
    let after = after.await?;
    assert!(number(after.inodes_used) >= number(before.inodes_used) + 3);
    assert!(after.timestamp > before.timestamp);
    pod.delete().await
}

#[tokio::test]
async fn a_pod_is_its_cgroup_with_all_its_containers() -> Result<()> {
    let pod = own_parent("whole").await?;
    let client = &pod.client;
    let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exec sleep 600";
    let ids_started = [
        pod.launch(container("one", spin)).await?,
        pod.launch(container("two", spin)).await?,
    ];
    let found = pod_stats(client, &pod.id).await?;
    let expected = ids_started.iter().map(String::as_str).collect();
    assert_eq!(ids(&found.containers), expected);
    let (cpu, memory) = (
        found.cpu.context("no cpu")?,
        found.memory.context("no memory")?,
    );
    let of_containers: u64 = found
        .containers
        .iter()
        .filter_map(|it| it.cpu)
        .map(|cpu| number(cpu.usage_core_nano_seconds))
        .sum();
    assert!(number(cpu.usage_core_nano_seconds) >= of_containers);
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    assert!(number(memory.usage_bytes) > 0);
    let processes = found.process.context("no processes")?;
    assert!(number(processes.process_count) >= 2, "{processes:?}");
    assert_eq!(found.network, None, "the node's own network is no pod's");
    let filter = cri::PodSandboxStatsFilter {
        id: pod.id.clone(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxStatsRequest {
        filter: Some(filter),
    };
    let answer = client
        .runtime
        .clone()
        .list_pod_sandbox_stats(request)
        .await?;
    let listed = answer.into_inner().stats;
    assert_eq!(listed.len(), 1);
    let attributes = listed[0].attributes.clone().context("no attributes")?;
    assert_eq!(attributes.metadata, pod.config.metadata);
    pod.delete().await
}

#[tokio::test]
async fn network_counters_are_of_the_interface_with_the_default_route() -> Result<()> {
    let pod = Pod::on_network("counted").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let network = async || pod_stats(&pod.client, &pod.id).await.ok()?.network;
    let before = network().await.context("no network")?;
    let interface = before.default_interface.clone().context("no default")?;
    assert_eq!(interface.name, "eth0");
    assert!(before.interfaces.iter().all(|it| it.name != "lo"));
    // The bridge answers or not: what leaves the pod is counted anyway.
    let gateway = pod
        .client
        .shell(
            &id,
            "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'",
        )
        .await?;
    let ping = format!("ping -c 3 -i 0.2 -w 5 -s 1000 {gateway} >/dev/null || true");
    pod.client.shell(&id, &ping).await?;
    let after = wait_for("the pings to be counted", DEADLINE, async || {
        let interface = network().await?.default_interface?;
        let sent = number(interface.tx_bytes);
        (sent >= number(before.default_interface.clone()?.tx_bytes) + 1000).then_some(interface)
    });
    assert_eq!(after.await?.name, "eth0");
    pod.delete().await
}

#[tokio::test]
async fn a_frozen_container_delays_nobody() -> Result<()> {
    let pod = own_parent("frozen").await?;
    let frozen = pod.launch(container("frozen", "exec sleep 600")).await?;
    let other = pod.launch(container("other", "exec sleep 600")).await?;
    let thaw = freeze(&frozen).await?;
    let start = Instant::now();
    let filter = cri::ContainerStatsFilter {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    };
    let found = list(&pod.client, filter).await;
    let pods = pod_stats(&pod.client, &pod.id).await;
    let elapsed = start.elapsed();
    fs::write(thaw.0, thaw.1)?;
    let expected = BTreeSet::from([frozen.as_str(), other.as_str()]);
    assert_eq!(ids(&found?), expected);
    assert_eq!(ids(&pods?.containers), expected);
    assert!(
        elapsed < Duration::from_secs(2) * settings::patience(),
        "{elapsed:?}"
    );
    pod.delete().await
}

/// Freezes a container's cgroup; answers what to write where to thaw it.
async fn freeze(id: &str) -> Result<(PathBuf, &'static str)> {
    let roots = cgroup::roots();
    let root = roots.iter().find(|root| root.ends_with("freezer"));
    let root = root.unwrap_or(&roots[0]);
    let directories = cgroup::tree(root);
    let directory = directories.iter().find(|path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.contains(id))
    });
    let directory = directory.context("the container has no cgroup")?;
    let (file, on, off, seen, state) = if root.ends_with("freezer") {
        (
            "freezer.state",
            "FROZEN",
            "THAWED",
            "freezer.state",
            "FROZEN",
        )
    } else {
        ("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1")
    };
    let path = directory.join(file);
    fs::write(&path, on)?;
    wait_for("the freeze", DEADLINE, async || {
        let text = fs::read_to_string(directory.join(seen)).ok()?;
        text.contains(state).then_some(())
    })
    .await?;
    Ok((path, off))
}

#[tokio::test]
async fn files_stay_open_while_a_container_lives_and_no_longer() -> Result<()> {
    let pod = own_parent("descriptors").await?;
    if pod.node.skips("only Husk's files are known") {
        return pod.delete().await;
    }
    let daemon = pod
        .node
        .processes()
        .into_iter()
        .find(|process| process.name == "husk")
        .context("no daemon")?;
    let open = |id: &str| -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid));
        let files = files.into_iter().flatten().flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets
            .filter(|path| path.to_string_lossy().contains(id))
            .filter(|path| path.to_string_lossy().contains("cgroup"))
            .count()
    };
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    assert_eq!(open(&id), 0, "opened before anybody asked");
    stats(&pod.client, &id).await?;
    let kept = open(&id);
    assert!(kept > 0, "nothing stays open");
    stats(&pod.client, &id).await?;
    assert_eq!(open(&id), kept);
    pod_stats(&pod.client, &pod.id).await?;
    pod.client.stop(&id, 0).await?;
    wait_for("the files to be closed", DEADLINE, async || {
        (open(&id) == 0).then_some(())
    })
    .await?;
    stats(&pod.client, &id).await?;
    ensure!(open(&id) == 0, "a dead container's files are open again");
    let parent = "/descriptors/";
    pod.client.stop_pod(&pod.id).await?;
    wait_for("the pod's files to be closed", DEADLINE, async || {
        (open(parent) == 0).then_some(())
    })
    .await?;
    pod.delete().await
}

#[tokio::test]
async fn an_unknown_id_is_not_found() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let request = cri::ContainerStatsRequest {
        container_id: "nowhere".into(),
    };
    let answer = client.runtime.clone().container_stats(request).await;
    assert_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(tonic::Code::NotFound)
    );
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: "nowhere".into(),
    };
    let answer = client.runtime.clone().pod_sandbox_stats(request).await;
    assert_eq!(
        answer.map_err(|it| it.code()).err(),
        Some(tonic::Code::NotFound)
    );
    Ok(())
}
