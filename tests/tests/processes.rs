//! What Husk keeps running for a pod: one monitor with one thread, and an init only where processes are shared.

use anyhow::Result;
use husk_tests::config::{namespaces, security};
use husk_tests::cri::{self, NamespaceMode};
use husk_tests::process::{self, Process};
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, Pod, container, wait_for};

/// The processes below a monitor that are not the workload, which here is only `sleep`.
fn overhead(monitor: &Process) -> Vec<Process> {
    let below = process::descendants(monitor.pid);
    below
        .into_iter()
        .filter(|it| {
            it.arguments
                .first()
                .is_none_or(|program| program != "sleep")
        })
        .collect()
}

async fn count(pid: NamespaceMode, expected: usize) -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("only Husk promises this") {
        return Ok(());
    }
    let mut config = node.host_pod("counted");
    namespaces(&mut config).pid = pid.into();
    let pod = Pod::run(node, config).await?;
    for name in ["one", "two", "three"] {
        let mut config = container(name, "exec sleep 600");
        security(&mut config).namespace_options = Some(cri::NamespaceOption {
            pid: pid.into(),
            ..Default::default()
        });
        pod.launch(config).await?;
    }
    let shape = || {
        let monitors = process::monitors(&pod.id);
        let others = monitors.first().map(overhead).unwrap_or_default();
        (monitors, others)
    };
    let settled = wait_for(
        "the runtime's helpers have ended",
        DEADLINE / 6,
        async || {
            let (monitors, others) = shape();
            let mains = monitors
                .iter()
                .filter(|it| monitors.iter().all(|other| other.pid != it.parent))
                .count();
            (mains == 1
                && monitors.len() + others.iter().filter(|it| !monitors.contains(it)).count()
                    == expected)
                .then_some(())
        },
    );
    if settled.await.is_err() {
        let (monitors, others) = shape();
        anyhow::bail!(
            "expected {expected} processes beside the workload, found {monitors:#?} and {others:#?}"
        );
    }
    for monitor in process::monitors(&pod.id) {
        assert_eq!(monitor.threads, 1, "{monitor:?}");
    }
    let id = pod.id.clone();
    pod.delete().await?;
    wait_for("the monitor ends with its pod", DEADLINE, async || {
        process::monitors(&id).is_empty().then_some(())
    })
    .await
}

#[tokio::test]
async fn one_process_of_one_thread_per_pod_beside_the_workload() -> Result<()> {
    count(NamespaceMode::Container, 1).await
}

#[tokio::test]
async fn two_processes_of_one_thread_each_where_the_pid_namespace_is_shared() -> Result<()> {
    count(NamespaceMode::Pod, 2).await
}

#[tokio::test]
async fn no_zombie_stays_after_a_hundred_execs() -> Result<()> {
    let pod = Pod::on_host("execs").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let monitor = process::monitors(&pod.id).remove(0);
    let before = monitor.descriptors()?;
    for _ in 0..100 {
        assert_eq!(pod.client.exec(&id, &["/bin/true"], 10).await?.exit_code, 0);
    }
    wait_for("descriptors are as before", DEADLINE, async || {
        (monitor.descriptors().ok()? == before).then_some(())
    })
    .await?;
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", monitor.pid))?;
    assert_eq!(
        children.split_whitespace().count(),
        1,
        "only the container itself: {children}"
    );
    pod.delete().await
}
