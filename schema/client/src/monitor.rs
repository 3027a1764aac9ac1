//! The calls of a monitor.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use pod_monitor_schema::wire::monitor;
use pod_monitor_schema::{
    ContainerConfig, Created, Exit, ExitStatus, Message as _, PodState, Started, TerminalSize,
    TraceContext, Welcome,
};

use crate::child::Child;
use crate::connection::{Handshake, answer};
use crate::link::{Gate, Link};
use crate::rpc::CONNECT_LIMIT;
use crate::{Events, MonitorError, Rpc};

/// A handle of one monitor. Clones share the connection, which closes when the last handle is
/// gone, those of [`Events`], [`crate::Exec`] and [`crate::Attachment`] included. The monitor and
/// its containers run on then.
///
/// A call has no time limit of its own and ends with [`MonitorError::Disconnected`] when the
/// monitor dies. A call whose future is dropped is carried to its end by the monitor.
#[derive(Clone, Debug)]
pub struct Monitor(pub(crate) Arc<Connection>);

#[derive(Debug)]
pub(crate) struct Connection {
    /// Replaced when the monitor has become another program.
    pub(crate) link: RwLock<Arc<Link>>,
    /// Calls hold it together, an upgrade alone: so no call is cut off by one.
    pub(crate) gate: Arc<Gate>,
    welcome: Welcome,
    child: Child,
    run_directory: PathBuf,
}

impl Monitor {
    pub(crate) fn new(link: Link, welcome: Welcome, child: Child, run_directory: PathBuf) -> Self {
        Self(Arc::new(Connection {
            link: RwLock::new(Arc::new(link)),
            gate: Arc::default(),
            welcome,
            child,
            run_directory,
        }))
    }

    /// Connects with the monitor that runs in the directory, and subscribes to its events.
    ///
    /// Who comes back reads [`Self::state`] next: it holds what happened before, and its
    /// `last_event` says which of the events it includes already.
    ///
    /// # Errors
    /// [`MonitorError::Io`] when nobody listens, [`MonitorError::Refused`] with why the monitor
    /// could not set up its pod, [`MonitorError::Timeout`] when it does not answer within 5 s; see
    /// [`Rpc::with_handshake_limit`].
    pub async fn connect(rpc: &Rpc, run_directory: &Path) -> Result<(Self, Events), MonitorError> {
        let handshake = Handshake::new(rpc, run_directory, CONNECT_LIMIT);
        rpc.run("connect", move || handshake.open(None), drop).await
    }

    /// What the monitor said about itself when it was connected with first. An upgrade may have
    /// changed its version and capabilities since.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.0.welcome
    }

    /// Whether the monitor has the capability; see [`pod_monitor_schema::capability`].
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        let mut capabilities = self.0.welcome.capabilities.iter();
        capabilities.any(|name| name == capability)
    }

    /// The number of the monitor's process; 0 for a [`crate::fake::Fake`].
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.welcome.pid
    }

    /// The monitor's process by its pidfd; none for a [`crate::fake::Fake`].
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.0.child.pidfd()
    }

    /// Where the monitor's sockets and pinned namespaces are.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.0.run_directory
    }

    /// Kills the monitor itself with SIGKILL. Its containers run on, and so do its pinned
    /// namespaces; see [`crate::clear_run_directory`].
    ///
    /// # Errors
    /// When the kernel refuses. A monitor that has ended is success.
    pub fn kill_process(&self) -> std::io::Result<()> {
        self.0.child.kill()
    }

    /// Waits until the monitor's process has ended. Its status is known where this process
    /// started it and nobody else reaped it.
    pub async fn ended(&self) -> ExitStatus {
        self.0.child.ended().await
    }

    pub(crate) fn child(&self) -> &Child {
        &self.0.child
    }

    /// All containers, and the number of the newest event that the answer includes.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn state(&self, trace: &TraceContext) -> Result<PodState, MonitorError> {
        let trace = trace.clone();
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.state_request();
            trace.write(request.get().init_trace());
            answer!("state", request)
        };
        self.call("state", call).await
    }

    /// Makes a container from its bundle. Its program does not run yet.
    ///
    /// # Errors
    /// See [`MonitorError`]; nothing of the container is left then.
    pub async fn create(
        &self,
        trace: &TraceContext,
        container: &ContainerConfig,
    ) -> Result<Created, MonitorError> {
        let (trace, container) = (trace.clone(), container.clone());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.create_request();
            trace.write(request.get().init_trace());
            container.write(request.get().init_container());
            answer!("create", request)
        };
        self.call("create", call).await
    }

    /// Lets the container's program run.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn start(&self, trace: &TraceContext, id: &str) -> Result<Started, MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.start_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            answer!("start", request)
        };
        self.call("start", call).await
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn kill(
        &self,
        trace: &TraceContext,
        id: &str,
        signal: u8,
    ) -> Result<(), MonitorError> {
        self.send_signal(trace, id, signal, false).await
    }

    /// Sends a signal to all processes of the container.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn kill_all(
        &self,
        trace: &TraceContext,
        id: &str,
        signal: u8,
    ) -> Result<(), MonitorError> {
        self.send_signal(trace, id, signal, true).await
    }

    async fn send_signal(
        &self,
        trace: &TraceContext,
        id: &str,
        signal: u8,
        all: bool,
    ) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.kill_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            request.get().set_signal(signal);
            request.get().set_all(all);
            answer!("kill", request)
        };
        self.call("kill", call).await
    }

    /// Sends the signal, and SIGKILL to every process once the grace period is over. Answers
    /// when the container has exited; at once where it had. Repeated stops join, and the
    /// shortest deadline wins.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn stop(
        &self,
        trace: &TraceContext,
        id: &str,
        signal: u8,
        grace: Duration,
    ) -> Result<Exit, MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.stop_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            request.get().set_signal(signal);
            request.get().set_grace_ms(grace);
            answer!("stop", request)
        };
        self.call("stop", call).await
    }

    /// Deletes a container that does not run, or any with `force`. An unknown id is success.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn delete(
        &self,
        trace: &TraceContext,
        id: &str,
        force: bool,
    ) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.delete_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            request.get().set_force(force);
            answer!("delete", request)
        };
        self.call("delete", call).await
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn resize(
        &self,
        trace: &TraceContext,
        id: &str,
        size: TerminalSize,
    ) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.resize_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            size.write(request.get().init_size());
            answer!("resize", request)
        };
        self.call("resize", call).await
    }

    /// Opens the container's log path anew, after the file was moved away.
    ///
    /// # Errors
    /// See [`MonitorError`]; the old file stays in use then.
    pub async fn reopen_log(&self, trace: &TraceContext, id: &str) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.reopen_log_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            answer!("reopen log", request)
        };
        self.call("reopen log", call).await
    }

    /// Changes the container's limits. `resources` is the JSON of an OCI `linux.resources`
    /// object.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn update(
        &self,
        trace: &TraceContext,
        id: &str,
        resources: &[u8],
    ) -> Result<(), MonitorError> {
        let (trace, id, resources) = (trace.clone(), id.to_owned(), resources.to_vec());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.update_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            request.get().set_resources(&resources);
            answer!("update", request)
        };
        self.call("update", call).await
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn pause(&self, trace: &TraceContext, id: &str) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.pause_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            answer!("pause", request)
        };
        self.call("pause", call).await
    }

    /// Lets a frozen container run on.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn resume(&self, trace: &TraceContext, id: &str) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.resume_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            answer!("resume", request)
        };
        self.call("resume", call).await
    }

    /// Unpins the namespaces and ends the monitor. With `force` its containers are killed and
    /// deleted first. The process may outlive the answer by a moment: see [`Self::ended`].
    ///
    /// # Errors
    /// See [`MonitorError`]; refused with `FailedPrecondition` while a container is left.
    pub async fn shutdown(&self, trace: &TraceContext, force: bool) -> Result<(), MonitorError> {
        let trace = trace.clone();
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.shutdown_request();
            trace.write(request.get().init_trace());
            request.get().set_force(force);
            answer!("shutdown", request)
        };
        self.call("shutdown", call).await
    }
}
