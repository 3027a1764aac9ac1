//! A real kubelet on a node: standalone, its pods given as files, its API on loopback in the node's network namespace.
//!
//! The kubelet runs in the node's mount namespace, so that it and Husk see each other's mounts; the places in which a
//! kubelet insists are covered there, and its pods' cgroups lie below the node's own.
//! Deliberately absent: an API server, and so what only one can tell a kubelet: config maps and secrets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::command::output;
use crate::node::{Node, NodeOptions};
use crate::shared::Shared;
use crate::wait::{DEADLINE, wait_blocking, wait_for};
use crate::{BUSYBOX, cgroup, netns, settings};

/// How long a pod may take to get where its scenario wants it, with restarts and their pauses on the way, while all the
/// others do the same. The kubelet removes what ended once a minute (`ContainerGCPeriod` in its pkg/kubelet/kubelet.go).
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What the kubelet calls this node; its pods' names end in it.
const HOSTNAME: &str = "node";
const API: u16 = 10250;
const PLAIN: u16 = 10255;

/// Directories that are fixed in the kubelet become the node's own, and so do the kernel's settings that it changes.
const COVER: &str = r#"
mount -t tmpfs -o size=16m husk /var/log
mkdir "$0/var-lib"
mount -t tmpfs -o size=64m husk "$0/var-lib"
mkdir "$0/var-lib/upper" "$0/var-lib/work"
mount -t overlay -o "lowerdir=/var/lib,upperdir=$0/var-lib/upper,workdir=$0/var-lib/work" husk /var/lib
for setting in vm/overcommit_memory kernel/panic kernel/panic_on_oops; do
    cat "/proc/sys/$setting" > "$0/var-lib/${setting##*/}"
    mount --bind "$0/var-lib/${setting##*/}" "/proc/sys/$setting"
done"#;

/// A kubelet and the node that it drives.
#[derive(Debug)]
pub struct Kubelet {
    pub node: Arc<Node>,
    programs: PathBuf,
    process: Mutex<Option<Child>>,
}

static SHARED: Shared<Kubelet> = Shared::new();

impl Kubelet {
    /// The kubelet that scenarios share; it ends with the last test that holds it.
    pub async fn shared() -> Result<Arc<Self>> {
        SHARED.get(Self::start(NodeOptions::default())).await
    }

    /// A kubelet on a node of its own, ready to take pods.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let node = Arc::new(Node::start(options).await?);
        let kubelet = Self {
            programs: settings::kubelet()?,
            process: Mutex::new(None),
            node,
        };
        for part in ["manifests", "kubelet", "pods"] {
            fs::create_dir_all(kubelet.place(part))?;
        }
        let mut cover = kubelet.node.enter(Path::new("sh"))?;
        output(cover.args(["-ec", COVER]).arg(kubelet.node.directory()))
            .context("cover the kubelet's fixed directories")?;
        kubelet.launch(json!({})).await?;
        Ok(kubelet)
    }

    /// Starts the kubelet, with `settings` over its configuration, and waits until it has looked at the runtime.
    pub async fn launch(&self, settings: Value) -> Result<()> {
        let mut configuration = self.configuration()?;
        if let (Some(all), Value::Object(settings)) = (configuration.as_object_mut(), settings) {
            all.extend(settings);
        }
        fs::write(
            self.place("kubelet.json"),
            serde_json::to_vec_pretty(&configuration)?,
        )?;
        let child = self.spawn()?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let ready = wait_for("the kubelet answers", DEADLINE * 2, async || {
            let answers = self.get("/pods").is_ok();
            answers.then_some(Ok(())).or_else(|| self.ended().map(Err))
        });
        let ready = ready.await.flatten();
        ready.with_context(|| format!("the kubelet's log ends:\n{}", self.log_tail(30)))
    }

    /// How the kubelet's process has ended; none while it runs.
    fn ended(&self) -> Option<anyhow::Error> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let status = process.as_mut()?.try_wait().ok()??;
        Some(anyhow!("the kubelet ended with {status}"))
    }

    fn configuration(&self) -> Result<Value> {
        let (driver, root) = match self.node.cgroup_parent().strip_suffix(".slice") {
            Some(stem) => ("systemd", stem.to_owned()),
            None => ("cgroupfs", self.node.cgroup_parent()),
        };
        Ok(json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": API, "readOnlyPort": PLAIN, "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{}", self.node.socket().display()),
            "staticPodPath": self.place("manifests"),
            "podLogsDir": self.place("pods"),
            "volumePluginDir": self.place("kubelet/plugins"),
            "cgroupDriver": driver, "cgroupRoot": root,
            "failCgroupV1": false, "failSwapOn": false, "enforceNodeAllocatable": [],
            "resolvConf": "", "registerNode": false, "maxPods": 250,
            "fileCheckFrequency": "1s", "serializeImagePulls": false,
            "evictionHard": {"nodefs.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
            "containerLogMaxSize": "1Mi", "containerLogMaxFiles": 5, "containerLogMonitorInterval": "3s",
            "featureGates": {"EventedPLEG": true, "PodAndContainerStatsFromCRI": true},
        }))
    }

    fn spawn(&self) -> Result<Child> {
        let own = cgroup::tracking_root()
            .join(self.node.cgroup_parent().trim_start_matches('/'))
            .join("kubelet");
        fs::create_dir_all(&own).with_context(|| format!("make the cgroup {}", own.display()))?;
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.place("kubelet.log"))?;
        let mut start = self.node.enter(&self.programs.join("kubelet"))?;
        start
            .arg(format!("--config={}", self.place("kubelet.json").display()))
            .arg(format!("--root-dir={}", self.place("kubelet").display()))
            .arg(format!(
                "--cert-dir={}",
                self.place("kubelet/pki").display()
            ))
            .arg(format!("--hostname-override={HOSTNAME}"))
            .arg("--v=2")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = start.spawn().with_context(|| format!("start {start:?}"))?;
        fs::write(own.join("cgroup.procs"), child.id().to_string())?;
        Ok(child)
    }

    /// Ends the kubelet; its pods run on.
    pub fn end(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = process.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let ended = wait_blocking(DEADLINE, || !matches!(child.try_wait(), Ok(None)));
        if !ended {
            child.kill()?;
            child.wait()?;
        }
        ensure!(ended, "the kubelet did not end within {DEADLINE:?}");
        Ok(())
    }

    fn place(&self, name: &str) -> PathBuf {
        self.node.directory().join(name)
    }

    /// The last lines of the kubelet's log.
    pub fn log_tail(&self, count: usize) -> String {
        let text = fs::read_to_string(self.place("kubelet.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Gives the kubelet a pod, which then is called `name` in the namespace `default`. Another file of that name is
    /// another pod to it.
    pub fn apply(&self, name: &str, spec: &Value) -> Result<()> {
        self.give(name, json!({"name": name, "labels": {"app": name}}), spec)
    }

    /// As [`Self::apply`], for a pod that stays the same one when it is given again: it has a UID of its own, in place of
    /// the hash of its file (`applyDefaults` in pkg/kubelet/config/common.go).
    pub fn apply_lasting(&self, name: &str, spec: &Value) -> Result<()> {
        let uid = format!("lasting-{name}");
        self.give(
            name,
            json!({"name": name, "labels": {"app": name}, "uid": uid}),
            spec,
        )
    }

    fn give(&self, name: &str, metadata: Value, spec: &Value) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        // The kubelet leaves files alone whose names begin with a dot; a rename shows it the whole file at once.
        let (hidden, shown) = (
            self.place("manifests").join(format!(".{name}")),
            self.manifest(name),
        );
        fs::write(&hidden, serde_json::to_vec(&pod)?)?;
        Ok(fs::rename(hidden, shown)?)
    }

    /// Takes a pod away, which the kubelet then ends with its grace period.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifest(name))?)
    }

    /// Takes pods away and waits until nothing is left of any of them.
    pub async fn remove(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.withdraw(name)?;
        }
        for name in names {
            self.wait_gone(name).await?;
        }
        Ok(())
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.place("manifests").join(format!("{name}.json"))
    }

    /// The pod as the kubelet shows it.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let pods: Value = serde_json::from_str(&self.get("/pods")?)?;
        let full = full_name(name);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods
            .into_iter()
            .find(|pod| pod["metadata"]["name"] == full.as_str()))
    }

    /// Waits until the pod is as wanted and returns it; a failure shows what it was instead.
    pub async fn wait_pod(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let what = format!("{name}: {what}");
        let found = wait_for(&what, PATIENCE, async || {
            let pod = self.pod(name).ok()??;
            if wanted(&pod["status"]) {
                return Some(pod);
            }
            last = pod;
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        });
        let found = found.await;
        found.with_context(|| format!("the last status: {:#}", last["status"]))
    }

    /// Waits until every container of the pod is ready.
    pub async fn wait_ready(&self, name: &str) -> Result<Value> {
        self.wait_pod(name, "ready", |status| condition(status, "Ready"))
            .await
    }

    /// Waits until the kubelet and the runtime have no trace of the pod.
    async fn wait_gone(&self, name: &str) -> Result<()> {
        let client = self.node.client().await?;
        let full = full_name(name);
        let what = format!("{name} is gone");
        let gone = wait_for(&what, PATIENCE, async || {
            let pods = client.pods(None).await.ok()?;
            let has = pods
                .iter()
                .any(|pod| pod.metadata.as_ref().is_some_and(|it| it.name == full));
            (!has && self.pod(name).ok()?.is_none()).then_some(())
        });
        gone.await
    }

    /// A path of the kubelet's API that needs no rights, asked without TLS.
    pub fn get(&self, path: &str) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], PLAIN));
        let mut stream = netns::connect(self.node.network(), address)?;
        stream.set_read_timeout(Some(DEADLINE * settings::patience()))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: node\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            bail!("GET {path}: {status}: {body}");
        }
        Ok(body.to_owned())
    }

    /// The node's summary as eviction and autoscaling see it.
    pub fn summary(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/stats/summary")?)?)
    }

    /// The client of the kubelet's streams, with the words before the address, and the address's path and query.
    pub fn client(&self, words: &[&str], path: &str) -> Result<Command> {
        let mut client = self.node.enter(&self.programs.join("client"))?;
        client
            .args(words)
            .arg(format!("https://127.0.0.1:{API}{path}"));
        Ok(client)
    }

    /// What `kubectl logs` shows, with more of its options as a query.
    pub fn logs(&self, pod: &str, container: &str, query: &str) -> Result<String> {
        let path = format!(
            "/containerLogs/default/{}/{container}?{query}",
            full_name(pod)
        );
        output(&mut self.client(&["get"], &path)?)
    }

    /// Waits until the log of a container has `part`, and returns all of it.
    pub async fn wait_log(&self, pod: &str, container: &str, part: &str) -> Result<String> {
        let what = format!("{part:?} in the log of {pod}");
        let found = wait_for(&what, PATIENCE, async || {
            let text = self.logs(pod, container, "").ok()?;
            text.contains(part).then_some(text)
        });
        found.await
    }

    /// Executes a shell's `script` in a container over `transport`; the command waits to be run.
    pub fn exec(&self, transport: &str, place: (&str, &str), script: &str) -> Result<Command> {
        let (pod, container) = place;
        let script: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!(
            "/exec/default/{}/{container}?command=sh&command=-c&command={script}&input=1&output=1&error=1",
            full_name(pod)
        );
        self.client(&["stream", "-stdin", "-transport", transport], &path)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_log();
        }
        let _killed_with_its_cgroup = self.end();
    }
}

impl Kubelet {
    #[expect(
        clippy::print_stderr,
        reason = "the one thing a failed test leaves for its reader"
    )]
    fn keep_log(&self) {
        let Ok(target) = settings::target_directory() else {
            return;
        };
        let name = format!("kubelet-{}.log", std::process::id());
        let kept = target.join("test-logs").join(name);
        let copied = fs::create_dir_all(target.join("test-logs"))
            .and_then(|()| fs::copy(self.place("kubelet.log"), &kept));
        if copied.is_ok() {
            eprintln!("--- the kubelet's log is kept at {}", kept.display());
        }
    }
}

/// What the kubelet calls the pod of a file.
pub fn full_name(name: &str) -> String {
    format!("{name}-{HOSTNAME}")
}

/// Whether a condition of a pod's status is true.
pub fn condition(status: &Value, name: &str) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|it| it["type"] == name && it["status"] == "True")
    })
}

/// The status of a container of any kind: `containerStatuses`, `initContainerStatuses`.
pub fn container_status<'a>(status: &'a Value, name: &str) -> &'a Value {
    let kinds = ["containerStatuses", "initContainerStatuses"];
    let mut all = kinds
        .iter()
        .filter_map(|kind| status[kind].as_array())
        .flatten();
    all.find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

/// A container that runs `script`; more fields are added with [`with`].
pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script]})
}

/// `value` with the fields of `more` over its own.
#[must_use]
pub fn with(mut value: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

/// A pod of `containers` that ends within a second once it is told to.
pub fn pod(containers: Value) -> Value {
    json!({"containers": containers, "terminationGracePeriodSeconds": 1})
}
