//! Processes as monitors: the fake's program, and programs that are no monitor at all.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper fails its test by panicking"
)]

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod_monitor_client::schema::{
    ContainerConfig, ExitStatus, StartConfig, Stdin, TraceContext, layout,
};
use pod_monitor_client::{Monitor, MonitorError, Program, Rpc, Spawn};
use tempfile::TempDir;

fn fake_program() -> Program {
    Program::seal(Path::new(env!("CARGO_BIN_EXE_fake-pod-monitor"))).unwrap()
}

fn rpc() -> Rpc {
    Rpc::start("test/1").unwrap()
}

fn spawn_in(directory: &Path, id: &str) -> Spawn {
    Spawn::new(StartConfig {
        id: id.into(),
        run_directory: directory.into(),
        ..StartConfig::default()
    })
}

fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

async fn until(mut reached: impl FnMut() -> bool) {
    let waited = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_monitor_gets_what_it_should_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    // Would be inherited: it lacks the flag.
    let leak = rustix::io::dup(fs::File::open(directory.path()).unwrap()).unwrap();
    let rpc = rpc();
    let spawn = spawn_in(directory.path(), "web-0");
    let (monitor, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    let pid = monitor.pid();
    drop(leak);

    let arguments = fs::read(proc_file(pid, "cmdline")).unwrap();
    assert_eq!(arguments, b"pod-monitor\0web-0\0");
    let environment = fs::read_to_string(proc_file(pid, "environ")).unwrap();
    assert!(environment.starts_with("PATH=") && environment.matches('=').count() == 1);
    assert_eq!(
        fs::read_link(proc_file(pid, "cwd")).unwrap(),
        Path::new("/")
    );
    let program = fs::read_link(proc_file(pid, "exe")).unwrap();
    assert!(
        program.starts_with("/memfd:pod-monitor (deleted)"),
        "{program:?}"
    );
    let status = fs::read_to_string(proc_file(pid, "status")).unwrap();
    for line in ["SigBlk:\t0000000000000000", "Umask:\t0022"] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    let stat = fs::read_to_string(proc_file(pid, "stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split(' ').nth(4).unwrap();
    assert_eq!(session, pid.to_string(), "it leads a session");
    for entry in fs::read_dir(proc_file(pid, "fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!target.starts_with(directory.path()), "{target:?} leaked");
    }
    monitor.kill_process().unwrap();
    assert_eq!(monitor.ended().await, ExitStatus::Signal(9));
}

#[tokio::test]
async fn a_monitor_is_reaped_when_it_ends() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let spawn = spawn_in(directory.path(), "p");
    let (monitor, mut events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    monitor
        .shutdown(&TraceContext::default(), false)
        .await
        .unwrap();
    assert_eq!(monitor.ended().await, ExitStatus::Code(0));
    assert!(!proc_file(monitor.pid(), "").exists(), "a zombie stays");
    assert_eq!(events.recv().await, None);
    assert!(is_empty(directory.path()));
}

#[tokio::test]
async fn a_monitor_outlives_its_handles_and_is_found_again() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let trace = TraceContext::default();
    let container = ContainerConfig {
        id: "c".into(),
        bundle: "/b".into(),
        terminal: false,
        stdin: Stdin::None,
        log_path: None,
        memory_events: false,
    };
    let spawn = spawn_in(directory.path(), "p");
    let first = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    first.0.create(&trace, &container).await.unwrap();
    let pid = first.0.pid();
    drop(first);
    let (again, _events) = Monitor::connect(&rpc, directory.path()).await.unwrap();
    assert_eq!(again.pid(), pid);
    assert!(again.pidfd().is_some());
    assert_eq!(again.state(&trace).await.unwrap().containers.len(), 1);
    again.shutdown(&trace, true).await.unwrap();
    again.ended().await;
}

#[tokio::test]
async fn calls_end_when_the_monitor_is_killed() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let spawn = spawn_in(directory.path(), "p");
    let (monitor, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    monitor.kill_process().unwrap();
    assert_eq!(monitor.ended().await, ExitStatus::Signal(9));
    let call = monitor.state(&TraceContext::default()).await;
    assert!(
        matches!(call, Err(MonitorError::Disconnected { .. })),
        "{call:?}"
    );
    // A new one takes the place of its sockets.
    let spawn = spawn_in(directory.path(), "p");
    let (next, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    assert_ne!(next.pid(), monitor.pid());
    next.kill_process().unwrap();
    next.ended().await;
}

#[tokio::test]
async fn a_second_monitor_does_not_disturb_the_first() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let program = fake_program();
    let spawn = spawn_in(directory.path(), "p");
    let (first, _events) = Monitor::spawn(&rpc, &program, spawn).await.unwrap();
    let second = Monitor::spawn(&rpc, &program, spawn_in(directory.path(), "p")).await;
    match second {
        Err(MonitorError::Io { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
    let (_again, _) = Monitor::connect(&rpc, directory.path()).await.unwrap();
    first.kill_process().unwrap();
    first.ended().await;
}

#[tokio::test]
async fn sockets_without_a_listener_are_replaced() {
    let directory = TempDir::new().unwrap();
    drop(UnixListener::bind(directory.path().join(layout::RPC_SOCKET)).unwrap());
    let rpc = rpc();
    let spawn = spawn_in(directory.path(), "p");
    let (monitor, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    monitor.kill_process().unwrap();
    monitor.ended().await;
}

#[tokio::test]
async fn what_is_no_monitor_is_reported_and_cleared() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let rpc = rpc();
    for (program, code) in [("/bin/true", 0), ("/bin/false", 1)] {
        let program = Program::seal(Path::new(program)).unwrap();
        let error = Monitor::spawn(&rpc, &program, spawn_in(path, "p")).await;
        let Err(MonitorError::Ended { status }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(status, ExitStatus::Code(code));
        assert!(is_empty(path));
    }
    let text = Program::seal(Path::new("/etc/passwd")).unwrap();
    match Monitor::spawn(&rpc, &text, spawn_in(path, "p")).await {
        Err(error @ MonitorError::Io { .. }) => {
            assert_eq!(error.to_string(), "execute the monitor of pod p");
        }
        other => panic!("{other:?}"),
    }
    assert!(is_empty(path));
}

/// The shell takes the pod's id for the name of a script.
#[tokio::test]
async fn a_monitor_that_dies_of_a_signal_is_reported() {
    let directory = TempDir::new().unwrap();
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), "kill -9 $$\n").unwrap();
    let program = Program::seal(Path::new("/bin/sh")).unwrap();
    let id = script.path().to_str().unwrap();
    let rpc = rpc();
    let error = Monitor::spawn(&rpc, &program, spawn_in(directory.path(), id)).await;
    let Err(MonitorError::Ended { status }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status, ExitStatus::Signal(9));
    assert!(is_empty(directory.path()));
}

/// With the pod's id as its argument it does just that.
fn sleep() -> Program {
    Program::seal(Path::new("/bin/sleep")).unwrap()
}

#[tokio::test]
async fn a_monitor_that_never_answers_is_killed() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc().with_handshake_limit(Duration::from_millis(50));
    let spawn = spawn_in(directory.path(), "1000");
    let stuck = Monitor::spawn(&rpc, &sleep(), spawn).await.unwrap_err();
    assert!(matches!(stuck, MonitorError::Timeout { .. }), "{stuck:?}");
    assert!(is_empty(directory.path()));
}

#[tokio::test]
async fn a_monitor_that_stands_still_holds_nobody_up_for_long() {
    use rustix::process::{Pid, Signal, kill_process};
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let spawn = spawn_in(directory.path(), "still");
    let (monitor, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    let process = Pid::from_raw(i32::try_from(monitor.pid()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let stuck = Monitor::connect(&rpc, directory.path()).await.unwrap_err();
    let expect = Duration::from_secs(5);
    assert!(
        matches!(stuck, MonitorError::Timeout { limit, .. } if limit == expect),
        "{stuck:?}"
    );
    kill_process(process, Signal::CONT).unwrap();
    let again = Monitor::connect(&rpc, directory.path()).await;
    assert!(again.is_ok(), "{again:?}");
    monitor.kill_process().unwrap();
    monitor.ended().await;
}

#[tokio::test]
async fn a_spawn_that_is_given_up_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let rpc = rpc().with_handshake_limit(Duration::from_millis(100));
    let program = sleep();
    tokio::select! {
        spawned = Monitor::spawn(&rpc, &program, spawn_in(directory.path(), "1001")) => {
            panic!("{spawned:?}");
        }
        () = until(|| !is_empty(directory.path())) => {}
    }
    until(|| is_empty(directory.path())).await;
    until(|| !runs(b"pod-monitor\x001001\0")).await;
}

fn runs(arguments: &[u8]) -> bool {
    let mut processes = fs::read_dir("/proc").unwrap();
    processes.any(|entry| {
        let arguments_of = fs::read(entry.unwrap().path().join("cmdline"));
        arguments_of.is_ok_and(|found| found == arguments)
    })
}

/// A cgroup in the first hierarchy where one can be made.
fn new_cgroup() -> Option<PathBuf> {
    let name = format!("pod-monitor-client-{}", std::process::id());
    [
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ]
    .iter()
    .map(|hierarchy| Path::new(hierarchy).join(&name))
    .find(|cgroup| fs::create_dir(cgroup).is_ok())
    .filter(|cgroup| cgroup.join("cgroup.procs").exists())
}

#[tokio::test]
async fn a_monitor_enters_its_cgroups_before_it_runs() {
    let Some(cgroup) = new_cgroup() else {
        eprintln!("not checked: no cgroup can be made here");
        return;
    };
    let directory = TempDir::new().unwrap();
    let rpc = rpc();
    let mut spawn = spawn_in(directory.path(), "p");
    spawn.cgroups = vec![cgroup.join("cgroup.procs")];
    let (monitor, _events) = Monitor::spawn(&rpc, &fake_program(), spawn).await.unwrap();
    let inside = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), monitor.pid().to_string());
    monitor.kill_process().unwrap();
    monitor.ended().await;
    until(|| fs::remove_dir(&cgroup).is_ok()).await;
}

#[tokio::test]
async fn a_cgroup_that_cannot_be_entered_is_named() {
    let directory = TempDir::new().unwrap();
    let not_a_cgroup = TempDir::new().unwrap();
    let absent = not_a_cgroup.path().join("cgroup.procs");
    let rpc = rpc();
    let mut spawn = spawn_in(directory.path(), "p");
    spawn.cgroups = vec![absent.clone()];
    let error = Monitor::spawn(&rpc, &fake_program(), spawn)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), format!("open {}", absent.display()));
    assert!(is_empty(directory.path()));
}

#[tokio::test]
#[ignore = "a measurement: prints how long it takes until a monitor answers"]
async fn time_to_answer() {
    let rpc = rpc();
    let program = fake_program();
    let mut times = Vec::new();
    for _ in 0..100 {
        let directory = TempDir::new().unwrap();
        let spawn = spawn_in(directory.path(), "p");
        let begin = std::time::Instant::now();
        let (monitor, _events) = Monitor::spawn(&rpc, &program, spawn).await.unwrap();
        times.push(begin.elapsed());
        monitor.kill_process().unwrap();
        monitor.ended().await;
    }
    times.sort_unstable();
    println!("median {:?}, worst {:?}", times[50], times[99]);
}
