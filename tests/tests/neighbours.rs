//! Neighbours that stand still, die or take what all need: the others do not notice, and what was begun is cleaned up.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use husk_tests::client::expect_error;
use husk_tests::cri::{self, ContainerState};
use husk_tests::process::monitors;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, NodeOptions, Pod, cgroup, container, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

/// What a call that asks no monitor may take, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn node(configuration: &str) -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    let options = NodeOptions {
        configuration: configuration.to_owned(),
        ..Default::default()
    };
    Ok(Some(Arc::new(Node::start(options).await?)))
}

/// Signals the monitor of a pod.
fn signal(pod: &str, signal: Signal) -> Result<()> {
    let found = monitors(pod);
    let monitor = found.first().context("the pod has no monitor")?;
    Ok(kill(Pid::from_raw(i32::try_from(monitor.pid)?), signal)?)
}

/// Everything that a kubelet asks all the time, about all pods and about `pod`.
async fn look(client: &Client, pod: &Pod, container: &str) -> Result<()> {
    let mut runtime = client.runtime.clone();
    client.pods(None).await?;
    client.containers(None).await?;
    client.pod_status(&pod.id).await?;
    client.container_status(container).await?;
    let stats = cri::ListContainerStatsRequest::default();
    runtime.list_container_stats(stats).await?;
    let stats = cri::ListPodSandboxStatsRequest::default();
    runtime.list_pod_sandbox_stats(stats).await?;
    let metrics = cri::ListPodSandboxMetricsRequest::default();
    runtime.list_pod_sandbox_metrics(metrics).await?;
    Ok(())
}

#[tokio::test]
async fn a_monitor_that_is_stopped_delays_no_other_pod_and_its_pod_can_be_removed() -> Result<()> {
    let limits = "[runtime]\nstart_timeout = \"2s\"\nkill_timeout = \"2s\"\n";
    let Some(node) = node(limits).await? else {
        return Ok(());
    };
    let before = node.settled().await?;
    let still = Pod::run(node.clone(), node.host_pod("still")).await?;
    let frozen = still.launch(container("main", "exec sleep 600")).await?;
    let other = Pod::run(node.clone(), node.host_pod("other")).await?;
    let running = other.launch(container("main", "exec sleep 600")).await?;
    signal(&still.id, Signal::SIGSTOP)?;
    for pod in [(&still, &frozen), (&other, &running)] {
        let begin = Instant::now();
        look(&other.client, pod.0, pod.1).await?;
        ensure!(
            begin.elapsed() < AT_ONCE,
            "looking took {:?}",
            begin.elapsed()
        );
    }
    let begin = Instant::now();
    assert_eq!(other.client.shell(&running, "echo here").await?, "here");
    let third = Pod::run(node.clone(), node.host_pod("third")).await?;
    third.once(container("main", "true")).await?;
    third.delete().await?;
    ensure!(
        begin.elapsed() < 5 * AT_ONCE,
        "others took {:?}",
        begin.elapsed()
    );
    // A call to the stopped one is given up and says so.
    let silent = [Code::DeadlineExceeded, Code::Unavailable];
    expect_error(
        still.client.exec(&frozen, &["true"], 1).await,
        &silent,
        &["monitor"],
    )?;
    signal(&still.id, Signal::SIGCONT)?;
    assert_eq!(still.client.shell(&frozen, "echo back").await?, "back");
    signal(&still.id, Signal::SIGSTOP)?;
    let _some_of_it_failed = still.client.stop_pod(&still.id).await;
    still.delete().await?;
    other.delete().await?;
    node.assert_settles(&before).await
}

/// The cgroup called `name` below the node's, as a kubelet makes it for a pod: in every hierarchy. Answers the one of
/// `controller`.
fn cgroup_of(node: &Node, controller: &str, name: &str) -> Result<PathBuf> {
    let (above, parent) = (node.cgroup_parent(), node.cgroup_parent_of(name));
    let (above, parent) = (
        above.trim_start_matches('/'),
        parent.trim_start_matches('/'),
    );
    cgroup::make(parent)?;
    let roots = cgroup::roots();
    let root = roots.iter().find(|root| root.ends_with(controller));
    let root = root.or(roots.first()).context("no cgroups")?;
    // A slice lies in the one that its name begins with.
    Ok(match cgroup::is_systemd() {
        true => root.join(above).join(parent),
        false => root.join(parent),
    })
}

/// Writes the first of `files` that is there; which one depends on the version of cgroups.
fn limit(cgroup: &Path, files: &[&str], value: &str) -> Result<()> {
    let found = files
        .iter()
        .map(|file| cgroup.join(file))
        .find(|file| file.exists());
    let file = found.with_context(|| format!("{} has none of {files:?}", cgroup.display()))?;
    fs::write(&file, value).with_context(|| format!("{value} to {}", file.display()))
}

fn below(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let mut config = node.host_pod(name);
    config.linux.get_or_insert_default().cgroup_parent = node.cgroup_parent_of(name);
    config
}

#[tokio::test]
async fn a_full_pids_cgroup_fails_what_needs_a_process_and_nothing_else() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let full = cgroup_of(&node, "pids", "full")?;
    let before = node.settled().await?;
    let config = below(&node, "full");
    let pod = Pod::run(node.clone(), config).await?;
    let running = pod.launch(container("running", "exec sleep 600")).await?;
    limit(&full, &["pids.max"], "1")?;
    let created = pod
        .client
        .create(&pod.id, &pod.config, container("no", "true"))
        .await;
    let cause = ["Resource temporarily unavailable"];
    expect_error(created, &[Code::ResourceExhausted], &cause)?;
    let second = node.client().await?.run_pod(&below(&node, "full")).await;
    expect_error(second, &[Code::ResourceExhausted], &cause)?;
    assert!(pod.client.exec(&running, &["true"], 5).await.is_err());
    assert_eq!(pod.client.containers(None).await?.len(), 1);
    // Where not even the OCI runtime can run, the monitor signals by itself.
    pod.client.stop(&running, 0).await?;
    let status = pod.client.container_status(&running).await?;
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 137)
    );
    let id = pod.id.clone();
    let _what_needs_a_process_waits = pod.client.delete_pod(&id).await;
    limit(&full, &["pids.max"], "max")?;
    pod.client.delete_pod(&id).await?;
    let again = pod.client.run_pod(&below(&node, "full")).await?;
    pod.client.delete_pod(&again).await?;
    node.assert_settles(&before).await
}

#[tokio::test]
async fn without_memory_for_its_monitor_a_pod_is_refused_and_leaves_nothing() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let poor = cgroup_of(&node, "memory", "poor")?;
    let client = node.client().await?;
    let before = node.settled().await?;
    let files = ["memory.limit_in_bytes", "memory.max"];
    limit(&poor, &files, "65536")?;
    let refused = client.run_pod(&below(&node, "poor")).await;
    expect_error(refused, &[Code::Internal], &["monitor"])?;
    assert!(client.pods(None).await?.is_empty());
    node.assert_settles(&before).await?;
    limit(&poor, &files, &(256 << 20).to_string())?;
    let pod = client.run_pod(&below(&node, "poor")).await?;
    client.delete_pod(&pod).await?;
    node.assert_settles(&before).await
}

/// Ten pods with twenty containers each, which all end at the same moment.
#[tokio::test]
async fn two_hundred_containers_that_exit_at_once_have_the_right_status() -> Result<()> {
    let Some(node) = node("[runtime]\ndefault = \"crun\"\n").await? else {
        return Ok(());
    };
    let shared = node.directory().join("shared");
    fs::create_dir(&shared)?;
    nix::unistd::mkfifo(&shared.join("gate"), nix::sys::stat::Mode::S_IRWXU)?;
    let names: Vec<String> = (0..10).map(|number| format!("crowd-{number}")).collect();
    let runs = names
        .iter()
        .map(|name| Pod::run(node.clone(), node.host_pod(name)));
    let pods = try_join_all(runs).await?;
    let launches = pods.iter().enumerate().map(async |(at, pod)| {
        let mut ids = Vec::new();
        for number in 0..20 {
            let code = at * 20 + number;
            // Whoever reads waits for a writer: all go on when there is one.
            let mut config = container(
                &format!("c{number}"),
                &format!("read x < /shared/gate; exit {code}"),
            );
            config.mounts.push(cri::Mount {
                host_path: shared.display().to_string(),
                container_path: "/shared".to_owned(),
                ..Default::default()
            });
            ids.push((pod.launch(config).await?, i32::try_from(code)?));
        }
        Ok::<_, anyhow::Error>(ids)
    });
    let ids: Vec<_> = try_join_all(launches)
        .await?
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(ids.len(), 200);
    drop(fs::File::options().write(true).open(shared.join("gate"))?);
    let client = node.client().await?;
    wait_for("all containers have exited", DEADLINE, async || {
        // One that came to the gate too late for the first opening finds the next.
        let gate = fs::File::options()
            .read(true)
            .write(true)
            .open(shared.join("gate"));
        drop(gate);
        let list = client.containers(None).await.ok()?;
        list.iter()
            .all(|it| it.state() == ContainerState::ContainerExited)
            .then_some(())
    })
    .await?;
    for (id, code) in &ids {
        let status = client.container_status(id).await?;
        assert_eq!(status.exit_code, *code, "{status:?}");
    }
    for deleted in join_all(pods.into_iter().map(Pod::delete)).await {
        deleted?;
    }
    Ok(())
}

/// A handler whose program kills itself, or what it has started, when it gets to the command in the file `order`.
fn mortal_runtime(directory: &Path) -> Result<String> {
    let script = r#"#!/bin/sh
for word; do case $word in create|start|kill|delete|exec) command=$word; break ;; esac; done
what= when=
read -r what when < "$(dirname "$0")/order"
[ "$what" = "$command" ] || exec crun "$@"
: > "$(dirname "$0")/order"
case $when in
before) kill -9 $$ ;;
after) crun "$@"; kill -9 $$ ;;
mounted)
    stub=${_LIBCONTAINER_STATEDIR:?}/crun.$$
    : > "$stub"
    mount --bind "$0" "$stub" && echo "$stub" >> "$(dirname "$0")/stubs"
    kill -9 $$ ;;
# What is killed in the middle of a system call still ends that: a monitor waits for its own child, so this does too.
*) crun "$@" & sleep "$when"; kill -9 $!; wait $!; kill -9 $$ ;;
esac
"#;
    let path = directory.join("mortal");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    fs::write(directory.join("order"), "")?;
    Ok(format!(
        "[runtime]\ndefault = \"mortal\"\n[runtime.handlers.mortal]\nkind = \"crun\"\npath = \"{}\"\n",
        path.display()
    ))
}

/// A pod as a kubelet makes it, which tries again with what failed; all of it goes at the end.
async fn stubborn(client: &Client, node: &Node, name: &str) -> Result<()> {
    let config = node.host_pod(name);
    let pod = client.run_pod(&config).await?;
    for attempt in 0..3 {
        let mut main = container("main", "trap 'exit 7' TERM; while :; do sleep 0.02; done");
        main.metadata.get_or_insert_default().attempt = attempt;
        let Ok(id) = client.create(&pod, &config, main).await else {
            continue;
        };
        if client.start(&id).await.is_err() {
            client.remove(&id).await?;
            continue;
        }
        if client.shell(&id, "true").await.is_err() {
            client
                .shell(&id, "true")
                .await
                .context("a second command")?;
        }
        client.stop(&id, 10).await?;
        let status = client.container_status(&id).await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "{status:?}"
        );
        // A start that was cut off may have ended it before its trap was set.
        if client.remove(&id).await.is_err() {
            client.remove(&id).await?;
        }
        return Ok(client.delete_pod(&pod).await?);
    }
    anyhow::bail!("three attempts have failed")
}

#[tokio::test]
async fn an_oci_runtime_that_is_killed_at_any_moment_leaves_nothing_and_the_retry_succeeds()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(node) = node(&mortal_runtime(directory.path())?).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let before = node.settled().await?;
    let moments = ["before", "mounted", "0.001", "0.004", "after"];
    for command in ["create", "start", "exec", "kill", "delete"] {
        for when in moments {
            let what = format!("{command} {when}");
            fs::write(directory.path().join("order"), &what)?;
            stubborn(&client, &node, "mortal")
                .await
                .with_context(|| what.clone())?;
            let done = fs::read_to_string(directory.path().join("order"))?.is_empty();
            ensure!(done, "{what}: the runtime was not called");
            node.assert_settles(&before).await.context(what)?;
        }
    }
    // Whatever a runtime had mounted of itself when it was killed was below the pod, and went with it.
    let stubs = fs::read_to_string(directory.path().join("stubs"))?;
    ensure!(stubs.lines().count() == 5, "{stubs}");
    let outside = stubs
        .lines()
        .find(|stub| !Path::new(stub).starts_with(node.directory()));
    ensure!(outside.is_none(), "{outside:?}");
    Ok(())
}
