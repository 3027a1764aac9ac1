//! A node made of a temporary directory, with shell scripts for plugins, and network namespaces
//! that end with the test.

mod faults;
mod lifecycle;
mod real;
mod watching;

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getpid, gettid};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers ADD with one address and writes nothing else.
const GOOD: &str = r#"
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],
         "ips":[{"address":"10.0.0.5/24","interface":0}]}'
fi"#;

struct Node {
    dir: TempDir,
    timeout: Duration,
}

impl Node {
    fn new() -> Self {
        let node = Node {
            dir: tempfile::tempdir().unwrap(),
            timeout: DEADLINE,
        };
        for dir in ["bin", "net.d"] {
            fs::create_dir(node.path(dir)).unwrap();
        }
        node
    }

    /// A node with a list of good plugins of these names.
    fn with(version: &str, plugins: &[&str]) -> Self {
        let node = Node::new();
        for plugin in plugins {
            node.plugin(plugin, GOOD);
        }
        node.configure("10-test.conflist", version, plugins);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plugin that notes its call and its input, and then does what the body says.
    fn plugin(&self, name: &str, body: &str) {
        let dir = self.dir.path().display();
        let script = format!(
            "#!/bin/sh\ndir={dir}\ncat > $dir/{name}.$CNI_COMMAND\n\
             echo \"$CNI_COMMAND {name}\" >> $dir/log\nenv > $dir/{name}.env\n{body}\n"
        );
        let path = self.path("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn configure(&self, file: &str, version: &str, plugins: &[&str]) {
        let plugins: Vec<Value> = plugins.iter().map(|kind| json!({"type": kind})).collect();
        let list = json!({"cniVersion": version, "name": "test", "plugins": plugins});
        fs::write(self.path("net.d").join(file), list.to_string()).unwrap();
    }

    fn open(&self) -> Network {
        Network::open(Config {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![self.path("bin")],
            cache_dir: self.path("cache"),
            timeout: self.timeout,
        })
        .unwrap()
    }

    /// The calls since the last time this was asked, e.g. `ADD bridge`.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("log"));
        log.lines().map(str::to_owned).collect()
    }

    /// What a plugin read from its standard input in its last call of this kind.
    fn input(&self, plugin: &str, command: &str) -> Value {
        let text = fs::read(self.path(&format!("{plugin}.{command}"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn is_cached(&self, pod_id: &str) -> bool {
        self.path("cache").join(format!("{pod_id}.json")).exists()
    }
}

/// A network namespace that exists as long as this value, held by a thread that sits in it.
struct Netns {
    path: PathBuf,
    hold: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Netns {
    fn new() -> Self {
        let (hold, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(format!("/proc/{}/task/{}/ns/net", getpid(), gettid()))
                .unwrap();
            let _ = held.recv();
        });
        let path = told.recv_timeout(DEADLINE).unwrap().into();
        Netns {
            path,
            hold: Some(hold),
            thread: Some(thread),
        }
    }

    fn pod(&self, pod_id: &str) -> PodNetwork {
        PodNetwork {
            pod_id: pod_id.into(),
            name: format!("name-{pod_id}"),
            namespace: "default".into(),
            uid: format!("uid-{pod_id}"),
            netns: self.path.clone(),
            ..PodNetwork::default()
        }
    }

    /// Runs something in a thread in the namespace.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let file = fs::File::open(&self.path).unwrap();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.hold.take();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The error and its causes, as a log shows them.
fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Waits until something holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn read_pid(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
