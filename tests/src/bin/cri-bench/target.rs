//! A runtime under measurement: a Husk of our own, or an endpoint that runs already.
//!
//! The daemon of an endpoint is found by its socket. It is started again after a kill from its own command line, in
//! its own namespaces, so that a restart needs no script for each runtime.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use husk_tests::command::{command, output};
use husk_tests::wait::{DEADLINE, wait_blocking, wait_for};
use husk_tests::{BUSYBOX, Client, Image, Node, NodeOptions, cgroup, config, container, cri};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

/// What every process of a workload has as its last argument, and no other process of the machine.
pub(crate) const WORKLOAD: &str = "31536007";
/// The image of the pause containers of runtimes that need one. The same busybox stands in for it.
const PAUSE: &str = "husk.test/pause:1";

/// A runtime that runs already.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) import: Vec<String>,
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, socket) = text.split_once('=').ok_or("NAME=SOCKET is wanted")?;
        let socket = socket.strip_prefix("unix://").unwrap_or(socket);
        Ok(Self {
            name: name.to_owned(),
            socket: PathBuf::from(socket),
            import: Vec::new(),
        })
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Target {
    place: Place,
    pub(crate) name: String,
    pub(crate) daemon: u32,
    counter: AtomicUsize,
}

#[derive(Debug)]
enum Place {
    Own(Box<Node>),
    Elsewhere {
        endpoint: Endpoint,
        directory: TempDir,
        parent: String,
        revived: Option<Child>,
    },
}

/// On which network a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Network {
    Host,
    Cni,
}

impl Target {
    /// Starts a Husk with `oci_runtime`, or connects to what runs, and loads the image.
    pub(crate) async fn open(endpoint: Option<Endpoint>, oci_runtime: &str) -> Result<Self> {
        let Some(endpoint) = endpoint else {
            let options = NodeOptions {
                configuration: format!("[runtime]\ndefault = {oci_runtime:?}\n"),
                ..NodeOptions::default()
            };
            let node = Node::start(options).await?;
            return Ok(Self {
                daemon: node
                    .daemon()
                    .context("this node has no daemon of its own")?,
                place: Place::Own(Box::new(node)),
                name: "husk".to_owned(),
                counter: AtomicUsize::new(0),
            });
        };
        let directory = tempfile::Builder::new().prefix("ht-").tempdir_in("/tmp")?;
        let words = format!("husk-bench-{}-{}", std::process::id(), endpoint.name);
        let parent = cgroup::name(&words);
        cgroup::make(&parent).context("make the cgroup of the pods")?;
        let mut target = Self {
            daemon: 0,
            name: endpoint.name.clone(),
            place: Place::Elsewhere {
                endpoint,
                directory,
                parent,
                revived: None,
            },
            counter: AtomicUsize::new(0),
        };
        target.daemon = target.listener().await?;
        target.import(&Image::busybox(BUSYBOX)?)?;
        let words = json!(["/bin/sleep", "2147483647"]);
        let pause = Image::busybox(PAUSE)?.with("Cmd", words);
        target.import(&pause)?;
        Ok(target)
    }

    fn socket(&self) -> PathBuf {
        match &self.place {
            Place::Own(node) => node.socket(),
            Place::Elsewhere { endpoint, .. } => endpoint.socket.clone(),
        }
    }

    /// The process that listens on the socket (unix(7), SO_PEERCRED).
    async fn listener(&self) -> Result<u32> {
        let socket = self.socket();
        let stream = tokio::net::UnixStream::connect(&socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let pid = stream
            .peer_cred()?
            .pid()
            .context("the listener has no pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// The directory of a node of our own.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Own(node) => Some(node.directory().to_owned()),
            Place::Elsewhere { .. } => None,
        }
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket()).await
    }

    fn import(&self, image: &Image) -> Result<()> {
        let Place::Elsewhere {
            endpoint,
            directory,
            ..
        } = &self.place
        else {
            bail!("a node of the harness imports for itself")
        };
        let archive = directory.path().join("image.tar");
        image.write_archive(&archive)?;
        let (program, arguments) = endpoint.import.split_first().context("--import is empty")?;
        output(command(program).args(arguments).arg(&archive))?;
        Ok(fs::remove_file(&archive)?)
    }

    /// The cgroup below which every pod is.
    pub(crate) fn cgroup(&self) -> String {
        match &self.place {
            Place::Own(node) => node.cgroup_parent().trim_start_matches('/').to_owned(),
            Place::Elsewhere { parent, .. } => parent.clone(),
        }
    }

    /// A pod configuration with a uid of its own.
    pub(crate) fn pod(&self, network: Network) -> cri::PodSandboxConfig {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{number}");
        match &self.place {
            Place::Own(node) if network == Network::Host => node.host_pod(&name),
            Place::Own(node) => node.pod(&name),
            Place::Elsewhere {
                directory, parent, ..
            } => {
                let uid = format!("{parent}-{number}");
                let mut pod = cri::PodSandboxConfig {
                    log_directory: directory.path().join(&uid).display().to_string(),
                    metadata: Some(cri::PodSandboxMetadata {
                        name: name.clone(),
                        uid,
                        namespace: "bench".to_owned(),
                        attempt: 0,
                    }),
                    ..Default::default()
                };
                let namespaces = config::namespaces(&mut pod);
                namespaces.pid = cri::NamespaceMode::Container.into();
                if network == Network::Host {
                    namespaces.network = cri::NamespaceMode::Node.into();
                } else {
                    pod.hostname = name;
                }
                pod.linux.get_or_insert_default().cgroup_parent = format!("/{parent}");
                pod
            }
        }
    }

    /// Kills the daemon without warning and starts it again; ends when it answers.
    pub(crate) async fn crash(&mut self) -> Result<Duration> {
        let began = match &mut self.place {
            Place::Own(node) => {
                node.end_daemon(Signal::SIGKILL)?;
                let began = std::time::Instant::now();
                node.launch().await?;
                began
            }
            Place::Elsewhere { revived, .. } => {
                let mut next = successor(self.daemon)?;
                let pid = Pid::from_raw(i32::try_from(self.daemon)?);
                kill(pid, Signal::SIGKILL)?;
                if let Some(mut child) = revived.take() {
                    child.wait()?;
                }
                let path = format!("/proc/{pid}/exe");
                let gone = wait_blocking(DEADLINE, || fs::read_link(&path).is_err());
                anyhow::ensure!(gone, "process {pid} did not end");
                let began = std::time::Instant::now();
                writeln!(next.stdin.take().context("its input")?)?;
                *revived = Some(next);
                began
            }
        };
        wait_for("the runtime answers again", DEADLINE, async || {
            self.client().await.ok()?.pods(None).await.ok()
        })
        .await?;
        let took = began.elapsed();
        self.daemon = self.listener().await?;
        Ok(took)
    }
}

/// A process in the namespaces of `pid` that becomes the same program once it reads a line.
fn successor(pid: u32) -> Result<Child> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let mut words: Vec<_> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    words.pop();
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let (_name, arguments) = words.split_first().context("an empty command line")?;
    let mut enter = command("nsenter");
    enter
        .arg(format!("--target={pid}"))
        .args([
            "--all",
            "--",
            "sh",
            "-c",
            "echo; read -r _go && exec \"$@\" >/dev/null",
            "sh",
        ])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut next = enter.spawn().context("start nsenter")?;
    // The namespaces of a process that has ended cannot be entered any more.
    let mut inside = next.stdout.take().context("its output")?;
    inside.read_exact(&mut [0]).context("enter namespaces")?;
    Ok(next)
}

impl Drop for Target {
    /// A daemon that was started again here belongs to nobody else.
    fn drop(&mut self) {
        let Place::Elsewhere {
            parent, revived, ..
        } = &mut self.place
        else {
            return;
        };
        wait_blocking(Duration::from_secs(5), || {
            cgroup::remove(parent);
            cgroup::named(parent).is_empty()
        });
        if let Some(child) = revived {
            let pid = Pid::from_raw(i32::try_from(self.daemon).unwrap_or_default());
            if pid.as_raw() > 1 {
                let _gone = kill(pid, Signal::SIGTERM);
            }
            let _status = child.wait();
        }
    }
}

/// A container that does nothing for a year.
pub(crate) fn sleeper(number: usize) -> cri::ContainerConfig {
    container(&format!("c{number}"), &format!("exec sleep {WORKLOAD}"))
}
