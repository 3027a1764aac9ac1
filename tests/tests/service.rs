//! Husk as a service of a real systemd, from the unit that is shipped: what its descriptor store is worth when the
//! daemon and a monitor are killed together. Where systemd is not the first process this is skipped; `cargo xtask vm
//! service` has it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use husk_tests::command::{command, output};
use husk_tests::cri::{self, ContainerState, NamespaceMode};
use husk_tests::process::{ends_are_kept, monitor};
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Client, Image, container, logs, settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const UNIT: &str = "husk-test.service";
const SLICE: &str = "husktest.slice";

/// The unit under another name, with the program and the configuration of this test. Stopped and removed on drop.
struct Service {
    directory: tempfile::TempDir,
}

impl Service {
    fn start() -> Result<Self> {
        let service = Self {
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

    fn pod(&self) -> cri::PodSandboxConfig {
        let options = cri::NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Container.into(),
            ..cri::NamespaceOption::default()
        };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "service".into(),
                uid: "service".into(),
                namespace: "test".into(),
                attempt: 0,
            }),
            log_directory: self.directory.path().join("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: SLICE.into(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
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
    let service = Service::start()?;
    service.import()?;
    let mut client = service.client().await?;
    let config = service.pod();
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
