//! Plugins of the Node Resource Interface, which are programs with upstream's own client code
//! (`tests/nri-plugin/`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::command::command;
use husk_tests::config::resources;
use husk_tests::process::Process;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, Pod, cgroup, container, cri, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tonic::Code;

const SLEEP: &str = "exec sleep 600";

/// A plugin that runs until it is dropped.
struct Plugin {
    child: Child,
    log: PathBuf,
    trigger: PathBuf,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plugin {
    /// Starts a plugin without waiting for anything.
    fn start(node: &Node, identity: &str, mut config: Value) -> Result<Self> {
        let (index, name) = identity.split_once('-').context("NN-name")?;
        let place = |what: &str| node.directory().join(format!("{identity}.{what}"));
        config["log"] = json!(place("log"));
        config["trigger"] = json!(place("trigger"));
        fs::write(place("json"), config.to_string())?;
        let child = command(settings::nri_plugin()?)
            .arg("-socket")
            .arg(node.directory().join("nri.sock"))
            .args(["-index", index, "-name", name, "-config"])
            .arg(place("json"))
            .stderr(fs::File::create(place("err"))?)
            .spawn()?;
        Ok(Self {
            child,
            log: place("log"),
            trigger: place("trigger"),
        })
    }

    /// Starts a plugin and waits until it was told the state.
    async fn join(node: &Node, identity: &str, config: Value) -> Result<Self> {
        let plugin = Self::start(node, identity, config)?;
        plugin.wait("Synchronize", 1).await?;
        Ok(plugin)
    }

    fn lines(&self) -> Vec<Value> {
        lines(&self.log)
    }

    /// The lines of one event.
    fn of(&self, event: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["event"] == event);
        lines
    }

    /// Waits for the `count`th line of an event and returns it.
    async fn wait(&self, event: &str, count: usize) -> Result<Value> {
        let what = format!("{event} number {count} in {}", self.log.display());
        let found = wait_for(&what, DEADLINE, async || {
            self.of(event).get(count - 1).cloned()
        });
        found.await
    }
}

fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // A line may be half written at this moment.
    let lines = text.lines().map(serde_json::from_str);
    lines.filter_map(Result::ok).collect()
}

/// A node of the test's own; none where another endpoint is tested.
async fn node(configuration: &str) -> Result<Option<Arc<Node>>> {
    if settings::skips("only Husk is given plugins here") {
        return Ok(None);
    }
    let options = NodeOptions {
        configuration: configuration.to_owned(),
        ..NodeOptions::default()
    };
    Ok(Some(Arc::new(Node::start(options).await?)))
}

async fn pod(node: &Arc<Node>, name: &str) -> Result<Pod> {
    Pod::run(node.clone(), node.host_pod(name)).await
}

/// The lines of `/proc/self/environ` of the container's shell, and more, as a shell says it.
async fn says(pod: &Pod, id: &str, script: &str) -> Result<String> {
    pod.client.shell(id, script).await
}

#[tokio::test]
async fn hooks_come_once_and_in_order() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let plugin = Plugin::join(&node, "10-order", json!({})).await?;
    let pod = pod(&node, "ordered").await?;
    let id = pod.create(container("main", SLEEP)).await?;
    pod.client.start(&id).await?;
    let change = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut runtime = pod.client.runtime.clone();
    runtime.update_container_resources(change).await?;
    pod.client.stop(&id, 0).await?;
    pod.client.remove(&id).await?;
    let short = pod.launch(container("short", "exit 3")).await?;
    pod.client.wait_exit(&short).await?;
    plugin.wait("StopContainer", 2).await?;
    let (client, pod_id) = (pod.client.clone(), pod.id.clone());
    client.stop_pod(&pod_id).await?;
    client.stop_pod(&pod_id).await?;
    client.remove_pod(&pod_id).await?;
    let lines = plugin.lines();
    let told: Vec<String> = lines.iter().map(event_and_subject).collect();
    let expected = [
        "Configure ",
        "Synchronize ",
        "RunPodSandbox ordered",
        "CreateContainer main",
        "ValidateContainerAdjustment main",
        "PostCreateContainer main",
        "StartContainer main",
        "PostStartContainer main",
        "UpdateContainer main",
        "PostUpdateContainer main",
        "StopContainer main",
        "RemoveContainer main",
        "CreateContainer short",
        "ValidateContainerAdjustment short",
        "PostCreateContainer short",
        "StartContainer short",
        "PostStartContainer short",
        "StopContainer short",
        "StopPodSandbox ordered",
        "RemoveContainer short",
        "RemovePodSandbox ordered",
    ];
    assert_eq!(told, expected, "{lines:#?}");
    contents_are_right(&told, &lines, &id)
}

/// What is said of the container `id`, at the events that it is interesting at.
fn contents_are_right(told: &[String], lines: &[Value], id: &str) -> Result<()> {
    let of = |event: &str| {
        let place = told.iter().position(|told| told.starts_with(event));
        place.map(|place| &lines[place]).context(event.to_owned())
    };
    let created = of("CreateContainer main")?;
    assert_eq!(created["args"], json!(["/bin/sh", "-c", SLEEP]));
    assert_eq!(created["container_id"], id);
    let env = created["env"].to_string();
    assert!(env.contains("\"PATH=/"), "{env}");
    assert_eq!(of("StartContainer main")?["state"], "CONTAINER_CREATED");
    assert_eq!(of("PostStartContainer main")?["state"], "CONTAINER_RUNNING");
    assert_eq!(of("StopContainer main")?["state"], "CONTAINER_STOPPED");
    let runtime = lines[0]["runtime"].to_string();
    assert!(runtime.starts_with("\"husk "), "{runtime}");
    Ok(())
}

fn event_and_subject(line: &Value) -> String {
    let subject = if line["container"].is_string() {
        &line["container"]
    } else {
        &line["pod"]
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&line["event"]), text(subject))
}

#[tokio::test]
async fn limits_of_a_pod_are_asked_about_and_told() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let refusals = json!({"fail": {"UpdatePodSandbox": "kept"}});
    let plugin = Plugin::join(&node, "10-limits", refusals).await?;
    let client = node.client().await?;
    let limit = async |pod: &str, bytes: i64| {
        let of = |memory_limit_in_bytes| cri::LinuxContainerResources {
            memory_limit_in_bytes,
            ..Default::default()
        };
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.to_owned(),
            overhead: Some(of(8 << 20)),
            resources: Some(of(bytes)),
        };
        let mut runtime = client.runtime.clone();
        runtime.update_pod_sandbox_resources(request).await
    };
    let pod = pod(&node, "limited").await?;
    limit(&pod.id, 64 << 20).await?;
    limit(&pod.id, 96 << 20).await?;
    let asked = plugin.of("UpdatePodSandbox");
    let told = plugin.of("PostUpdatePodSandbox");
    let numbers = |lines: &[Value], what: &str| -> Vec<Value> {
        lines.iter().map(|line| line[what].clone()).collect()
    };
    assert_eq!(
        numbers(&asked, "asked"),
        [json!([8 << 20, 64 << 20]), json!([8 << 20, 96 << 20])]
    );
    assert_eq!(
        numbers(&asked, "pod_memory"),
        [Value::Null, json!(64 << 20)]
    );
    assert_eq!(
        numbers(&told, "pod_memory"),
        [json!(64 << 20), json!(96 << 20)]
    );
    let kept = Pod::run(node.clone(), node.host_pod("kept")).await?;
    let named = ["10-limits", "refused by configuration"];
    expect_error(limit(&kept.id, 64 << 20).await, &[Code::Internal], &named)?;
    assert_eq!(plugin.of("PostUpdatePodSandbox").len(), 2);
    kept.delete().await?;
    pod.delete().await
}

#[tokio::test]
async fn what_a_plugin_may_not_give_is_clamped_or_refused_by_its_name() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let wishes = json!({"adjust": {
        "protected": {"oom_score_adj": -1000},
        "moved": {"cgroups_path": "/elsewhere/moved"},
    }});
    let _plugin = Plugin::join(&node, "10-bold", wishes).await?;
    let pod = pod(&node, "bold").await?;
    let mut by_kubelet = container("by-kubelet", SLEEP);
    resources(&mut by_kubelet).oom_score_adj = -1000;
    let mut scores = BTreeSet::new();
    for config in [container("protected", SLEEP), by_kubelet] {
        let id = pod.launch(config).await?;
        scores.insert(says(&pod, &id, "cat /proc/1/oom_score_adj").await?);
    }
    assert_eq!(scores.len(), 1, "{scores:?}");
    let moved = container("moved", SLEEP);
    let answer = pod.client.create(&pod.id, &pod.config, moved).await;
    expect_error(answer, &[Code::Internal], &["10-bold", "/elsewhere/moved"])?;
    pod.delete().await
}

#[tokio::test]
async fn adjustments_of_several_plugins_reach_the_container() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let given = node.directory().join("given");
    fs::create_dir(&given)?;
    fs::write(given.join("file"), "from the plugin")?;
    let first = json!({"adjust": {"*": {
        "env": {"FROM": "first", "OTHER": "1"},
        "mounts": [{"source": given, "destination": "/given"}],
        "annotations": {"husk.test/plugin": "first"},
        "memory_limit": 64 << 20,
    }}});
    let _first = Plugin::join(&node, "10-first", first).await?;
    let second = json!({"adjust": {"*": {"env": {"SECOND": "2"}}}});
    let second = Plugin::join(&node, "20-second", second).await?;
    let pod = pod(&node, "adjusted").await?;
    let id = pod.launch(container("main", SLEEP)).await?;
    let found = says(&pod, &id, "echo $FROM $OTHER $SECOND; cat /given/file").await?;
    assert_eq!(found, "first 1 2\nfrom the plugin");
    let refused = pod.client.exec(&id, &["touch", "/given/new"], 10).await?;
    assert_ne!(refused.exit_code, 0, "the mount was to be read-only");
    let spec = spec(&pod, &id)?;
    assert_eq!(spec["annotations"]["husk.test/plugin"], "first");
    assert_eq!(limit(&id)?, 64 << 20);
    let status = pod.client.container_status(&id).await?;
    let reported = status.resources.and_then(|resources| resources.linux);
    assert_eq!(
        reported.map(|linux| linux.memory_limit_in_bytes),
        Some(64 << 20)
    );
    assert!(
        !status.annotations.contains_key("husk.test/plugin"),
        "statuses stay unaltered"
    );
    // The second plugin saw what the first had asked for.
    let seen = second.wait("CreateContainer", 1).await?;
    assert_eq!(seen["memory_limit"], 64 << 20);
    assert!(seen["mounts"].to_string().contains("\"/given\""), "{seen}");
    pod.delete().await
}

/// What the OCI runtime was given.
fn spec(pod: &Pod, id: &str) -> Result<Value> {
    let bundle = format!("run/pods/{}/containers/{id}/config.json", pod.id);
    let text = fs::read_to_string(pod.node.directory().join(bundle))?;
    Ok(serde_json::from_str(&text)?)
}

#[tokio::test]
async fn plugins_that_want_the_same_are_both_named() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let wish = |value: &str| json!({"adjust": {"*": {"env": {"FROM": value}}}});
    let _first = Plugin::join(&node, "10-first", wish("1")).await?;
    let _second = Plugin::join(&node, "20-second", wish("2")).await?;
    let pod = pod(&node, "wanted").await?;
    let config = container("conflict", SLEEP);
    let answer = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(
        answer,
        &[Code::Internal],
        &["10-first", "20-second", "Env FROM"],
    )?;
    pod.delete().await
}

/// The memory limit in the cgroup of a container, in bytes.
fn limit(id: &str) -> Result<u64> {
    let text = cgroup::of_container(id, &["memory.max", "memory.limit_in_bytes"])?;
    Ok(text.parse()?)
}

/// A disk of this machine that can be limited, and its two numbers.
fn disk() -> Result<Option<(PathBuf, String)>> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let node = Path::new("/dev").join(entry.file_name());
        // What has no device below it is made of memory or of another disk.
        if entry.path().join("device").exists() && node.exists() {
            let numbers = fs::read_to_string(entry.path().join("dev"))?;
            return Ok(Some((node, numbers.trim().to_owned())));
        }
    }
    Ok(None)
}

#[tokio::test]
async fn classes_are_the_limits_that_the_operator_wrote_down() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("blockio.yaml");
    let disk = disk()?;
    let device = disk.as_ref().map_or(Path::new("/dev/none"), |it| &it.0);
    let device = device.display();
    let classes = format!(
        "Classes: {{slow: [{{Devices: [\"{device}*\"], ThrottleReadBps: 50M, ThrottleWriteBps: 10M}}]}}"
    );
    fs::write(&file, classes)?;
    let configuration = format!("nri.blockio_config_file = {:?}", file.display());
    let Some(node) = node(&configuration).await? else {
        return Ok(());
    };
    let wishes = json!({"adjust": {
        "slow": {"blockio_class": "slow"},
        "unknown": {"blockio_class": "nowhere"},
        "cached": {"rdt_class": "gold"},
    }});
    let _plugin = Plugin::join(&node, "10-classes", wishes).await?;
    let pod = pod(&node, "classes").await?;
    let id = pod.launch(container("slow", SLEEP)).await?;
    if let Some((_, numbers)) = disk {
        let names = ["io.max", "blkio.throttle.write_bps_device"];
        let limits = cgroup::of_container(&id, &names)?;
        assert!(limits.contains(&numbers), "{limits}");
        assert!(limits.contains("10000000"), "{limits}");
    } else {
        eprintln!("SKIPPED: no disk, so none was limited");
    }
    let unknown = container("unknown", SLEEP);
    let answer = pod.client.create(&pod.id, &pod.config, unknown).await;
    let words = ["nowhere", "nri.blockio_config_file"];
    expect_error(answer, &[Code::InvalidArgument], &words)?;
    // The processor decides what becomes of it.
    let cached = container("cached", SLEEP);
    match pod.client.create(&pod.id, &pod.config, cached).await {
        Ok(id) => assert_eq!(
            spec(&pod, &id)?["linux"]["intelRdt"],
            json!({"closID": "gold"})
        ),
        Err(status) => assert!(format!("{status:?}").contains("RDT"), "{status:?}"),
    }
    pod.delete().await
}

#[tokio::test]
async fn a_refusal_undoes_what_it_refuses() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let before = node.settled().await?;
    let config = json!({"fail": {
        "RunPodSandbox": "no-pod", "CreateContainer": "no-create", "StartContainer": "no-start",
    }});
    let plugin = Plugin::join(&node, "10-refusing", config).await?;
    let client = node.client().await?;
    let named = ["10-refusing", "refused by configuration"];
    let answer = client.run_pod(&node.pod("no-pod")).await;
    expect_error(answer, &[Code::Internal], &named)?;
    assert!(client.pods(None).await?.is_empty());

    let pod = pod(&node, "refusing").await?;
    let refused = || container("no-create", SLEEP);
    let answer = client.create(&pod.id, &pod.config, refused()).await;
    expect_error(answer, &[Code::Internal], &named)?;
    assert!(client.containers(None).await?.is_empty());
    // Who was asked is told that there will be no such container.
    plugin.wait("RemoveContainer", 1).await?;
    let id = pod.create(container("no-start", SLEEP)).await?;
    expect_error(client.start(&id).await, &[Code::Internal], &named)?;
    let status = client.container_status(&id).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);

    drop(plugin);
    let again = wait_for("the refused name works", DEADLINE, async || {
        pod.launch(refused()).await.ok()
    });
    again.await?;
    client.start(&id).await?;
    pod.delete().await?;
    node.assert_settles(&before).await
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_is_given_up() -> Result<()> {
    let Some(node) = node("[nri]\nrequest_timeout = \"300ms\"\n").await? else {
        return Ok(());
    };
    let plugin = Plugin::join(
        &node,
        "10-hanging",
        json!({"hang": {"CreateContainer": "slow"}}),
    )
    .await?;
    let strict = json!({"hang": {"CreateContainer": "strict"}, "fail_request": true});
    let strict = Plugin::join(&node, "20-strict", strict).await?;
    let pod = pod(&node, "patient").await?;
    pod.launch(container("slow", SLEEP)).await?;
    // It was dropped, has connected again, and knows what was made without it.
    let again = plugin.wait("Synchronize", 2).await?;
    assert_eq!(again["containers"], json!(["slow"]));
    let answer = pod
        .client
        .create(&pod.id, &pod.config, container("strict", SLEEP))
        .await;
    expect_error(
        answer,
        &[Code::Internal],
        &["20-strict", "no answer within 300 ms"],
    )?;
    strict.wait("Synchronize", 2).await?;
    pod.delete().await
}

#[tokio::test]
async fn no_container_is_missed_by_a_plugin_that_comes_meanwhile() -> Result<()> {
    const CONTAINERS: usize = 20;
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let pod = Arc::new(pod(&node, "crowd").await?);
    let creations: Vec<_> = (0..CONTAINERS)
        .map(|number| {
            let pod = pod.clone();
            let config = container(&format!("c{number:02}"), SLEEP);
            tokio::spawn(async move { pod.create(config).await })
        })
        .collect();
    let first = wait_for("the first container", DEADLINE, async || {
        let made = pod.client.containers(None).await.ok()?;
        (!made.is_empty()).then_some(())
    });
    first.await?;
    // Longer than an answer to any other request may take.
    let plugin = Plugin::join(&node, "10-late", json!({"slow": 2500})).await?;
    for creation in creations {
        creation.await??;
    }
    let names = |values: &Value| -> BTreeSet<String> {
        let values = values.as_array().into_iter().flatten();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    };
    let synchronized = names(&plugin.of("Synchronize")[0]["containers"]);
    let created = plugin.of("CreateContainer");
    let created: BTreeSet<_> = created
        .iter()
        .map(|line| line["container"].as_str().unwrap().to_owned())
        .collect();
    let all: BTreeSet<_> = (0..CONTAINERS)
        .map(|number| format!("c{number:02}"))
        .collect();
    assert_eq!(
        &synchronized | &created,
        all,
        "missed; synchronised {synchronized:?}"
    );
    assert!(
        synchronized.is_disjoint(&created),
        "told twice: {synchronized:?} {created:?}"
    );
    assert!(!synchronized.is_empty());
    node.client().await?.delete_pod(&pod.id).await?;
    Ok(())
}

#[tokio::test]
async fn plugins_change_containers_that_exist() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let update = json!({"container": "first", "memory_limit": 80 << 20});
    let plugin = Plugin::join(
        &node,
        "10-changing",
        json!({"adjust": {"second": {"update": update}}}),
    )
    .await?;
    let pod = pod(&node, "changed").await?;
    let mut config = container("first", SLEEP);
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let first = pod.launch(config).await?;
    assert_eq!(limit(&first)?, 64 << 20);
    // With the answer to another container's creation.
    pod.launch(container("second", SLEEP)).await?;
    assert_eq!(limit(&first)?, 80 << 20);
    // Unasked.
    let wish = json!({"container": "first", "memory_limit": 96 << 20});
    fs::write(plugin.trigger.with_extension("new"), wish.to_string())?;
    fs::rename(plugin.trigger.with_extension("new"), &plugin.trigger)?;
    let answer = plugin.wait("UpdateContainers", 1).await?;
    assert_eq!(
        (&answer["failed"], &answer["error"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(limit(&first)?, 96 << 20);
    let status = pod.client.container_status(&first).await?;
    let reported = status.resources.and_then(|resources| resources.linux);
    assert_eq!(
        reported.map(|linux| linux.memory_limit_in_bytes),
        Some(96 << 20)
    );
    // One that cannot be changed comes back.
    let wish = json!({"container": "nobody", "memory_limit": 96 << 20});
    fs::write(plugin.trigger.with_extension("new"), wish.to_string())?;
    fs::rename(plugin.trigger.with_extension("new"), &plugin.trigger)?;
    let answer = plugin.wait("UpdateContainers", 2).await?;
    assert_eq!(answer["failed"], json!([""]));
    pod.delete().await
}

#[tokio::test]
async fn a_daemon_that_comes_back_tells_the_state_again() -> Result<()> {
    let Some(node) = node("").await? else {
        return Ok(());
    };
    let plugin = Plugin::join(&node, "10-staying", json!({})).await?;
    let pod = pod(&node, "staying").await?;
    pod.launch(container("main", SLEEP)).await?;
    for (count, signal) in [(2, Signal::SIGTERM), (3, Signal::SIGKILL)] {
        node.end_daemon(signal)?;
        node.launch().await?;
        let told = plugin.wait("Synchronize", count).await?;
        assert_eq!(told["pods"], json!(["staying"]));
        assert_eq!(told["containers"], json!(["main"]));
    }
    let client = node.client().await?;
    Ok(client.delete_pod(&pod.id).await?)
}

#[tokio::test]
async fn plugins_are_launched_with_their_configurations() -> Result<()> {
    if settings::skips("only Husk is given plugins here") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let (programs, configs) = (
        directory.path().join("plugins"),
        directory.path().join("configs"),
    );
    fs::create_dir(&programs)?;
    fs::create_dir(&configs)?;
    fs::copy(settings::nri_plugin()?, programs.join("10-launched"))?;
    let log = directory.path().join("log");
    let config = json!({"log": log, "adjust": {"*": {"env": {"LAUNCHED": "yes"}}}});
    fs::write(configs.join("launched.conf"), config.to_string())?;
    let configuration = format!(
        "[nri]\nplugin_dir = \"{}\"\nplugin_config_dir = \"{}\"\n",
        programs.display(),
        configs.display()
    );
    let Some(node) = node(&configuration).await? else {
        return Ok(());
    };
    // It was there before the first call.
    let pod = pod(&node, "launching").await?;
    let id = pod.launch(container("main", SLEEP)).await?;
    assert_eq!(says(&pod, &id, "echo $LAUNCHED").await?, "yes");
    let events: Vec<_> = lines(&log).iter().map(event_and_subject).collect();
    assert_eq!(
        events[..3],
        ["Configure ", "Synchronize ", "RunPodSandbox launching"]
    );
    pod.delete().await?;
    node.end_daemon(Signal::SIGTERM)?;
    let name = programs.join("10-launched").display().to_string();
    wait_for("the plugin has ended", DEADLINE, async || {
        find(&name).is_none().then_some(())
    })
    .await?;
    node.launch().await?;
    // One that dies is reaped and not started again, and nobody waits for it.
    let launched = find(&name).context("it is launched again")?;
    kill(Pid::from_raw(launched.pid.cast_signed()), Signal::SIGKILL)?;
    let place = PathBuf::from(format!("/proc/{}", launched.pid));
    wait_for("the plugin is reaped", DEADLINE, async || {
        (!place.exists()).then_some(())
    })
    .await?;
    let pod = pod_without(&node).await?;
    assert!(find(&name).is_none(), "it was started again");
    pod.delete().await
}

/// A pod in which no plugin had a say.
async fn pod_without(node: &Arc<Node>) -> Result<Pod> {
    let pod = pod(node, "bereft").await?;
    let id = pod.launch(container("main", SLEEP)).await?;
    assert_eq!(says(&pod, &id, "echo $LAUNCHED").await?, "");
    Ok(pod)
}

fn find(program: &str) -> Option<Process> {
    let mut processes = husk_tests::process::all().into_iter();
    processes.find(|it| it.arguments.first().is_some_and(|first| first == program))
}
