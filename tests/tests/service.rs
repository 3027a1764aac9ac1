//! Husk as a service of a real systemd, from the unit that is shipped: what its descriptor store is worth when the
//! daemon and a monitor are killed together, and which units a pod's processes are in. Where systemd is not the first
//! process this is skipped; `cargo xtask vm service` has it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use husk_tests::command::{command, output};
use husk_tests::config::security;
use husk_tests::cri::{self, ContainerState, NamespaceMode};
use husk_tests::process::{self, ends_are_kept, monitor, monitors};
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Client, Image, cgroup, container, logs, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{Mutex, MutexGuard};

const UNIT: &str = "husk-test.service";
const SLICE: &str = "husktest.slice";

/// The unit under another name, with the program and the configuration of this test. Stopped and removed on drop.
struct Service {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// Held by the one test that has the unit.
static ALONE: Mutex<()> = Mutex::const_new(());

impl Service {
    async fn start() -> Result<Self> {
        let service = Self {
            _alone: ALONE.lock().await,
            directory: tempfile::Builder::new()
                .prefix("ht-")
                .tempdir_in("/var/lib")?,
        };
        let place = service.directory.path().display();
        let configuration = format!(
            "root = \"{place}/root\"\nrun = \"{place}/run\"\nsocket = \"{place}/husk.sock\"\n\
             [network]\nconf_dir = \"{place}/cni\"\n[monitor]\npath = \"{}\"\n\
             [nri]\nsocket = \"{place}/nri.sock\"\n",
            settings::pod_monitor()?.display()
        );
        fs::create_dir(service.directory.path().join("cni"))?;
        fs::write(service.configuration(), configuration)?;
        let shipped = include_str!("../../controller/packaging/husk.service");
        let start = format!(
            "ExecStart={} serve --config {}",
            settings::husk()?.display(),
            service.configuration().display()
        );
        let unit = shipped.replace("ExecStart=/usr/bin/husk serve", &start);
        ensure!(unit.contains(&start), "the unit starts something else");
        fs::write(unit_file(), unit)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", UNIT])?;
        Ok(service)
    }

    fn configuration(&self) -> PathBuf {
        self.directory.path().join("husk.toml")
    }

    async fn client(&self) -> Result<Client> {
        Client::connect(&self.directory.path().join("husk.sock")).await
    }

    /// Waits for another daemon than the one of this process id.
    async fn restarted(&self, before: u32) -> Result<Client> {
        wait_for("systemd starts another daemon", DEADLINE, async || {
            let main = property("MainPID").ok()?.parse::<u32>().ok()?;
            let client = self.client().await.ok()?;
            let answers = client.version().await.is_ok();
            (main > 0 && main != before && answers).then_some(client)
        })
        .await
    }

    fn import(&self) -> Result<()> {
        let archive = self.directory.path().join("image.tar");
        Image::busybox(BUSYBOX)?.write_archive(&archive)?;
        let mut import = command(settings::husk()?);
        import.args(["image", "import", "--config"]);
        output(import.arg(self.configuration()).arg(archive)).map(drop)
    }

    fn pod(&self, pid: NamespaceMode) -> cri::PodSandboxConfig {
        let name = format!("service-{}", pid.as_str_name());
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.clone(),
                uid: name,
                namespace: "test".into(),
                attempt: 0,
            }),
            log_directory: self.directory.path().join("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: SLICE.into(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(pid)),
                    ..cri::LinuxSandboxSecurityContext::default()
                }),
                ..cri::LinuxPodSandboxConfig::default()
            }),
            ..cri::PodSandboxConfig::default()
        }
    }
}

impl Drop for Service {
    #[expect(
        clippy::print_stderr,
        reason = "the end of the log of a test that failed"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = output(command("journalctl").args(["-u", UNIT, "-n", "50", "--no-pager"]));
            eprintln!("{}", log.unwrap_or_default());
        }
        for words in [
            &["stop", UNIT][..],
            &["stop", SLICE],
            &["reset-failed", UNIT],
        ] {
            let _not_there = systemctl(words);
        }
        let _not_there = fs::remove_file(unit_file());
        let _not_there = systemctl(&["daemon-reload"]);
    }
}

fn namespaces(pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: pid.into(),
        ..cri::NamespaceOption::default()
    }
}

fn unit_file() -> PathBuf {
    Path::new("/run/systemd/system").join(UNIT)
}

fn systemctl(words: &[&str]) -> Result<String> {
    output(command("systemctl").args(words))
}

fn property(name: &str) -> Result<String> {
    let property = format!("--property={name}");
    Ok(systemctl(&["show", "--value", &property, UNIT])?
        .trim()
        .to_owned())
}

/// How many descriptors systemd keeps for the service.
async fn stores(count: u32) -> Result<()> {
    wait_for(
        &format!("{count} stored descriptors"),
        DEADLINE,
        async || {
            let stored = property("NFileDescriptorStore").ok()?;
            (stored == count.to_string()).then_some(())
        },
    )
    .await
    .with_context(|| property("NFileDescriptorStore").unwrap_or_default())
}

/// Numbers that come one after the other, but for what the dead monitors had in their hands.
fn counted(log: &Path, deaths: usize) -> Result<usize> {
    let (mut next, mut gaps) = (0, 0);
    let lines = logs::read(log)?;
    for line in &lines {
        let number: usize = line.text.parse().with_context(|| format!("{line:?}"))?;
        ensure!(number >= next, "{number} comes again");
        gaps += usize::from(number > next);
        next = number + 1;
    }
    ensure!(gaps <= deaths, "{gaps} gaps after {deaths} deaths");
    Ok(lines.len())
}

/// Says why where it is so.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skips() -> bool {
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let skips = first.trim() != "systemd";
    if skips {
        eprintln!(
            "SKIPPED: the first process is {:?} and not systemd",
            first.trim()
        );
    }
    skips || settings::skips("it starts Husk as a service")
}

#[tokio::test]
async fn systemd_keeps_what_pods_depend_on_when_daemon_and_monitor_are_killed() -> Result<()> {
    if skips() {
        return Ok(());
    }
    let service = Service::start().await?;
    service.import()?;
    let mut client = service.client().await?;
    let config = service.pod(NamespaceMode::Container);
    let log = Path::new(&config.log_directory).join("main.log");
    let pod = client.run_pod(&config).await?;
    let script = "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let id = client
        .launch(&pod, &config, container("main", script))
        .await?;
    stores(3).await?;
    let deaths = 2;
    for _ in 0..deaths {
        let daemon: u32 = property("MainPID")?.parse()?;
        let monitor = monitor(&pod).context("no monitor")?.pid;
        for pid in [daemon, monitor] {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        }
        client = service.restarted(daemon).await?;
        let status = client.container_status(&id).await?;
        assert_eq!(
            status.state(),
            ContainerState::ContainerRunning,
            "{status:?}"
        );
        let before = counted(&log, deaths)?;
        wait_for("more lines", DEADLINE, async || {
            (counted(&log, deaths).ok()? > before + 5).then_some(())
        })
        .await?;
        // Neither lost nor stored a second time.
        stores(3).await?;
    }
    // A daemon that comes back to a monitor that lives stores nothing twice either.
    let daemon: u32 = property("MainPID")?.parse()?;
    systemctl(&["restart", UNIT])?;
    client = service.restarted(daemon).await?;
    stores(3).await?;
    client.stop(&id, 20).await?;
    let code = client.container_status(&id).await?.exit_code;
    ensure!(
        code == 7 || code == 255 && !ends_are_kept(),
        "exit code {code}"
    );
    stores(0).await?;
    Ok(client.delete_pod(&pod).await?)
}

/// A pod of each kind of PID namespace, with one container.
struct Accounted {
    id: String,
    container: String,
}

impl Accounted {
    async fn run(service: &Service, client: &Client, pid: NamespaceMode) -> Result<Self> {
        let config = service.pod(pid);
        let id = client.run_pod(&config).await?;
        let mut container = container("main", "trap 'exit 0' TERM; while :; do sleep 0.2; done");
        security(&mut container).namespace_options = Some(namespaces(pid));
        let container = client.launch(&id, &config, container).await?;
        Ok(Self { id, container })
    }

    /// The processes in a scope of the pod.
    fn scope(name: &str) -> Vec<u32> {
        cgroup::processes(&cgroup::tracking_root().join(SLICE).join(name))
    }

    /// Waits until the monitor, and the init where there is one, are in the monitor's scope, and only the daemon in
    /// the service.
    async fn settles(&self, processes: usize) -> Result<()> {
        let look = || {
            let pids = monitors(&self.id).into_iter().map(|process| process.pid);
            let scope = Self::scope(&format!("pod-monitor-{}.scope", self.id));
            let service = cgroup::tracking_root().join("system.slice").join(UNIT);
            (pids.collect::<Vec<_>>(), scope, cgroup::processes(&service))
        };
        let daemon: u32 = property("MainPID")?.parse()?;
        wait_for("the pod is in its own scopes", DEADLINE, async || {
            let (pids, scope, service) = look();
            let whole = pids.len() == processes && pids.iter().all(|pid| scope.contains(pid));
            (whole && service == [daemon]).then_some(())
        })
        .await
        .with_context(|| format!("monitors, scope, service of {daemon}: {:?}", look()))
    }

    /// Leaves a process behind by an exec, which has to be in the container's scope.
    async fn executes(&self, client: &Client, seconds: &str) -> Result<()> {
        let script = format!("sleep {seconds} </dev/null >/dev/null 2>&1 &");
        client.shell(&self.container, &script).await?;
        wait_for(
            "the exec is in the container's scope",
            DEADLINE,
            async || {
                let scope = Self::scope(&format!("husk-{}.scope", self.container));
                let mut found = scope.into_iter().filter_map(process::Process::find);
                found
                    .any(|process| process.arguments.iter().any(|word| word == seconds))
                    .then_some(())
            },
        )
        .await
    }
}

#[tokio::test]
async fn all_of_a_pod_is_in_its_own_scopes_also_after_its_monitor_was_killed() -> Result<()> {
    if skips() {
        return Ok(());
    }
    let service = Service::start().await?;
    service.import()?;
    let client = service.client().await?;
    let mut pods = Vec::new();
    // (its PID namespace, the monitor and what it has forked)
    for (pid, processes) in [(NamespaceMode::Pod, 2), (NamespaceMode::Container, 1)] {
        let pod = Accounted::run(&service, &client, pid).await?;
        pod.settles(processes).await?;
        pod.executes(&client, "4242").await?;
        pods.push((pod, processes));
    }
    for (pod, processes) in &pods {
        // The second time there is a scope that was joined, or made anew.
        for seconds in ["4243", "4244"] {
            let killed = monitor(&pod.id).context("no monitor")?.pid;
            kill(Pid::from_raw(i32::try_from(killed)?), Signal::SIGKILL)?;
            wait_for("another monitor", DEADLINE, async || {
                monitor(&pod.id).filter(|found| found.pid != killed)
            })
            .await?;
            pod.settles(*processes).await?;
            pod.executes(&client, seconds).await?;
            pod.settles(*processes).await?;
        }
    }
    for (pod, _) in pods {
        client.delete_pod(&pod.id).await?;
        let scope = Accounted::scope(&format!("pod-monitor-{}.scope", pod.id));
        ensure!(scope.is_empty(), "{scope:?} outlive their pod");
    }
    Ok(())
}
