//! Holds every number of `tests/budgets.toml`.

use anyhow::{Context as _, Result, ensure};
use husk_tests::config::{namespaces, security};
use husk_tests::cri::{self, NamespaceMode};
use husk_tests::process::{self, Process};
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, Pod, container, settings, wait_for};

fn limit(name: &str) -> Result<u64> {
    let budgets: toml::Table = include_str!("../budgets.toml").parse()?;
    let limit = budgets
        .get(name)
        .and_then(|budget| budget.get("limit")?.as_integer());
    Ok(u64::try_from(
        limit.with_context(|| format!("no budget {name}"))?,
    )?)
}

fn hold(name: &str, found: u64) -> Result<()> {
    let limit = limit(name)?;
    ensure!(found <= limit, "{name}: {found} is more than {limit}");
    Ok(())
}

async fn pod_of_three(pid: NamespaceMode) -> Result<Option<Pod>> {
    let node = Node::shared().await?;
    if node.skips("only Husk promises this") {
        return Ok(None);
    }
    let mut config = node.host_pod("budget");
    namespaces(&mut config).pid = pid.into();
    let pod = Pod::run(node, config).await?;
    for name in ["one", "two", "three"] {
        let mut config = container(name, "echo running; exec sleep 600");
        security(&mut config).namespace_options = Some(cri::NamespaceOption {
            pid: pid.into(),
            ..Default::default()
        });
        pod.launch(config).await?;
    }
    Ok(Some(pod))
}

fn monitor_of(pod: &Pod) -> Result<Process> {
    process::monitors(&pod.id)
        .into_iter()
        .next()
        .context("the pod has no monitor")
}

#[tokio::test]
async fn a_monitor_with_three_containers_keeps_its_memory_threads_and_descriptors() -> Result<()> {
    let Some(pod) = pod_of_three(NamespaceMode::Container).await? else {
        return Ok(());
    };
    // The pages of the program are private to a monitor only while it is the node's single one.
    let companion = Pod::on_host("companion").await?;
    let monitor = monitor_of(&pod)?;
    hold(
        "monitors_per_pod",
        process::monitors(&pod.id).len().try_into()?,
    )?;
    hold("monitor_threads", monitor.threads.try_into()?)?;
    hold("monitor_private_memory", monitor.private_memory()?)?;
    hold(
        "monitor_descriptors",
        monitor.descriptors()?.values().sum::<usize>().try_into()?,
    )?;
    companion.delete().await?;
    pod.delete().await
}

#[tokio::test]
async fn a_shared_pid_namespace_costs_one_more_process() -> Result<()> {
    let Some(pod) = pod_of_three(NamespaceMode::Pod).await? else {
        return Ok(());
    };
    let monitor = monitor_of(&pod)?;
    // A container is a shell for a moment, and the OCI runtime may still be on its way out.
    let helpers = || {
        let below = process::descendants(monitor.pid);
        let is_workload = |it: &Process| {
            it.arguments
                .first()
                .is_some_and(|program| program == "sleep")
        };
        1 + below.iter().filter(|it| !is_workload(it)).count()
    };
    let limit = usize::try_from(limit("processes_with_shared_pid")?)?;
    let settled = wait_for("only the init is left", DEADLINE / 3, async || {
        (helpers() <= limit).then_some(())
    });
    settled.await.with_context(|| process::tree(monitor.pid))?;
    pod.delete().await
}

#[test]
fn the_monitors_program_is_small() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    hold(
        "monitor_binary",
        settings::pod_monitor()?.metadata()?.len() / 1024,
    )
}
