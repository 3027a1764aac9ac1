//! Starting a monitor.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod_monitor_schema::{StartConfig, layout, to_bytes};

use crate::child::Child;
use crate::connection::Handshake;
use crate::fd::{Launch, Step, launch};
use crate::program::sealed_bytes;
use crate::remains::clear_run_directory;
use crate::rpc::SPAWN_LIMIT;
use crate::socket::Listeners;
use crate::{Events, Handover, Monitor, MonitorError, Program, Rpc};

/// Where a monitor's children look for programs; the monitor gets no other variable.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a monitor whose connection broke has to end by itself.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// What to start a monitor with.
#[derive(Debug)]
pub struct Spawn {
    /// The pod. Its run directory must exist, and only our own user should be able to enter it.
    pub config: StartConfig,
    /// The files by which the monitor enters its cgroups before it runs: one named `cgroup.procs`
    /// for cgroup v2; one for each hierarchy of v1, where `tasks` is quicker; none to stay in ours.
    pub cgroups: Vec<PathBuf>,
    /// Where the monitor writes its own log; `/dev/null` otherwise.
    pub stderr: Option<OwnedFd>,
    /// What another monitor, which has ended, has left of the pod; without it the pod begins.
    pub handover: Option<Handover>,
}

impl Spawn {
    /// A monitor in our own cgroups, without a log.
    #[must_use]
    pub fn new(config: StartConfig) -> Self {
        Self {
            config,
            cgroups: Vec::new(),
            stderr: None,
            handover: None,
        }
    }
}

impl Monitor {
    /// Starts a monitor and connects with it.
    ///
    /// The monitor has a session of its own, no environment but a `PATH`, and the descriptors
    /// that [`pod_monitor_schema::layout`] names. It lives on when this process ends. It is
    /// reaped here when it ends before; a program that reaps all of its children anyway may do
    /// so.
    ///
    /// When this fails, or its future is dropped, the monitor is killed and its sockets and
    /// pinned namespaces are removed; only the sockets where it was to go on with another's pod,
    /// which can be tried again.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] with why the monitor could not set up the pod,
    /// [`MonitorError::Ended`] when it died of something else, [`MonitorError::Io`] when it could
    /// not be started.
    pub async fn spawn(
        rpc: &Rpc,
        program: &Program,
        spawn: Spawn,
    ) -> Result<(Self, Events), MonitorError> {
        let program = program.clone();
        let handshake = Handshake::new(rpc, &spawn.config.run_directory, SPAWN_LIMIT);
        fn unclaimed((monitor, _): (Monitor, Events), clear: Clear) {
            tokio::task::spawn_local(async move {
                abandon(monitor.child(), monitor.run_directory(), clear).await;
            });
        }
        let unclaimed: fn((Self, Events)) = match &spawn.handover {
            None => |unwanted| unclaimed(unwanted, clear),
            Some(_) => |unwanted| unclaimed(unwanted, clear_sockets),
        };
        rpc.run("spawn", move || start(program, spawn, handshake), unclaimed)
            .await
    }
}

/// What removes the traces of a monitor that did not come to life.
type Clear = fn(&Path);

/// Runs on the RPC thread, where the kernel's part takes well below a millisecond.
async fn start(
    program: Program,
    spawn: Spawn,
    handshake: Handshake,
) -> Result<(Monitor, Events), MonitorError> {
    let directory = spawn.config.run_directory.clone();
    // Before anything is cleared on failure: the sockets of a monitor that runs are not ours.
    let listeners = Listeners::bind(&directory)?;
    let clear: Clear = match &spawn.handover {
        None => clear,
        Some(_) => clear_sockets,
    };
    let child = match execute(&program, spawn, listeners) {
        Ok(child) => child,
        Err(error) => {
            clear(&directory);
            return Err(error);
        }
    };
    match handshake.open(Some(child.clone())).await {
        Ok(connected) => Ok(connected),
        Err(error) => {
            let ended = explains(&error, &child).await;
            abandon(&child, &directory, clear).await;
            Err(ended.unwrap_or(error))
        }
    }
}

/// Where a connection broke because the monitor died, how it died says more.
async fn explains(error: &MonitorError, child: &Child) -> Option<MonitorError> {
    if matches!(
        error,
        MonitorError::Refused(_) | MonitorError::Timeout { .. }
    ) {
        return None;
    }
    let ended = tokio::time::timeout(LAST_BREATH, child.ended()).await;
    ended.ok().map(|status| MonitorError::Ended { status })
}

async fn abandon(child: &Child, directory: &Path, clear: Clear) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, directory = %directory.display(), "cannot kill a monitor");
    }
    child.ended().await;
    clear(directory);
}

fn clear(directory: &Path) {
    if let Err(error) = clear_run_directory(directory) {
        tracing::warn!(%error, directory = %directory.display(), "a monitor left something");
    }
}

fn clear_sockets(directory: &Path) {
    for socket in [layout::RPC_SOCKET, layout::STREAMS_SOCKET] {
        // The next monitor binds them anew in any case.
        let _ = std::fs::remove_file(directory.join(socket));
    }
}

/// Makes all that the monitor gets, and executes it. Our copies are closed when this returns, so
/// a monitor that dies is seen as a connection that breaks.
fn execute(program: &Program, spawn: Spawn, listeners: Listeners) -> Result<Child, MonitorError> {
    let directory = spawn.config.run_directory.clone();
    let failed =
        |operation| move |source: io::Error| MonitorError::io(operation, directory, source);
    let cgroups = open_cgroups(&spawn.cgroups)?;
    let arguments = arguments(&spawn.config.id)?;
    let config = sealed_bytes("pod-monitor-config", &to_bytes(&spawn.config))
        .map_err(failed.clone()("write the configuration of"))?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| MonitorError::io("open", "/dev/null", source))?;
    let stderr = spawn.stderr.as_ref().map_or(null.as_fd(), AsFd::as_fd);
    let (resume, kept) = spawn.handover.as_ref().map(Handover::message).unzip();
    let resume = resume
        .map(|resume| sealed_bytes("pod-monitor-resume", &to_bytes(&resume)))
        .transpose()
        .map_err(failed.clone()("write the state for"))?;
    let mut descriptors = vec![
        null.as_fd(),
        null.as_fd(),
        stderr,
        config.as_file().as_fd(),
        listeners.rpc.as_fd(),
        listeners.streams.as_fd(),
    ];
    descriptors.extend(resume.as_ref().map(|resume| resume.as_file().as_fd()));
    descriptors.extend(kept.into_iter().flatten());
    let started = launch(&Launch {
        program: program.as_fd(),
        arguments,
        environment: vec![c_string("environment", ENVIRONMENT)?],
        descriptors,
        cgroups: cgroups.iter().map(AsFd::as_fd).collect(),
    });
    let pidfd = started.map_err(|failure| {
        let operation = match failure.step {
            Step::Clone => "make a process for",
            Step::Cgroup => "enter the cgroups of",
            Step::Descriptors => "pass descriptors to",
            Step::Execute => "execute",
        };
        let subject = format!("the monitor of pod {}", spawn.config.id);
        MonitorError::io(operation, subject, failure.source)
    })?;
    Child::adopt(pidfd).map_err(failed("watch the monitor of"))
}

fn open_cgroups(paths: &[PathBuf]) -> Result<Vec<File>, MonitorError> {
    let open = |path: &PathBuf| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|source| MonitorError::io("open", path, source))
    };
    paths.iter().map(open).collect()
}

fn arguments(id: &str) -> Result<Vec<CString>, MonitorError> {
    Ok(vec![
        c_string("program name", layout::PROGRAM_NAME)?,
        c_string("pod id", id)?,
    ])
}

fn c_string(what: &'static str, text: &str) -> Result<CString, MonitorError> {
    CString::new(text).map_err(|error| MonitorError::io("pass", what, error))
}
