//! A pod with the real monitor, a real OCI runtime and busybox, in a directory, a mount namespace
//! and control groups of its own.
//!
//! Every test runs once with each runtime in `RUNTIMES`, on a thread and in a mount namespace of its
//! own, which all that the thread starts inherits. For crun the cgroup2 mount is hidden in it,
//! because crun 1.8 refuses hosts that have both versions.

#![expect(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pod_monitor_client::schema::{
    ContainerConfig, ContainerPhase, Event, ExecConfig, Exit, ExitStatus, IdMapping, Limits,
    Namespaces, RuntimeConfig, StartConfig, Stdin, StreamSet, TraceContext,
};
use pod_monitor_client::{Events, Handover, Monitor, MonitorError, Program, Rpc, Spawn};

pub(crate) const RUNTIMES: [&str; 2] = ["runc", "crun"];
const APPLETS: [&str; 18] = [
    "sh", "cat", "echo", "sleep", "true", "false", "kill", "setsid", "ps", "stty", "dd", "yes",
    "head", "seq", "hostname", "tail", "wc", "tr",
];
/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the test with every runtime.
pub(crate) fn with_each_runtime(test: impl AsyncFn(&'static str) + Copy + Send + 'static) {
    for runtime in RUNTIMES {
        with_runtime(runtime, async move || test(runtime).await);
    }
}

/// Runs the test where the runtime works.
pub(crate) fn with_runtime(runtime: &str, test: impl AsyncFnOnce() + Send + 'static) {
    let hide_v2 = runtime.contains("crun");
    alone(async move || {
        if hide_v2 && Path::new("/sys/fs/cgroup/unified").exists() {
            use nix::mount::{MsFlags, mount};
            // Covered, not unmounted: crun makes directories there whatever it finds.
            let tmpfs = Some("tmpfs");
            let target = "/sys/fs/cgroup/unified";
            mount(tmpfs, target, tmpfs, MsFlags::empty(), None::<&str>).unwrap();
        }
        test().await;
    });
}

/// Runs the test on a thread and in a mount namespace of its own.
pub(crate) fn alone(test: impl AsyncFnOnce() + Send + 'static) {
    let done = std::thread::spawn(move || {
        leave_mount_namespace();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

fn leave_mount_namespace() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// What a test says to the monitor.
pub(crate) fn trace() -> TraceContext {
    TraceContext {
        request_id: "test".into(),
        ..TraceContext::default()
    }
}

/// Waits until `ready` gives something.
pub(crate) async fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The monitor under test: the one that cargo built, or a release build that is to be checked. All
/// pods of a test program share it.
pub(crate) fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(seal_program)
}

/// A copy of it.
#[expect(
    clippy::disallowed_methods,
    reason = "who checks a release build names it in the environment"
)]
pub(crate) fn seal_program() -> Program {
    let path = std::env::var_os("POD_MONITOR_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_pod-monitor").into(), PathBuf::from);
    Program::seal(&path).unwrap()
}

/// A pod under test.
pub(crate) struct Pod {
    pub(crate) rpc: Rpc,
    pub(crate) monitor: Monitor,
    pub(crate) events: Events,
    pub(crate) place: Place,
}

/// Where a pod is.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: StartConfig,
    /// Of the containers: the path within a hierarchy.
    pub(crate) cgroup: String,
    /// The directory of the one that the monitor enters; none to stay in the test's.
    pub(crate) monitor_cgroup: Option<PathBuf>,
    /// Of the monitor, once it is started.
    monitor: u32,
}

impl Place {
    pub(crate) fn new(runtime: &str) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("pm")
            .tempdir_in("/tmp")
            .unwrap();
        let root = directory.path();
        fs::create_dir(root.join("run")).unwrap();
        let path = if runtime.starts_with('/') {
            runtime.into()
        } else {
            find(runtime)
        };
        let config = StartConfig {
            id: format!("pod-{number}"),
            run_directory: root.join("run"),
            runtime: RuntimeConfig {
                path,
                root: root.join("oci"),
                timeout: Duration::from_secs(20),
                ..RuntimeConfig::default()
            },
            limits: Limits {
                log_flush_ms: 100,
                attach_stall_ms: 500,
                ..Limits::default()
            },
            ..StartConfig::default()
        };
        let cgroup = format!("/pod-monitor-test-{}-{number}", std::process::id());
        let place = Place {
            directory,
            config,
            cgroup,
            monitor_cgroup: None,
            monitor: 0,
        };
        place.fill_rootfs();
        place
    }

    fn fill_rootfs(&self) {
        let rootfs = self.path("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn spawn(self) -> Result<Pod, MonitorError> {
        self.spawn_with(None).await
    }

    /// Starts a monitor; with what another one has left, where there was one.
    pub(crate) async fn spawn_with(self, handover: Option<Handover>) -> Result<Pod, MonitorError> {
        self.spawn_from(program(), handover).await
    }

    /// Starts a monitor from a program.
    pub(crate) async fn spawn_from(
        mut self,
        program: &Program,
        handover: Option<Handover>,
    ) -> Result<Pod, MonitorError> {
        let rpc = Rpc::start("test").unwrap();
        let mut spawn = Spawn::new(self.config.clone());
        spawn.handover = handover;
        let mut log = fs::File::options();
        let log = log.create(true).append(true);
        let log = log.open(self.path("monitor.log")).unwrap();
        spawn.stderr = Some(log.into());
        let cgroup = self.monitor_cgroup.iter();
        spawn.cgroups = cgroup.map(|group| group.join("cgroup.procs")).collect();
        let (monitor, events) = Monitor::spawn(&rpc, program, spawn).await?;
        self.monitor = monitor.pid();
        Ok(Pod {
            rpc,
            monitor,
            events,
            place: self,
        })
    }

    /// A program that stands in for an OCI runtime.
    pub(crate) fn fake_runtime(&mut self, script: &str) {
        let path = self.path("runtime");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.config.runtime.path = path;
    }

    /// A bundle whose program is `script`, run by a shell.
    pub(crate) fn bundle(&self, id: &str, container: &Container<'_>) -> PathBuf {
        let bundle = self.path(&format!("bundle-{id}"));
        fs::create_dir_all(&bundle).unwrap();
        let own = if self.config.namespaces.pid {
            format!(
                r#"{{"type":"pid","path":"{}/ns/pid"}}"#,
                self.config.run_directory.display()
            )
        } else {
            r#"{"type":"pid"}"#.to_owned()
        };
        let uts = if self.config.namespaces.uts {
            format!(
                r#",{{"type":"uts","path":"{}/ns/uts"}}"#,
                self.config.run_directory.display()
            )
        } else {
            String::new()
        };
        let memory = match container.memory {
            Some(limit) => format!(r#""memory":{{"limit":{limit}}}"#),
            None => String::new(),
        };
        let text = format!(
            r#"{{"ociVersion":"1.0.2","process":{process},
            "root":{{"path":"{rootfs}","readonly":false}},
            "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},
              {{"destination":"/dev","type":"tmpfs","source":"tmpfs"}},
              {{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666"]}}],
            "linux":{{"cgroupsPath":"{cgroup}/{id}","resources":{{{memory}}},
              "namespaces":[{{"type":"mount"}},{own}{uts}]}}}}"#,
            process = process(&["/bin/sh", "-c", container.script], container.terminal),
            rootfs = self.path("rootfs").display(),
            cgroup = self.cgroup,
        );
        fs::write(bundle.join("config.json"), text).unwrap();
        bundle
    }

    /// The directories of the pod's control groups.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else {
            return Vec::new();
        };
        hierarchies
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| path.join(&self.cgroup[1..]))
            .chain([Path::new("/sys/fs/cgroup").join(&self.cgroup[1..])])
            .filter(|path| path.exists())
            .collect()
    }
}

impl Place {
    /// Ends what a test that failed has left: the monitor, and the init that it may have.
    fn kill_monitor(&self) {
        let process = Path::new("/proc").join(self.monitor.to_string());
        let name = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        if name != format!("pod-monitor\0{}\0", self.config.id) {
            return;
        }
        let children = process.join(format!("task/{}/children", self.monitor));
        let children = fs::read_to_string(children).unwrap_or_default();
        let own = self.monitor.to_string();
        for pid in children.split_whitespace().chain([own.as_str()]) {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_monitor();
        // What a test that failed has left mounted would keep the directory.
        for path in [
            "disk",
            "run/ns/net",
            "run/ns/ipc",
            "run/ns/uts",
            "run/ns/user",
            "run/ns/pid",
        ] {
            let _ = nix::mount::umount2(&self.path(path), nix::mount::MntFlags::MNT_DETACH);
        }
        for group in self.cgroups() {
            for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
                if !entry.path().is_dir() {
                    continue;
                }
                let processes = fs::read_to_string(entry.path().join("cgroup.procs"));
                for pid in processes.unwrap_or_default().lines() {
                    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
                let deadline = Instant::now() + PATIENCE;
                while fs::remove_dir(entry.path()).is_err() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
            }
            let _ = fs::remove_dir(&group);
        }
    }
}

/// The JSON of a process.
pub(crate) fn process(arguments: &[&str], terminal: bool) -> String {
    let arguments: Vec<String> = arguments.iter().map(|a| format!("{a:?}")).collect();
    format!(
        r#"{{"terminal":{terminal},"user":{{"uid":0,"gid":0}},"args":[{}],
        "env":["PATH=/bin","TERM=xterm"],"cwd":"/","noNewPrivileges":true}}"#,
        arguments.join(",")
    )
}

fn find(program: &str) -> PathBuf {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}

/// What a test wants of a container.
#[derive(Clone, Copy)]
pub(crate) struct Container<'a> {
    pub(crate) script: &'a str,
    pub(crate) terminal: bool,
    pub(crate) stdin: Stdin,
    pub(crate) memory: Option<u64>,
}

/// A container that runs a script without input.
pub(crate) fn script(script: &str) -> Container<'_> {
    Container {
        script,
        terminal: false,
        stdin: Stdin::None,
        memory: None,
    }
}

impl Pod {
    pub(crate) async fn new(runtime: &str) -> Pod {
        Place::new(runtime).spawn().await.unwrap()
    }

    pub(crate) fn container(&self, id: &str, container: Container<'_>) -> ContainerConfig {
        ContainerConfig {
            id: id.into(),
            bundle: self.place.bundle(id, &container),
            terminal: container.terminal,
            stdin: container.stdin,
            log_path: Some(self.log_path(id)),
            memory_events: container.memory.is_some(),
        }
    }

    pub(crate) async fn create(&self, id: &str, container: Container<'_>) {
        let config = self.container(id, container);
        self.monitor.create(&trace(), &config).await.unwrap();
    }

    pub(crate) async fn run(&self, id: &str, container: Container<'_>) {
        self.create(id, container).await;
        self.monitor.start(&trace(), id).await.unwrap();
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.place.path(&format!("{id}.log"))
    }

    /// The log's lines without their times.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        log_lines(&self.log_path(id))
    }

    pub(crate) async fn phase(&self, id: &str) -> Option<ContainerPhase> {
        let state = self.monitor.state(&trace()).await.unwrap();
        let container = state.containers.into_iter().find(|c| c.id == id);
        container.map(|container| container.phase)
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("no event came")
            .expect("the monitor is gone")
    }

    /// Waits for the container's end.
    pub(crate) async fn exit(&mut self, id: &str) -> Exit {
        loop {
            let event = self.event().await;
            if let pod_monitor_client::schema::EventKind::Exited(exit) = event.kind
                && event.container_id == id
            {
                return exit;
            }
        }
    }

    pub(crate) fn exec_config(&self, id: &str, arguments: &[&str]) -> ExecConfig {
        ExecConfig {
            container_id: id.into(),
            process: process(arguments, false).into_bytes(),
            terminal: false,
            streams: StreamSet {
                stdin: false,
                stdout: true,
                stderr: true,
            },
            size: None,
            timeout: None,
        }
    }

    /// Deletes everything and checks that nothing stays.
    pub(crate) async fn close(self) {
        self.monitor.shutdown(&trace(), true).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.monitor.ended()).await;
        assert_eq!(ended.expect("the monitor stays"), ExitStatus::Code(0));
        let left: Vec<_> = fs::read_dir(&self.place.config.run_directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "left in the run directory: {left:?}");
        let said = fs::read_to_string(self.place.path("monitor.log")).unwrap();
        assert!(!said.contains("panic"), "{said}");
    }
}

pub(crate) fn log_lines(path: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    // Not lines(): what a terminal writes has carriage returns, which belong to the content.
    text.split_terminator('\n')
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
            rest.to_owned()
        })
        .collect()
}

/// What a pipe brings until its end.
pub(crate) async fn read_all(fd: OwnedFd) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut fs::File::from(fd), &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("no end")
        .unwrap()
}

pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) {
    assert_eq!(nix::unistd::write(fd, bytes).unwrap(), bytes.len());
}

/// Reads until the text has come.
pub(crate) async fn read_until(fd: &OwnedFd, text: &'static str) -> String {
    let fd = fd.try_clone().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut all, mut bytes) = (String::new(), [0; 4096]);
        while !all.contains(text) {
            let read = nix::unistd::read(&fd, &mut bytes).unwrap();
            assert!(read > 0, "ended after {all:?}");
            all.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        all
    });
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect(text)
        .unwrap()
}

pub(crate) fn pod_namespaces() -> Namespaces {
    Namespaces {
        net: true,
        ipc: true,
        uts: true,
        ..Namespaces::default()
    }
}

pub(crate) fn mapping() -> IdMapping {
    IdMapping {
        container_id: 0,
        host_id: 100_000,
        length: 65_536,
    }
}

/// Kilobytes of memory that a process shares with nobody.
pub(crate) fn private(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

pub(crate) fn count(path: impl AsRef<Path>) -> usize {
    fs::read_dir(path).unwrap().count()
}

pub(crate) fn fds(pod: &Pod) -> usize {
    count(format!("/proc/{}/fd", pod.monitor.pid()))
}
