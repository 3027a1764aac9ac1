//! What a person starts by hand: `hack/demo`, `hack/dev-node` and `hack/bench-peers`, by the programs behind them, and
//! the commands of `husk` that ask a daemon.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use husk_tests::client::expect_error;
use husk_tests::command::{command, output};
use husk_tests::process::{self, Process};
use husk_tests::registry::{Access, PASSWORD, USER};
use husk_tests::{BUSYBOX, Client, Image, Layer, Node, Pod, cgroup, container, cri, settings};
use serde_json::json;
use tonic::Code;

#[test]
fn the_demo_shows_a_pod_and_leaves_nothing_twice() -> Result<()> {
    if settings::skips("it is Husk's demo") {
        return Ok(());
    }
    for _ in 0..2 {
        let began = Instant::now();
        let demo = command(env!("CARGO_BIN_EXE_demo"))
            .stdout(Stdio::piped())
            .spawn()?;
        let cgroup = cgroup::name(&format!("husk-test-{}-", demo.id()));
        let done = demo.wait_with_output()?;
        let shown = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success(), "{}: {shown}", done.status);
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "it took {:?}",
            began.elapsed()
        );
        for part in [
            "SANDBOX_READY",
            "CONTAINER_RUNNING",
            "pod-monitor ",
            "1 thread",
            "stdout F serving",
            "stderr F warning 3",
            "hello from the pod",
            "exit code 42, reason Error",
            "pods left: 0, containers left: 0",
        ] {
            ensure!(shown.contains(part), "{part:?} in {shown}");
        }
        let own = shown.split("monitor: ").nth(1);
        let own = own.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        ensure!(
            own.is_some_and(|kilobytes: u64| kilobytes < 500),
            "the monitor alone, without its program: {own:?} in {shown}"
        );
        let place = shown
            .split_whitespace()
            .find(|word| word.starts_with("/tmp/ht-"));
        let place = Path::new(place.context("no socket is named")?);
        let cgroup = cgroup.trim_end_matches(".slice");
        nothing_is_left(place.parent().context("the node's directory")?, cgroup)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_benchmark_measures_an_endpoint_that_runs_already() -> Result<()> {
    if settings::skips("it is Husk's benchmark") {
        return Ok(());
    }
    let node = Node::shared().await?;
    let import = node.husk(&["image", "import"])?;
    let words = std::iter::once(import.get_program()).chain(import.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let place = tempfile::tempdir()?;
    let mut bench = command(env!("CARGO_BIN_EXE_cri-bench"));
    bench
        .args(["--no-husk", "--only", "latency", "--rounds", "1"])
        .args(["--endpoint", &format!("there={}", node.socket().display())])
        .args(["--import", &format!("there={}", words.join(" "))])
        .arg("--out")
        .arg(place.path());
    let shown = tokio::task::spawn_blocking(move || output(&mut bench)).await??;
    let written = fs::read_to_string(place.path().join("README.md"))?;
    for text in [shown, written] {
        for row in ["RunPodSandbox, host network", "RemovePodSandbox, CNI"] {
            ensure!(text.contains(row), "no {row:?} in {text}");
        }
    }
    Ok(())
}

/// No file at `directory`, no process or mount that names it, no cgroup that begins with `cgroup`.
fn nothing_is_left(directory: &Path, cgroup: &str) -> Result<()> {
    ensure!(!directory.exists(), "{} is left", directory.display());
    no_process_and_mount(directory)?;
    let roots = cgroup::roots()
        .into_iter()
        .flat_map(|root| cgroup::tree(&root));
    let mut left = roots.filter(|path| path.to_string_lossy().contains(cgroup));
    ensure!(left.next().is_none(), "a cgroup {cgroup} is left");
    Ok(())
}

fn no_process_and_mount(directory: &Path) -> Result<()> {
    let name = directory.display().to_string();
    let processes: Vec<Process> = process::all()
        .into_iter()
        .filter(|process| {
            process
                .arguments
                .iter()
                .any(|argument| argument.contains(&name))
        })
        .collect();
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&name), "a mount is left: {mounts}");
    Ok(())
}

/// A network namespace in place of the machine's own, kept by a process that ends with the test.
struct Machine(Child);

impl Machine {
    fn new() -> Result<Self> {
        let mut holder = command("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "no network namespace could be made");
        Ok(Self(holder))
    }

    fn command(&self, program: &str) -> Command {
        let mut enter = command("nsenter");
        enter
            .arg(format!("--target={}", self.0.id()))
            .args(["--net", "--", program]);
        enter
    }

    /// Interfaces and rules, which a node that is stopped takes away again.
    fn network(&self) -> Result<String> {
        let links = output(self.command("ip").args(["-brief", "link"]))?;
        let names: Vec<_> = links
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let rules = output(self.command("iptables").args(["-t", "nat", "-S"]))?;
        Ok(format!("{}\n{rules}", names.join(" ")))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A node of `hack/dev-node`; what a failed test left of it goes when this is dropped.
struct DevNode<'a> {
    machine: &'a Machine,
    directory: tempfile::TempDir,
    cgroup: String,
}

impl<'a> DevNode<'a> {
    fn new(machine: &'a Machine, name: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ht-").tempdir_in("/tmp")?;
        let cgroup = cgroup::name(&format!("husk-dev-{name}-{}", std::process::id()));
        cgroup::make(&cgroup)?;
        Ok(Self {
            machine,
            directory,
            cgroup,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn act(&self, words: &[&str]) -> Result<String> {
        let mut act = self.machine.command(env!("CARGO_BIN_EXE_dev-node"));
        output(act.arg(self.directory.path()).args(words))
    }

    fn daemon(&self) -> Result<u32> {
        let pid = fs::read_to_string(self.path("husk.pid"))?.trim().parse()?;
        Process::find(pid).context("husk.pid names no process")?;
        Ok(pid)
    }

    async fn client(&self) -> Result<Client> {
        Client::connect(&self.path("husk.sock")).await
    }

    fn import_busybox(&self) -> Result<()> {
        let archive = self.path("busybox.tar");
        Image::busybox(BUSYBOX)?.write_archive(&archive)?;
        let husk = settings::husk()?;
        let mut husk = self.machine.command(&husk.to_string_lossy());
        husk.arg("--config").arg(self.path("husk.toml"));
        output(husk.args(["image", "import"]).arg(&archive))?;
        Ok(fs::remove_file(archive)?)
    }

    /// Fails unless a stopped node left nothing but what is meant to stay; `before` is the machine's network.
    fn is_gone(&self, before: &str) -> Result<()> {
        no_process_and_mount(self.directory.path())?;
        assert_eq!(self.machine.network()?, before);
        let left: Vec<_> = cgroup::named(&self.cgroup)
            .into_iter()
            .filter(|path| !path.ends_with(&self.cgroup))
            .collect();
        assert!(left.is_empty(), "cgroups are left: {left:?}");
        for gone in [
            "run",
            "ipam",
            "husk.sock",
            "husk.pid",
            ".holder.pid",
            ".ready",
        ] {
            ensure!(!self.path(gone).exists(), "{gone} is left");
        }
        Ok(())
    }

    fn pod(&self) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "played-with".to_owned(),
                uid: "1".to_owned(),
                namespace: "test".to_owned(),
                attempt: 0,
            }),
            log_directory: self.path("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.cgroup),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl Drop for DevNode<'_> {
    fn drop(&mut self) {
        let _stopped = self.act(&["stop"]);
        cgroup::remove(&self.cgroup);
    }
}

#[tokio::test]
async fn a_dev_node_starts_restarts_with_its_pods_and_stops_without_a_trace() -> Result<()> {
    if settings::skips("it is Husk's node to play with") {
        return Ok(());
    }
    let machine = Machine::new()?;
    let before = machine.network()?;
    let node = DevNode::new(&machine, "plain")?;
    node.act(&[])?;
    let first = node.daemon()?;
    ensure!(node.path("husk.log").exists(), "there is no log");
    ensure!(
        node.act(&["start"])
            .is_err_and(|it| it.to_string().contains("runs already")),
        "it started twice"
    );
    node.import_busybox()?;
    let client = node.client().await?;
    let mut config = node.pod();
    config.port_mappings = vec![cri::PortMapping {
        host_port: 8080,
        container_port: 80,
        ..Default::default()
    }];
    let pod = client.run_pod(&config).await?;
    let mut main = container("main", "exec sleep 600");
    main.mounts = vec![cri::Mount {
        host_path: node.path("volume").display().to_string(),
        container_path: "/volume".to_owned(),
        ..Default::default()
    }];
    let id = client.launch(&pod, &config, main).await?;
    client.shell(&id, "echo kept > /volume/file").await?;

    node.act(&["restart"])?;
    ensure!(node.daemon()? != first, "the daemon is the same process");
    let client = node.client().await?;
    let status = client.container_status(&id).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(
        client.shell(&id, "cat /volume/file && ls /bin/sh").await?,
        "kept\n/bin/sh"
    );
    let (status, lines) = client
        .run_to_end(
            &pod,
            &config,
            container("late", "echo late; df / | tail -n 1 | cut -c 1-7"),
        )
        .await?;
    assert_eq!(
        (status.exit_code, lines),
        (0, vec!["late".to_owned(), "overlay".to_owned()])
    );

    node.act(&["stop"])?;
    node.is_gone(&before)?;
    node.act(&["stop"]).map(drop)
}

#[tokio::test]
async fn a_dev_node_takes_its_configuration_registries_and_network_from_its_directory() -> Result<()>
{
    if settings::skips("it is Husk's node to play with") {
        return Ok(());
    }
    let machine = Machine::new()?;
    let node = DevNode::new(&machine, "own")?;
    let ranges = serde_json::json!([[{"subnet": "10.99.0.0/16"}]]);
    let ipam =
        serde_json::json!({"type": "host-local", "ranges": ranges, "dataDir": node.path("ipam")});
    let bridge = serde_json::json!({"type": "bridge", "bridge": "own0", "ipam": ipam});
    let network = serde_json::json!({"cniVersion": "1.0.0", "name": "own", "plugins": [bridge]});
    fs::create_dir(node.path("cni"))?;
    fs::write(node.path("cni/10-own.conflist"), network.to_string())?;
    let blocked =
        "[[registry]]\nprefix = \"blocked.test\"\nlocation = \"blocked.test\"\nblocked = true\n";
    fs::write(node.path("registries.conf"), blocked)?;
    let own = node.path("own.toml");
    fs::write(&own, "[runtime]\nstart_timeout = \"77s\"\n")?;

    node.act(&["start", "--config", &own.to_string_lossy()])?;
    let client = node.client().await?;
    let status = client.status().await?;
    let config: serde_json::Value = serde_json::from_str(&status.info["config"])?;
    assert_eq!(config["runtime"]["start_timeout"], "1m17s");
    let refused = client.pull("blocked.test/app:1", None).await;
    expect_error(refused, &[Code::PermissionDenied], &["blocked.test"])?;
    node.import_busybox()?;
    let pod = client.run_pod(&node.pod()).await?;
    let address = client
        .pod_status(&pod)
        .await?
        .network
        .unwrap_or_default()
        .ip;
    ensure!(address.starts_with("10.99."), "{address}");
    // Without `--config` the configuration in the directory stays.
    node.act(&["restart"])?;
    let status = node.client().await?.status().await?;
    let config: serde_json::Value = serde_json::from_str(&status.info["config"])?;
    assert_eq!(config["runtime"]["start_timeout"], "1m17s");
    node.act(&["stop"])?;
    no_process_and_mount(node.directory.path())
}

/// What a command of `husk` writes; one that fails is an error with what it says.
fn husk(node: &Node, words: &[&str]) -> Result<String> {
    output(&mut node.husk(words)?)
}

fn listed(node: &Node, words: &[&str]) -> Result<Vec<serde_json::Value>> {
    Ok(serde_json::from_str(&husk(node, words)?)?)
}

#[tokio::test]
async fn the_image_commands_pull_import_list_and_remove() -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("they are Husk's commands") {
        return Ok(());
    }
    let registry = node.registry(Access::Password)?;
    let image = |name: &str| {
        let layer = Layer::new().file("commanded", 0o644, name.as_bytes());
        anyhow::Ok(Image::busybox(name)?.layer(layer))
    };
    let pulled = registry.push("team/app:1", &[image("pulled")?])?;
    let layout = tempfile::tempdir()?;
    Image::write_layout(layout.path(), &[image("laid out")?])?;
    let login = layout.path().join("login");
    fs::write(&login, format!("{USER}:{PASSWORD}\n"))?;

    let refused = husk(&node, &["image", "pull", &pulled, "--creds", "me:wrong"]);
    let refused = format!("{:#}", refused.err().context("a wrong password is taken")?);
    ensure!(
        refused.contains("exit status: 77") && refused.contains("Unauthenticated"),
        "{refused}"
    );
    let login = login.display().to_string();
    let said = husk(&node, &["image", "pull", &pulled, "--creds-file", &login])?;
    ensure!(said.contains(": fetching "), "{said}");
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.starts_with(&format!("{pulled}  sha256:")), "{said}");
    let tag = "husk.test/laid-out:1";
    let place = layout.path().display().to_string();
    husk(&node, &["image", "import", &place, "--tag", tag])?;

    let table = husk(&node, &["image", "ls"])?;
    let images = listed(&node, &["image", "ls", "--json"])?;
    for name in [pulled.as_str(), tag] {
        ensure!(
            table.lines().any(|line| line.starts_with(name)),
            "{name} in\n{table}"
        );
        ensure!(
            images.iter().any(|it| it["tags"][0] == *name),
            "{images:#?}"
        );
    }
    let removed = husk(&node, &["image", "rm", &pulled, tag])?;
    assert_eq!(removed, format!("removed {pulled}\nremoved {tag}\n"));
    let client = node.client().await?;
    for name in [pulled.as_str(), tag] {
        ensure!(client.image(name).await?.is_none(), "{name} is still there");
    }
    let again = husk(&node, &["image", "rm", tag]);
    let again = format!("{:#}", again.err().context("nothing was removed")?);
    ensure!(again.contains("no such image"), "{again}");
    Ok(())
}

#[tokio::test]
async fn status_shows_what_runs_and_check_what_the_host_lacks() -> Result<()> {
    let pod = Pod::on_host("shown").await?;
    if pod.node.skips("they are Husk's commands") {
        return pod.delete().await;
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let pods = listed(&pod.node, &["status", "--json"])?;
    let shown = pods.iter().find(|it| it["id"] == pod.id.as_str());
    let shown = shown.with_context(|| format!("{} in {pods:#?}", pod.id))?;
    let monitor = process::monitor(&pod.id).context("no monitor")?;
    assert_eq!(shown["ready"], true);
    assert_eq!(shown["monitor"]["pid"], monitor.pid);
    assert!(shown["monitor"]["private_bytes"].as_u64() > Some(4096));
    let container = &shown["containers"][0];
    assert_eq!(
        (&container["id"], &container["state"]),
        (&json!(id), &json!("running"))
    );
    let table = husk(&pod.node, &["status"])?;
    let row = |id: &str| table.lines().find(|line| line.contains(&id[..12]));
    ensure!(
        row(&pod.id).is_some_and(|it| it.contains("test/shown")),
        "{table}"
    );
    ensure!(row(&id).is_some_and(|it| it.contains("running")), "{table}");

    // Pods run on this host, so nothing may be said that keeps them from it.
    let findings = listed(&pod.node, &["check", "--json"])?;
    for wanted in ["root", "overlay", "runtime.default", "monitor"] {
        let found = findings.iter().find(|it| it["check"] == wanted);
        assert_eq!(
            found.map(|it| &it["verdict"]),
            Some(&json!("ok")),
            "{findings:#?}"
        );
    }
    for finding in findings {
        let fine = finding["verdict"] == "ok";
        ensure!(finding["verdict"] != "fail", "{finding}");
        ensure!(finding["fix"].is_string() != fine, "{finding}");
    }
    pod.delete().await
}
