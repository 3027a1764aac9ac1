//! Metrics (KEP-2371): descriptors that do not change, and values that fit them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use husk_tests::config::resources;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, Pod, container, cri, wait_for};

/// What not every kernel, device or cgroup version tells.
const OPTIONAL: [&str; 6] = [
    "container_blkio_",
    "container_fs_reads_",
    "container_fs_writes_",
    "container_hugetlb_",
    "container_pressure_",
    "container_ulimits_",
];

async fn descriptors(client: &Client) -> Result<Vec<cri::MetricDescriptor>> {
    let request = cri::ListMetricDescriptorsRequest {};
    let answer = client
        .runtime
        .clone()
        .list_metric_descriptors(request)
        .await?;
    Ok(answer.into_inner().descriptors)
}

async fn all(client: &Client) -> Result<Vec<cri::PodSandboxMetrics>> {
    let request = cri::ListPodSandboxMetricsRequest {};
    let answer = client
        .runtime
        .clone()
        .list_pod_sandbox_metrics(request)
        .await?;
    Ok(answer.into_inner().items)
}

async fn of_pod(client: &Client, id: &str) -> Result<cri::PodSandboxMetrics> {
    let mut pods = all(client).await?.into_iter();
    pods.find(|pod| pod.pod_sandbox_id == id)
        .context("no metrics of the pod")
}

/// Every metric of a pod and its containers.
fn flat(pod: &cri::PodSandboxMetrics) -> impl Iterator<Item = &cri::Metric> {
    let containers = pod.container_metrics.iter().flat_map(|it| &it.metrics);
    pod.metrics.iter().chain(containers)
}

/// A value by its metric's name and one of its labels.
fn value(pod: &cri::PodSandboxMetrics, name: &str, label: &str) -> Option<u64> {
    let name = format!("container_{name}");
    let mut metrics = flat(pod).filter(|it| it.name == name);
    let found = metrics.find(|it| it.label_values.iter().any(|value| value == label));
    found.and_then(|it| it.value).map(|it| it.value)
}

#[tokio::test]
async fn every_metric_fits_its_descriptor_and_every_descriptor_has_a_metric() -> Result<()> {
    let pod = Pod::on_network("metrics").await?;
    let mut config = container("main", "exec sleep 600");
    let limits = resources(&mut config);
    (limits.cpu_period, limits.cpu_quota) = (100_000, 20_000);
    pod.launch(config).await?;
    let before = descriptors(&pod.client).await?;
    let keys: BTreeMap<&str, usize> = before
        .iter()
        .map(|it| (it.name.as_str(), it.label_keys.len()))
        .collect();
    assert_eq!(keys.len(), before.len(), "a name twice");
    let found = of_pod(&pod.client, &pod.id).await?;
    for metric in flat(&found) {
        let expected = keys.get(metric.name.as_str());
        assert_eq!(Some(&metric.label_values.len()), expected, "{metric:?}");
        // What is known anyway was not measured at any time.
        let measured = metric.name != "container_monitor_restarts_total";
        assert_eq!(metric.timestamp > 0, measured, "{metric:?}");
        assert!(metric.value.is_some(), "{metric:?}");
    }
    let told: BTreeSet<&str> = flat(&found).map(|it| it.name.as_str()).collect();
    let optional = |name: &str| OPTIONAL.iter().any(|it| name.starts_with(it));
    for name in keys.keys().filter(|name| !optional(name)) {
        assert!(told.contains(name), "{name} has no value");
    }
    assert_eq!(descriptors(&pod.client).await?, before);
    pod.delete().await
}

#[tokio::test]
async fn values_are_what_the_container_does() -> Result<()> {
    let pod = Pod::on_network("metric-values").await?;
    let script =
        "sleep 600 & exec 9</dev/null; i=0; while [ $i -lt 30000000 ]; do i=$((i+1)); done; wait";
    let mut config = container("main", script);
    let limits = resources(&mut config);
    (limits.cpu_period, limits.cpu_quota) = (100_000, 10_000);
    (limits.cpu_shares, limits.memory_limit_in_bytes) = (512, 64 << 20);
    let id = pod.launch(config).await?;
    let busy = wait_for("a second of CPU time, throttled", DEADLINE, async || {
        let found = of_pod(&pod.client, &pod.id).await.ok()?;
        let throttled = value(&found, "cpu_cfs_throttled_periods_total", "main")?;
        let used = value(&found, "cpu_usage_seconds_total", "main")?;
        (throttled > 0 && used > 0).then_some(found)
    });
    let found = busy.await?;
    let of = |name: &str| value(&found, name, &id);
    let rows = [
        ("spec_cpu_quota", 10_000),
        ("spec_cpu_period", 100_000),
        ("spec_cpu_shares", 512),
        ("spec_memory_limit_bytes", 64 << 20),
        ("processes", 2),
        ("threads", 2),
        ("sockets", 0),
        ("oom_events_total", 0),
    ];
    for (name, expected) in rows {
        assert_eq!(of(name), Some(expected), "{name}");
    }
    let periods = of("cpu_cfs_periods_total");
    assert!(periods >= of("cpu_cfs_throttled_periods_total"));
    assert!(
        of("file_descriptors") >= Some(7),
        "{:?}",
        of("file_descriptors")
    );
    assert!(of("memory_usage_bytes") >= of("memory_working_set_bytes"));
    assert!(of("memory_max_usage_bytes") >= of("memory_rss"));
    let status = pod.client.container_status(&id).await?;
    let started = u64::try_from(status.started_at)? / 1_000_000_000;
    assert_eq!(of("start_time_seconds"), Some(started));
    assert!(of("last_seen") >= Some(started));
    assert!(value(&found, "network_transmit_bytes_total", "eth0").is_some());
    assert!(value(&found, "network_transmit_bytes_total", "lo").is_none());
    pod.delete().await
}

#[tokio::test]
async fn the_stream_tells_of_every_pod_once() -> Result<()> {
    let node = Node::shared().await?;
    let pods = [Pod::on_host("streamed").await?, Pod::on_host("too").await?];
    let client = node.client().await?;
    let request = cri::StreamPodSandboxMetricsRequest {};
    let answer = client
        .runtime
        .clone()
        .stream_pod_sandbox_metrics(request)
        .await?;
    let (mut stream, mut ids) = (answer.into_inner(), Vec::new());
    while let Some(message) = stream.message().await? {
        assert!(!message.items.is_empty(), "an empty message");
        let metrics = message.items.into_iter();
        ids.extend(metrics.map(|it| it.pod_sandbox_id));
    }
    for pod in &pods {
        let count = ids.iter().filter(|id| **id == pod.id).count();
        assert_eq!(count, 1, "{ids:?}");
    }
    for pod in pods {
        pod.delete().await?;
    }
    Ok(())
}
