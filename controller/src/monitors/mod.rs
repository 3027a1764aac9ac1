//! Pod-monitors as the controller uses them: which OCI runtime each works with, starting one in its
//! cgroup, finding one again, ending one.
//!
//! All monitors execute the same sealed memfd. Their socket and their pinned namespaces are in the
//! pod's run directory, which is how a controller that comes back finds them.
//!
//! What a pod depends on when its monitor dies is in `escrow`, and across the daemon's own end in
//! `fd_store`; `orphans` reaps what dead monitors left to the daemon.
//!
//! Deliberately absent: the RPC (`pod-monitor-client`), the OCI runtime's argv (the monitor), when a
//! monitor is replaced (`pod/`).

mod escrow;
mod fd_store;
mod features;
mod handlers;
mod orphans;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pod_monitor_client::schema::{ExitStatus, Limits, StartConfig};
use pod_monitor_client::{Events, Handover, Monitor, Program, Rpc, Spawn};

pub use escrow::{from_process, handed_over, has_init, pipes};
pub use fd_store::{FdStore, Stored};
pub use handlers::{Handler, HandlerError, Handlers};
pub use orphans::reap as reap_orphans;
pub use pod_monitor_client::Escrow;
pub use pod_monitor_client::MonitorError as Error;
pub use pod_monitor_client::schema::TraceContext as Trace;

use crate::config::Config;

/// How long a monitor whose connection broke has to end: killing one breaks its connection first.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// What is needed to start monitors.
#[derive(Debug)]
pub struct Monitors {
    rpc: Rpc,
    program: Program,
    limits: Limits,
    /// OCI runtimes by the name that pods ask for.
    pub handlers: Handlers,
    /// How long ending a monitor may take.
    patience: Duration,
    /// How often one took a pod over from another since this daemon began.
    restarts: AtomicU64,
}

/// Why monitors cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// None of the places has a program.
    #[error("no pod-monitor program: looked for {}", display(.0))]
    NoProgram(Vec<PathBuf>),
    /// The program cannot be read.
    #[error("pod-monitor program")]
    Program(#[source] Error),
    /// The connection thread cannot be started.
    #[error("starting the thread of the monitors' connections")]
    Rpc(#[source] io::Error),
}

fn display(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

impl Monitors {
    /// Seals the monitor's program and starts the thread of the connections.
    ///
    /// # Errors
    /// When there is no program or it cannot be read.
    pub fn open(config: &Config, handlers: Handlers, husk: &Path) -> Result<Self, OpenError> {
        let candidates = config.monitor.candidates(husk);
        let path = candidates
            .iter()
            .find(|path| path.exists())
            .cloned()
            .ok_or(OpenError::NoProgram(candidates))?;
        let program = Program::seal(&path).map_err(OpenError::Program)?;
        Ok(Self {
            rpc: Rpc::start(concat!("husk/", env!("CARGO_PKG_VERSION"))).map_err(OpenError::Rpc)?,
            program,
            limits: limits(config),
            handlers,
            patience: config.runtime.kill_timeout,
            restarts: AtomicU64::new(0),
        })
    }

    /// Starts the monitor of a pod. The configuration's limits are filled in here.
    ///
    /// # Errors
    /// When the program does not start, or cannot set the pod up; nothing of it is left then.
    pub async fn start(
        &self,
        config: StartConfig,
        cgroup_procs: Vec<PathBuf>,
        trace: &Trace,
    ) -> Result<(Monitor, Events), Error> {
        self.spawn(config, cgroup_procs, trace, None).await
    }

    /// Starts a monitor that goes on with a pod whose monitor has ended.
    ///
    /// # Errors
    /// When the program does not start, or does not get along with what there is; that can be tried
    /// again.
    pub async fn restart(
        &self,
        config: StartConfig,
        cgroup_procs: Vec<PathBuf>,
        handover: Handover,
    ) -> Result<(Monitor, Events), Error> {
        let trace = Trace::default();
        let started = self.spawn(config, cgroup_procs, &trace, Some(handover));
        let started = started.await?;
        self.restarts.fetch_add(1, Ordering::Relaxed);
        Ok(started)
    }

    /// How often a monitor took a pod over from another since this daemon began.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Whether a monitor executes this daemon's monitor program. Reads both of them, where they are of
    /// the same size.
    pub fn is_current(&self, monitor: u32) -> bool {
        let path = PathBuf::from(format!("/proc/{monitor}/exe"));
        // One that is gone by now needs no other program.
        self.program.is_same_as(&path).unwrap_or(true)
    }

    /// Makes a monitor execute this daemon's monitor program in place; answers its events.
    ///
    /// # Errors
    /// When it refuses, then it goes on as it is; or when it dies of it.
    pub async fn upgrade(&self, monitor: &Monitor, trace: &Trace) -> Result<Events, Error> {
        monitor.upgrade(&self.rpc, trace, &self.program).await
    }

    /// Waits for the end of a process that a dead monitor may have left to this one; see
    /// [`Rpc::reaped`].
    pub async fn reaped(&self, process: OwnedFd) -> ExitStatus {
        match self.rpc.reaped(process).await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(%error, "a container's process cannot be watched");
                ExitStatus::Lost
            }
        }
    }

    async fn spawn(
        &self,
        mut config: StartConfig,
        cgroup_procs: Vec<PathBuf>,
        trace: &Trace,
        handover: Option<Handover>,
    ) -> Result<(Monitor, Events), Error> {
        config.limits = self.limits;
        let spawn = Spawn {
            config,
            cgroups: cgroup_procs,
            stderr: io::stderr().as_fd().try_clone_to_owned().ok(),
            handover,
        };
        let rpc = self.rpc.clone().with_trace(trace);
        Monitor::spawn(&rpc, &self.program, spawn).await
    }

    /// Connects to the monitor that a pod's run directory belongs to.
    ///
    /// # Errors
    /// When there is none, or none that answers.
    pub async fn connect(
        &self,
        run_directory: &Path,
        trace: &Trace,
    ) -> Result<(Monitor, Events), Error> {
        let rpc = self.rpc.clone().with_trace(trace);
        Monitor::connect(&rpc, run_directory).await
    }

    /// Ends a monitor together with all that it owns; a monitor that is gone is fine. One that does
    /// not end in its time is killed.
    pub async fn end(&self, monitor: &Monitor, trace: &Trace) {
        let asked = tokio::time::timeout(self.patience, monitor.shutdown(trace, true)).await;
        match asked {
            Ok(Ok(()) | Err(Error::Disconnected { .. })) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the monitor refused to end"),
            Err(_) => tracing::warn!("the monitor did not end in its time"),
        }
        if let Err(error) = monitor.kill_process() {
            tracing::debug!(%error, "the monitor has ended by itself");
        }
        monitor.ended().await;
    }
}

/// Whether a monitor whose connection broke has ended, or does so in a moment.
pub async fn has_ended(monitor: &Monitor) -> bool {
    let ended = tokio::time::timeout(LAST_BREATH, monitor.ended()).await;
    ended.is_ok()
}

fn limits(config: &Config) -> Limits {
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    Limits {
        log_line_bytes: u32::try_from(config.monitor.log_line_limit.get()).unwrap_or(u32::MAX),
        log_flush_ms: milliseconds(config.monitor.log_flush_timeout),
        attach_stall_ms: milliseconds(config.monitor.attach_stall_timeout),
        ..Limits::default()
    }
}
