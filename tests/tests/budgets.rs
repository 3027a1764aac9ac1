//! Holds every number of `tests/budgets.toml`.
//!
//! What the daemon costs is promised for the build that is shipped, and held where that is what is tested:
//! `cargo xtask test --release budgets`, which also does as often as is promised what takes minutes otherwise. The
//! monitor is that build in every test.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use husk_tests::config::{namespaces, security};
use husk_tests::cri::{self, NamespaceMode};
use husk_tests::process::{self, Process};
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, NodeOptions, Pod, container, settings, wait_for, websocket};

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
async fn a_monitor_with_three_containers_is_one_thread_with_few_descriptors() -> Result<()> {
    let Some(pod) = pod_of_three(NamespaceMode::Container).await? else {
        return Ok(());
    };
    let monitor = monitor_of(&pod)?;
    hold(
        "monitors_per_pod",
        process::monitors(&pod.id).len().try_into()?,
    )?;
    hold("monitor_threads", monitor.threads.try_into()?)?;
    hold(
        "monitor_descriptors",
        monitor.descriptors()?.values().sum::<usize>().try_into()?,
    )?;
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

/// A container that does nothing, called `name`.
fn sleeper(name: &str) -> cri::ContainerConfig {
    container(name, "echo running; exec sleep 600")
}

#[tokio::test]
async fn a_further_container_costs_a_monitor_little() -> Result<()> {
    const MORE: u64 = 5;
    let pod = Pod::on_host("further").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    // The pages of the program are private to a monitor only while it is the node's single one.
    let companion = Pod::on_host("companion").await?;
    let monitor = monitor_of(&pod)?;
    pod.launch(sleeper("first")).await?;
    let one = monitor.private_memory()?;
    for number in 0..MORE {
        pod.launch(sleeper(&format!("more{number}"))).await?;
    }
    let all = monitor.private_memory()?;
    hold(
        "monitor_memory_per_container",
        all.saturating_sub(one) / MORE,
    )?;
    companion.delete().await?;
    pod.delete().await
}

/// How often a monitor does everything whose traces are looked for.
struct Work {
    execs: usize,
    /// MB of logs.
    log: usize,
    attaches: usize,
}

impl Work {
    /// All that is promised where the daemon is quick, else a part of it.
    fn amount() -> Result<Self> {
        let (execs, log, attaches) = if settings::is_release()? {
            (10_000, 1024, 1000)
        } else {
            (400, 64, 100)
        };
        Ok(Self {
            execs,
            log,
            attaches,
        })
    }

    async fn exec(&self, client: &Client, id: &str) -> Result<()> {
        let execs = (0..self.execs).map(async |_number| {
            let answer = client.exec(id, &["/bin/true"], 30).await?;
            ensure!(answer.exit_code == 0, "true has failed");
            Ok(())
        });
        stream::iter(execs).buffer_unordered(4).try_collect().await
    }

    async fn attach(&self, pod: &Pod, id: &str) -> Result<()> {
        for _number in 0..self.attaches {
            let request = cri::AttachRequest {
                container_id: id.to_owned(),
                stdin: true,
                stdout: true,
                ..Default::default()
            };
            let answer = pod.client.runtime.clone().attach(request).await?;
            let mut stream = websocket::open(pod.node.network(), &answer.into_inner().url)?;
            websocket::send(&mut stream, b"hello\n")?;
            let mut echo = [0; 4];
            std::io::Read::read_exact(&mut stream, &mut echo)?;
        }
        Ok(())
    }
}

/// Has a container log so many MB in lines of 128 bytes, and answers the monitor's processor time for it.
async fn log(pod: &Pod, megabytes: usize) -> Result<f64> {
    let monitor = monitor_of(pod)?;
    let script = format!(
        "yes {} | head -n 8192 > /tmp/block; n={megabytes}; \
         while [ $n -gt 0 ]; do cat /tmp/block; n=$((n-1)); done",
        "x".repeat(127)
    );
    let before = process::cpu(monitor.pid);
    let id = pod.launch(container("logger", &script)).await?;
    let ended = wait_for(
        "the end of the logging container",
        4 * DEADLINE,
        async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let status = pod.client.container_status(&id).await.ok()?;
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        },
    );
    let status = ended.await?;
    let cost = process::cpu(monitor.pid) - before;
    let text = std::fs::metadata(&status.log_path)?.len();
    let content = u64::try_from(megabytes)? << 20;
    ensure!(text > content, "{text} bytes of a log of {content}");
    pod.client.remove(&id).await?;
    std::fs::remove_file(&status.log_path)?;
    Ok(cost)
}

/// Every path of the node that names the pod.
fn files(node: &Node, id: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
            found.push(entry.path());
        }
    }
    let mut found = Vec::new();
    walk(&node.directory().join("run"), &mut found);
    found.retain(|path| path.to_string_lossy().contains(id));
    found.sort();
    found
}

#[tokio::test]
async fn a_monitor_keeps_nothing_of_what_is_over() -> Result<()> {
    let pod = Pod::on_host("traces").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    let companion = Pod::on_host("companion").await?;
    let (monitor, work) = (monitor_of(&pod)?, Work::amount()?);
    let mut config = container("echo", "exec cat");
    config.stdin = true;
    let id = pod.launch(config).await?;
    // Whatever is made only once is there after one of each.
    let once = Work {
        execs: 4,
        log: 1,
        attaches: 1,
    };
    for work in [&once, &work] {
        let before = (
            monitor.private_memory()?,
            monitor.descriptors()?,
            files(&pod.node, &pod.id),
        );
        work.exec(&pod.client, &id).await?;
        log(&pod, work.log).await?;
        work.attach(&pod, &id).await?;
        if std::ptr::eq(work, &once) {
            continue;
        }
        // What the first round had just ended with may still have been open when it was counted.
        let left = || -> Result<_> {
            let mut descriptors = monitor.descriptors()?;
            descriptors.retain(|kind, count| before.1.get(kind).is_none_or(|it| it < count));
            let mut files = files(&pod.node, &pod.id);
            files.retain(|file| !before.2.contains(file));
            Ok((descriptors, files))
        };
        let closed = wait_for("no descriptor or file is left", DEADLINE, async || {
            let (descriptors, files) = left().ok()?;
            (descriptors.is_empty() && files.is_empty()).then_some(())
        });
        closed.await.with_context(|| format!("{:?}", left()))?;
        let limit = limit("monitor_growth")?;
        let settled = wait_for("the memory is given back", DEADLINE, async || {
            let grown = monitor.private_memory().ok()?.saturating_sub(before.0);
            (grown <= limit).then_some(())
        });
        settled
            .await
            .with_context(|| format!("{:?} KB after {} KB", monitor.private_memory(), before.0))?;
    }
    companion.delete().await?;
    pod.delete().await
}

#[tokio::test]
async fn logs_cost_little_time() -> Result<()> {
    const MEGABYTES: usize = 128;
    let pod = Pod::on_host("logs").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    let cost = log(&pod, MEGABYTES).await? * 1e9 / f64::from(u32::try_from(MEGABYTES << 20)?);
    hold("log_cost", whole(cost))?;
    pod.delete().await
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and sizes, never negative and far below 2^64"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[tokio::test]
async fn nothing_wakes_an_idle_node() -> Result<()> {
    /// A timer of ours would be shorter than this.
    const WINDOW: Duration = Duration::from_secs(15);
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    let mut pids = vec![node.daemon().context("the daemon")?];
    let mut pods = Vec::new();
    for name in ["idle1", "idle2"] {
        let pod = Pod::run(Arc::clone(&node), node.host_pod(name)).await?;
        pod.launch(sleeper("main")).await?;
        pids.push(monitor_of(&pod)?.pid);
        pods.push(pod);
    }
    let look = || pids.iter().map(|pid| process::switches(*pid)).sum::<u64>();
    let mut last = 0;
    let limit = limit("idle_wakeups")?;
    // Threads of pools that have no more work end after a while, which is the last that is to happen.
    let quiet = wait_for("nothing wakes", 6 * WINDOW, async || {
        let before = look();
        tokio::time::sleep(WINDOW).await;
        // The switches of a thread that ended are no longer there.
        last = look().abs_diff(before);
        (last <= limit).then_some(())
    });
    quiet.await.with_context(|| format!("{last} wake-ups"))?;
    for pod in pods {
        pod.delete().await?;
    }
    Ok(())
}

/// Pods with three containers each.
async fn fill(node: &Node, numbers: Range<usize>) -> Result<Vec<String>> {
    let client = node.client().await?;
    let pods = numbers.map(|number| {
        let (client, config) = (client.clone(), node.host_pod(&format!("dense{number}")));
        async move {
            let id = client.run_pod(&config).await?;
            for name in ["one", "two", "three"] {
                client.launch(&id, &config, sleeper(name)).await?;
            }
            anyhow::Ok(id)
        }
    });
    stream::iter(pods).buffer_unordered(4).try_collect().await
}

/// The mean private memory of the pods' monitors, in KB.
fn mean(pods: &[String]) -> Result<u64> {
    let mut sum = 0;
    for id in pods {
        sum += process::monitor(id)
            .with_context(|| format!("{id} has no monitor"))?
            .private_memory()?;
    }
    Ok(sum / u64::try_from(pods.len())?)
}

#[tokio::test]
async fn a_node_of_many_pods_is_small() -> Result<()> {
    const FIRST: usize = 10;
    const PODS: usize = 50;
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Node::start(NodeOptions::default()).await?;
    let daemon = Process::find(node.daemon().context("the daemon")?).context("the daemon")?;
    let client = node.client().await?;
    // As a kubelet finds it, which lists everything all the time.
    let memory = async || -> Result<u64> {
        client.pods(None).await?;
        client.containers(None).await?;
        daemon.memory("Pss:")
    };
    let empty = memory().await?;
    // The first pods bring in the parts of the program that all others use.
    let mut pods = fill(&node, 0..FIRST).await?;
    let some = memory().await?;
    pods.extend(fill(&node, FIRST..PODS).await?);
    let growth = memory().await?.saturating_sub(some) / u64::try_from(PODS - FIRST)?;
    eprintln!("the daemon: {empty} KB without pods, and {growth} KB for a pod");
    if settings::is_release()? {
        hold("daemon_memory", empty)?;
        hold("daemon_growth", growth)?;
    }
    hold("monitor_private_memory", mean(&pods)?)
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
