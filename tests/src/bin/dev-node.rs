//! What `hack/dev-node` does: a `husk serve` to play with, whose state, configuration, socket, pid and log lie in DIR.
//!
//! The daemon runs in a mount namespace that a holder process keeps, so that pods keep their mounts over a restart;
//! on a hybrid cgroup host the version 2 hierarchy is hidden there. The network is the machine's own.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use husk_tests::command::{command, output};
use husk_tests::process::Process;
use husk_tests::wait::{DEADLINE, wait_blocking, wait_for};
use husk_tests::{Client, cgroup, settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// A node to play with.
#[derive(Debug, Parser)]
#[command(name = "hack/dev-node")]
struct Arguments {
    /// Where everything lies
    directory: PathBuf,
    #[arg(value_enum, default_value = "start")]
    action: Action,
    /// A configuration that becomes DIR/husk.toml; paths below DIR are set over it
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Start,
    Restart,
    Stop,
}

/// The chains that the portmap plugin makes once and never takes away.
const PORTMAP_CHAINS: &[(&str, &[&str])] = &[
    ("CNI-HOSTPORT-DNAT", &["PREROUTING", "OUTPUT"]),
    ("CNI-HOSTPORT-MASQ", &["POSTROUTING"]),
    ("CNI-HOSTPORT-SETMARK", &[]),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.directory)?;
    let node = DevNode {
        directory: arguments.directory.canonicalize()?,
    };
    match arguments.action {
        Action::Stop => node.stop().await,
        Action::Restart => {
            node.end_daemon()?;
            node.start(arguments.config.as_deref()).await
        }
        Action::Start => node.start(arguments.config.as_deref()).await,
    }
}

#[derive(Debug)]
struct DevNode {
    directory: PathBuf,
}

impl DevNode {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("husk.sock")
    }

    async fn start(&self, config: Option<&Path>) -> Result<()> {
        if let Some(daemon) = self.process("husk.pid") {
            bail!(
                "husk runs already as process {}: restart or stop it",
                daemon.pid
            );
        }
        self.configure(config)?;
        let holder = self.holder()?;
        let log = self.log()?;
        let mut serve = command("nsenter");
        serve
            .arg(format!("--target={holder}"))
            .args(["--mount", "--"])
            .arg(settings::husk()?);
        serve
            .arg("serve")
            .arg("--config")
            .arg(self.path("husk.toml"));
        serve
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut daemon = serve.spawn().context("start husk serve")?;
        fs::write(self.path("husk.pid"), format!("{}\n", daemon.id()))?;
        let ready = wait_for("husk answers", DEADLINE, async || {
            if !matches!(daemon.try_wait(), Ok(None)) {
                return Some(false);
            }
            Some(
                Client::connect(&self.socket())
                    .await
                    .ok()?
                    .status()
                    .await
                    .is_ok(),
            )
        });
        ensure!(
            ready.await?,
            "husk has ended: see {}",
            self.path("husk.log").display()
        );
        say(&format!(
            "husk runs as process {} on unix://{}",
            daemon.id(),
            self.socket().display()
        ));
        Ok(())
    }

    fn log(&self) -> Result<fs::File> {
        let mut options = fs::File::options();
        let opened = options
            .append(true)
            .create(true)
            .open(self.path("husk.log"));
        opened.context("open husk.log")
    }

    /// Writes the paths below DIR as the last drop-in, so that they win over any configuration given.
    fn configure(&self, config: Option<&Path>) -> Result<()> {
        fs::create_dir_all(self.path("husk.toml.d"))?;
        match config {
            Some(file) => drop(
                fs::copy(file, self.path("husk.toml"))
                    .with_context(|| format!("copy {}", file.display()))?,
            ),
            None => drop(
                fs::File::options()
                    .append(true)
                    .create(true)
                    .open(self.path("husk.toml"))?,
            ),
        }
        let place = self.directory.display();
        let mut text = format!(
            "root = \"{place}/root\"\nrun = \"{place}/run\"\nsocket = \"{place}/husk.sock\"\n"
        );
        text += &format!(
            "[monitor]\npath = \"{}\"\n",
            settings::pod_monitor()?.display()
        );
        text += &format!("[nri]\nsocket = \"{place}/nri.sock\"\n");
        text += &format!(
            "[network]\nconf_dir = \"{}\"\n[image]\n",
            self.network()?.display()
        );
        if self.path("registries.conf").exists() {
            text += &format!("registries_conf = \"{place}/registries.conf\"\n");
        }
        if self.path("certs.d").exists() {
            text += &format!("certs_dirs = [\"{place}/certs.d\"]\n");
        }
        Ok(fs::write(self.path("husk.toml.d/99-dev-node.toml"), text)?)
    }

    /// The directory of the CNI configuration found in DIR, or a new one with a bridge.
    fn network(&self) -> Result<PathBuf> {
        let has_network = |directory: &PathBuf| {
            let files = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            let mut kinds =
                files.filter_map(|file| Some(file.extension()?.to_string_lossy().into_owned()));
            kinds.any(|kind| ["conf", "conflist", "json"].contains(&kind.as_str()))
        };
        let places = ["cni/net.d", "net.d", "cni"].map(|name| self.path(name));
        if let Some(found) = places.into_iter().find(has_network) {
            return Ok(found);
        }
        let directory = self.path("cni");
        fs::create_dir_all(&directory)?;
        fs::write(
            directory.join("10-dev-node.conflist"),
            self.bridge_network().to_string(),
        )?;
        let chains = output(command("iptables").args(["-t", "nat", "-S"])).unwrap_or_default();
        if !chains.contains("CNI-HOSTPORT") {
            fs::write(self.path(".portmap-is-ours"), "")?;
        }
        Ok(directory)
    }

    fn bridge_network(&self) -> serde_json::Value {
        let (bridge, number) = self.bridge();
        let ranges = json!([[{"subnet": format!("10.{number}.0.0/16")}]]);
        let ipam = json!({
            "type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": self.path("ipam"),
        });
        let plugins = json!([
            {"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ]);
        json!({"cniVersion": "1.0.0", "name": bridge, "plugins": plugins})
    }

    /// A bridge name and a second address byte of this directory's own.
    fn bridge(&self) -> (String, u8) {
        let hash = husk_tests::image::hash(self.directory.to_string_lossy().as_bytes());
        let number = u8::from_str_radix(&hash[..2], 16).unwrap_or_default();
        (format!("husk-{}", &hash[..8]), 64 + number % 128)
    }

    /// The process that keeps the mount namespace, started where there is none.
    fn holder(&self) -> Result<u32> {
        if let Some(holder) = self.process(".holder.pid") {
            return Ok(holder.pid);
        }
        let hide = cgroup::hide_unified();
        let mut unshare = command("unshare");
        unshare.args([
            "--mount",
            "sh",
            "-c",
            &format!("{hide}touch \"$0/.ready\" && exec tail -f /dev/null \"$0/.ready\""),
        ]);
        // Whoever reads what this program says must not wait for the holder, too.
        unshare
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log()?)
            .process_group(0);
        let _absent = fs::remove_file(self.path(".ready"));
        let holder = unshare.spawn().context("make a mount namespace")?.id();
        ensure!(
            wait_blocking(DEADLINE, || self.path(".ready").exists()),
            "no mount namespace could be made"
        );
        fs::write(self.path(".holder.pid"), holder.to_string())?;
        Ok(holder)
    }

    /// The process of a pid file, if it still runs and is this directory's.
    fn process(&self, file: &str) -> Option<Process> {
        let pid = fs::read_to_string(self.path(file))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let place = self.directory.to_string_lossy().into_owned();
        Process::find(pid).filter(|process| {
            process
                .arguments
                .iter()
                .any(|argument| argument.contains(&place))
        })
    }

    fn end(&self, file: &str, signal: Signal) -> Result<()> {
        if let Some(process) = self.process(file) {
            kill(Pid::from_raw(i32::try_from(process.pid)?), signal)?;
            let gone = wait_blocking(DEADLINE, || self.process(file).is_none());
            ensure!(
                gone,
                "process {} did not end within {DEADLINE:?} of {signal}",
                process.pid
            );
        }
        let _absent = fs::remove_file(self.path(file));
        Ok(())
    }

    fn end_daemon(&self) -> Result<()> {
        self.end("husk.pid", Signal::SIGTERM)
    }

    /// Removes the pods, ends the daemon, and takes away what it and the plugins made outside DIR.
    async fn stop(&self) -> Result<()> {
        let pods = self.remove_pods().await;
        self.end_daemon()?;
        self.end(".holder.pid", Signal::SIGKILL)?;
        self.remove_network();
        for file in ["husk.sock", ".ready", ".portmap-is-ours"] {
            let _absent = fs::remove_file(self.path(file));
        }
        for directory in ["run", "ipam"] {
            let _absent = fs::remove_dir_all(self.path(directory));
        }
        pods?;
        say(
            "stopped: no pod, process, mount, namespace, cgroup or bridge is left; images and the log stay in DIR",
        );
        Ok(())
    }

    async fn remove_pods(&self) -> Result<()> {
        if self.process("husk.pid").is_none() {
            // Each pod has a directory there for as long as it has anything.
            let some = |mut pods: fs::ReadDir| pods.next().is_some();
            if !fs::read_dir(self.path("run/pods")).is_ok_and(some) {
                return Ok(());
            }
            self.start(None)
                .await
                .context("start husk again, to remove its pods")?;
        }
        let client = Client::connect(&self.socket()).await?;
        let mut failed = Vec::new();
        for pod in client.pods(None).await? {
            let removal = tokio::time::timeout(Duration::from_secs(60), client.delete_pod(&pod.id));
            let removed = removal.await.map_err(anyhow::Error::from);
            if let Err(error) = removed.and_then(|done| Ok(done?)) {
                failed.push(format!("remove pod {}: {error:#}", pod.id));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }

    /// Everything here may be absent; what cannot be removed is in nobody's way.
    fn remove_network(&self) {
        let _absent = output(command("ip").args(["link", "delete", &self.bridge().0]));
        if !self.path(".portmap-is-ours").exists() {
            return;
        }
        let nat =
            |words: &[&str]| drop(output(command("iptables").args(["-t", "nat"]).args(words)));
        let rules = output(command("iptables").args(["-t", "nat", "-S"])).unwrap_or_default();
        for (chain, hooks) in PORTMAP_CHAINS {
            for hook in *hooks {
                for rule in rules.lines().filter(|rule| {
                    rule.starts_with(&format!("-A {hook} ")) && rule.ends_with(chain)
                }) {
                    let comment = "\"CNI portfwd requiring masquerade\"";
                    let words: Vec<_> = rule.split_whitespace().skip(1).collect();
                    if rule.contains(comment) {
                        nat(&[
                            "-D",
                            hook,
                            "-m",
                            "comment",
                            "--comment",
                            comment.trim_matches('"'),
                            "-j",
                            chain,
                        ]);
                    } else {
                        nat(&[&["-D"], words.as_slice()].concat());
                    }
                }
            }
            nat(&["-F", chain]);
        }
        for (chain, _hooks) in PORTMAP_CHAINS {
            nat(&["-X", chain]);
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a command line program talks to its terminal"
)]
fn say(line: &str) {
    println!("{line}");
}
