//! What the kubelet shows of resources: limits as they are in force, the summary, and metrics, all from the CRI.

use std::time::Duration;

use anyhow::Result;
use husk_tests::command::output;
use husk_tests::kubelet::{Kubelet, PATIENCE, condition, container, container_status, pod, with};
use husk_tests::wait_for;
use serde_json::{Value, json};

#[tokio::test]
async fn limits_are_in_force_and_reported_back() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let wanted = json!({"cpu": "250m", "memory": "64Mi"});
    kubelet.apply("limited", &limited(&wanted))?;
    let seen = kubelet.wait_ready("limited").await?;
    assert_eq!(seen["status"]["qosClass"], "Guaranteed");
    let status = container_status(&seen["status"], "main");
    assert_eq!(status["resources"]["limits"], wanted, "{status:#}");
    assert_eq!(in_force(&kubelet, "limited")?, ["67108864", "25000"]);
    kubelet.remove(&["limited"]).await
}

#[tokio::test]
async fn a_pod_is_resized_in_place() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    kubelet.apply_lasting(
        "resized",
        &limited(&json!({"cpu": "250m", "memory": "64Mi"})),
    )?;
    let before = kubelet.wait_ready("resized").await?;
    let before = container_status(&before["status"], "main");
    assert_eq!(in_force(&kubelet, "resized")?, ["67108864", "25000"]);
    for (wanted, numbers) in [
        (
            json!({"cpu": "400m", "memory": "96Mi"}),
            ["100663296", "40000"],
        ),
        (
            json!({"cpu": "150m", "memory": "80Mi"}),
            ["83886080", "15000"],
        ),
    ] {
        kubelet.apply_lasting("resized", &limited(&wanted))?;
        let told = |it: &Value| {
            container_status(it, "main")["resources"]["limits"] == wanted && condition(it, "Ready")
        };
        let seen = kubelet.wait_pod("resized", "resized", told).await?;
        let after = container_status(&seen["status"], "main");
        assert_eq!(in_force(&kubelet, "resized")?, numbers, "{after:#}");
        for same in ["containerID", "restartCount"] {
            assert_eq!(after[same], before[same], "{after:#}");
        }
    }
    kubelet.remove(&["resized"]).await
}

/// A pod whose container may use as much as it asks for.
fn limited(resources: &Value) -> Value {
    let resources = json!({"resources": {"limits": resources, "requests": resources}});
    pod(json!([with(
        container("main", "exec sleep 600"),
        resources
    )]))
}

/// The limits of memory and of processor time that the kernel holds the container to.
fn in_force(kubelet: &Kubelet, name: &str) -> Result<Vec<String>> {
    let look = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes cpu.max cpu/cpu.cfs_quota_us 2>/dev/null; true";
    let shown = output(&mut kubelet.exec("spdy", (name, "main"), look)?)?;
    Ok(shown
        .split_whitespace()
        .take(2)
        .map(str::to_owned)
        .collect())
}

#[tokio::test]
async fn summary_and_metrics_are_filled_from_the_runtime() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let script = "head -c 2000000 /dev/zero > /file; while :; do i=$((i+1)); done";
    let main = with(
        container("main", script),
        json!({"resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}}),
    );
    kubelet.apply("measured", &pod(json!([main])))?;
    kubelet.wait_ready("measured").await?;
    let mut last = Value::Null;
    let summary = wait_for("a whole summary", PATIENCE, async || {
        let summary = kubelet.summary().ok()?;
        let pods = summary["pods"].as_array()?;
        last = pods
            .iter()
            .find(|it| it["podRef"]["name"] == "measured-node")?
            .clone();
        if missing(&last).is_empty() {
            return Some(summary);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        None
    });
    let summary = summary
        .await
        .map_err(|late| late.context(format!("missing {:?} in {last:#}", missing(&last))))?;
    for part in ["capacityBytes", "availableBytes", "usedBytes", "inodes"] {
        let files = &summary["node"]["runtime"]["imageFs"];
        assert!(files[part].as_u64() > Some(0), "{part} in {files:#}");
    }
    metrics(&kubelet)?;
    kubelet.remove(&["measured"]).await
}

/// The parts of a pod's summary that are not filled.
fn missing(pod: &Value) -> Vec<&'static str> {
    let parts = [
        "/cpu/usageCoreNanoSeconds",
        "/cpu/usageNanoCores",
        "/memory/workingSetBytes",
        "/memory/usageBytes",
        "/network/rxBytes",
        "/process_stats/process_count",
        "/ephemeral-storage/usedBytes",
        "/containers/0/cpu/usageCoreNanoSeconds",
        "/containers/0/cpu/usageNanoCores",
        "/containers/0/memory/workingSetBytes",
        "/containers/0/memory/rssBytes",
        "/containers/0/rootfs/usedBytes",
        "/containers/0/logs/usedBytes",
    ];
    let is_there = |part: &&str| pod.pointer(part).is_some_and(Value::is_u64);
    parts.into_iter().filter(|part| !is_there(part)).collect()
}

fn metrics(kubelet: &Kubelet) -> Result<()> {
    let text = kubelet.get("/metrics/cadvisor")?;
    for (name, container) in [
        ("container_cpu_usage_seconds_total", "main"),
        ("container_memory_working_set_bytes", "main"),
        ("container_memory_rss", "main"),
        ("container_spec_memory_limit_bytes", "main"),
        ("container_start_time_seconds", "main"),
        ("container_network_receive_bytes_total", ""),
    ] {
        let found = text.lines().any(|line| {
            line.starts_with(&format!("{name}{{"))
                && line.contains("pod=\"measured-node\"")
                && line.contains("namespace=\"default\"")
                && (container.is_empty() || line.contains(&format!("container=\"{container}\"")))
        });
        let named: Vec<_> = text
            .lines()
            .filter(|line| line.contains("measured-node"))
            .take(9)
            .collect();
        assert!(found, "{name} of the pod is missing; there are {named:#?}");
    }
    let text = kubelet.get("/metrics/resource")?;
    assert!(text.contains("container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"measured-node\"}"), "{text}");
    Ok(())
}
