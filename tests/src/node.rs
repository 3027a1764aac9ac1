//! A node to test on: a private `husk serve`, or a CRI endpoint that runs already.
//!
//! A private node lives in a mount and a network namespace of its own, which a holder process keeps open, so that
//! a restarted daemon comes back to its pods' mounts and no bridge or firewall rule touches the machine. On a hybrid
//! cgroup host the version 2 hierarchy is unmounted there, because crun 1.8 refuses to run beside it.
//! Everything lies below one short temporary directory and one cgroup, by which it is found and removed again.

mod daemon;
mod elsewhere;
mod holder;
mod images;
mod layout;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::client::Client;
use crate::command::output;
use crate::cri;
use crate::image::Image;
use crate::process::Process;
use crate::service::ServiceManager;
use crate::shared::Shared;
use crate::wait::wait_blocking;
use crate::wait::{DEADLINE, wait_for};
use crate::{BUSYBOX, PAUSE, Snapshot, cgroup, settings};
use holder::Holder;

/// What a test wants different from the default node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// TOML of a drop-in that is merged over the configuration.
    pub configuration: String,
    /// A CNI network list in place of the bridge; an empty string writes none at all.
    pub network: Option<String>,
    /// The contents of registries.conf.
    pub registries: String,
    /// A feature of the pods' monitor that is for suites alone: see [`settings::pod_monitor_with`]. The suites' daemon
    /// always has fault points.
    pub monitor: Option<&'static str>,
    /// A shell script that runs inside the node's namespaces before the daemon does; `$0` is the node's directory.
    pub prepare: String,
    /// What starts the daemon and keeps its descriptors, as systemd would.
    pub service: Option<Arc<ServiceManager>>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Node {
    place: Place,
    directory: TempDir,
    cgroup: String,
    service: Option<Arc<ServiceManager>>,
}

#[derive(Debug)]
enum Place {
    Private {
        holder: Holder,
        daemon: Mutex<Option<Child>>,
    },
    Elsewhere {
        socket: PathBuf,
        network: Option<u32>,
        /// The registries that ended with this node, as `host:port`.
        registries: Mutex<Vec<String>>,
    },
}

static SHARED: Shared<Node> = Shared::new();
static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Node {
    /// The node that the tests of one program share; it ends with the last test that holds it.
    pub async fn shared() -> Result<Arc<Self>> {
        SHARED.get(Self::start(NodeOptions::default())).await
    }

    /// A node of its own with the busybox image, ready for calls.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup::name(&format!("husk-test-{}-{number}", std::process::id()));
        let directory = tempfile::Builder::new().prefix("ht-").tempdir_in("/tmp")?;
        // The root of a pod's user namespace has to get to its root file system below.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        let place = match settings::endpoint() {
            Some(socket) => Place::Elsewhere {
                socket,
                network: settings::endpoint_pid(),
                registries: Mutex::default(),
            },
            None => Place::Private {
                holder: Holder::start(&cgroup::tracking_root().join(&cgroup), directory.path())?,
                daemon: Mutex::new(None),
            },
        };
        let node = Self {
            place,
            directory,
            cgroup,
            service: options.service.clone(),
        };
        cgroup::make(&node.cgroup).context("make the cgroup of the node's pods")?;
        if node.is_husk() {
            layout::write(node.directory(), &options)?;
            node.script(&options.prepare)?;
        }
        node.launch().await?;
        node.import(&Image::busybox(BUSYBOX)?)?;
        if !node.is_husk() {
            let sleep = json!(["/bin/sleep", "2147483647"]);
            node.import(&Image::busybox(PAUSE)?.with("Cmd", sleep))?;
        }
        Ok(node)
    }

    /// Whether this is Husk, started by the harness; only then are its monitors and files known.
    pub fn is_husk(&self) -> bool {
        matches!(self.place, Place::Private { .. })
    }

    /// Whether this is another runtime; says why the caller skips something then.
    pub fn skips(&self, reason: &str) -> bool {
        !self.is_husk() && settings::skips(reason)
    }

    /// Everything of a private node lies below this directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self) -> PathBuf {
        match &self.place {
            Place::Private { .. } => self.directory().join("husk.sock"),
            Place::Elsewhere { socket, .. } => socket.clone(),
        }
    }

    /// A process in the node's network namespace; `None` where that is this process's own.
    pub fn network(&self) -> Option<u32> {
        match &self.place {
            Place::Private { holder, .. } => Some(holder.pid()),
            Place::Elsewhere { network, .. } => *network,
        }
    }

    /// The cgroup parent of the node's pods, as a CRI client names it.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// A cgroup parent for one pod alone.
    pub fn cgroup_parent_of(&self, pod: &str) -> String {
        cgroup::child(&self.cgroup_parent(), pod)
    }

    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket()).await
    }

    /// A pod configuration on the pod network, with a fresh uid and a log directory.
    pub fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{}-{number}", self.cgroup);
        cri::PodSandboxConfig {
            log_directory: self
                .directory()
                .join("logs")
                .join(&uid)
                .display()
                .to_string(),
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "test".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The same on the node's own network: quicker, and without CNI.
    pub fn host_pod(&self, name: &str) -> cri::PodSandboxConfig {
        let mut config = self.pod(name);
        crate::config::namespaces(&mut config).network = cri::NamespaceMode::Node.into();
        config.hostname.clear();
        config
    }

    /// Lets one pod come and go, and returns what then is there: a bridge, directories and database pages stay by
    /// design, and are no leftover of the pods that follow.
    pub async fn settled(&self) -> Result<Snapshot> {
        let client = self.client().await?;
        for config in [self.pod("settling"), self.host_pod("settling")] {
            let pod = client.run_pod(&config).await?;
            client
                .launch(&pod, &config, crate::container("main", "exec sleep 600"))
                .await?;
            client.delete_pod(&pod).await?;
        }
        Ok(self.snapshot())
    }

    /// Fails with what is more or less than in `before`, once it has had time to go. What another runtime holds is not
    /// known.
    pub async fn assert_settles(&self, before: &Snapshot) -> Result<()> {
        if !self.is_husk() {
            return Ok(());
        }
        let same = wait_for("all is as before", DEADLINE / 3, async || {
            before.assert_same(&self.snapshot()).ok()
        });
        same.await
            .or_else(|_late| before.assert_same(&self.snapshot()))
    }

    /// Has the daemon or a monitor `fail`, `wait` or `abort` at a fault point: see the crate `fault-point`.
    pub fn arm(&self, point: &str, order: &str) -> Result<()> {
        let points = self.directory().join(fault_point::DIRECTORY);
        fs::remove_dir_all(&points)?;
        fs::create_dir(&points)?;
        Ok(fs::write(points.join(point), order)?)
    }

    /// Lets go on what waits at a fault point.
    pub fn release(&self, point: &str) -> Result<()> {
        let points = self.directory().join(fault_point::DIRECTORY);
        Ok(fs::write(points.join(format!("{point}.go")), "")?)
    }

    /// Whether an armed fault point was passed.
    pub fn hit(&self, point: &str) -> bool {
        let points = self.directory().join(fault_point::DIRECTORY);
        points.join(format!("{point}.hit")).exists()
    }

    /// A command inside the node's mount and network namespaces.
    pub fn enter(&self, program: &Path) -> Result<std::process::Command> {
        let Place::Private { holder, .. } = &self.place else {
            bail!("this endpoint is not Husk")
        };
        Ok(holder.enter(program))
    }

    /// Runs a shell script inside the node's namespaces and returns what it wrote; `$0` is the node's directory.
    pub fn script(&self, script: &str) -> Result<String> {
        let script = format!("set -e; {script}");
        output(
            self.enter(Path::new("sh"))?
                .args(["-c", &script])
                .arg(self.directory()),
        )
    }

    /// A path as it is inside the node's mount namespace, seen from here.
    pub fn seen_inside(&self, path: &Path) -> PathBuf {
        let pid = self.network().unwrap_or_else(std::process::id);
        Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A `husk` command inside the node's namespaces, with its configuration.
    pub fn husk(&self, words: &[&str]) -> Result<std::process::Command> {
        let mut husk = self.enter(&settings::husk()?)?;
        husk.args(words)
            .arg("--config")
            .arg(self.directory().join("husk.toml"));
        Ok(husk)
    }

    /// What the node holds of the machine at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let holder = self.network().unwrap_or_else(std::process::id);
        let directory = self.directory().display().to_string();
        let name = self.cgroup.clone();
        let pids = cgroup::processes(&cgroup::tracking_root().join(&self.cgroup));
        let mut snapshot = Snapshot::machine(holder)
            .only("mounts", move |line| {
                line.starts_with(&directory) || line.contains("nsfs")
            })
            .only("network namespaces", |_line| false)
            .only("cgroups", move |line| {
                line.split('/').any(|part| part == name)
            })
            .with_processes(&pids);
        if let Some(daemon) = self.daemon() {
            snapshot = snapshot.with_descriptors(daemon);
        }
        for part in ["root", "run", "ipam", "cni-cache"] {
            snapshot = snapshot.with_files(&self.directory().join(part));
        }
        snapshot
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("husk.log")
    }

    /// The last `count` lines of the daemon's log.
    pub fn log_tail(&self, count: usize) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Every process of this node, the daemon included.
    pub fn processes(&self) -> Vec<Process> {
        let pids = cgroup::processes(&cgroup::tracking_root().join(&self.cgroup));
        pids.into_iter().filter_map(Process::find).collect()
    }

    #[expect(
        clippy::print_stderr,
        reason = "the one thing a failed test leaves for its reader"
    )]
    fn keep_log(&self) {
        let Ok(target) = settings::target_directory() else {
            return;
        };
        let kept = target
            .join("test-logs")
            .join(format!("{}.log", self.cgroup));
        let copied = fs::create_dir_all(target.join("test-logs"))
            .and_then(|()| fs::copy(self.log_file(), &kept));
        if copied.is_ok() {
            eprintln!(
                "--- the daemon's log is kept at {}; it ends:\n{}",
                kept.display(),
                self.log_tail(30)
            );
        }
    }

    /// Kills every process of the node; tells whether all are gone.
    fn kill_all(&self) -> bool {
        let top = cgroup::tracking_root().join(&self.cgroup);
        wait_blocking(Duration::from_secs(10), || {
            let left = cgroup::processes(&top);
            for pid in left.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            left.is_empty()
        })
    }

    /// Kills what is left and removes cgroups; namespaces and files end with their owners.
    fn sweep(&self) {
        if self.kill_all() {
            wait_blocking(Duration::from_secs(5), || {
                cgroup::remove(&self.cgroup);
                cgroup::named(&self.cgroup).is_empty()
            });
        }
    }
}

impl Drop for Node {
    #[expect(
        clippy::print_stderr,
        reason = "nobody is left to return it to, and a later round would fail of it"
    )]
    fn drop(&mut self) {
        if let Err(error) = self.remove_pulled() {
            eprintln!("images that were pulled stay: {error:#}");
        }
        if std::thread::panicking() && self.is_husk() {
            self.keep_log();
        }
        let _reported_by_sweep = self.end_daemon(Signal::SIGTERM);
        self.sweep();
        if settings::keep() {
            self.directory.disable_cleanup(true);
        }
    }
}
