//! A monitor without containers, for tests of what drives monitors.
//!
//! It speaks the real protocol over real sockets in a run directory, so that what connects to it
//! takes the same way as to a real monitor, coming back and broken connections included. Its
//! containers are state only: they end when [`Fake::exit`] says so, or when a signal reaches
//! them. [`Fake::hold`] keeps calls in flight, [`Fake::fail`] makes the next one fail.
//!
//! - `pod.rs` is the state machine of the containers, without I/O.
//! - `server.rs` decodes calls, `acts.rs` does what is more than a change of state, `exec.rs` and `attach.rs` play the streams, `door.rs` hands them
//!   out.
//!
//! Deliberately absent: processes, namespaces, logs and limits. `Namespaces`, `Limits` and
//! bundles are not looked at.

mod acts;
mod attach;
mod calls;
mod door;
mod exec;
mod pod;
mod script;
mod server;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pod_monitor_schema::{Error, Event, ExitStatus, PodState, StartConfig};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use crate::socket::Listeners;
use crate::{Events, Monitor, MonitorError, Rpc, clear_run_directory};

pub use exec::{ExecEnd, ExecScript};
use pod::Pod;
use script::Script;
pub use script::{Call, Operation};

/// A monitor without containers. Its sockets and connections go when it is dropped.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
}

/// One of the two streams that a container writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Fake {
    /// Listens in the run directory of `config`, which must exist.
    ///
    /// # Errors
    /// When the sockets cannot be bound.
    pub async fn start(rpc: &Rpc, config: StartConfig) -> Result<Self, MonitorError> {
        let make = move || async move {
            let directory = config.run_directory.clone();
            let listeners = Listeners::bind(&directory)?;
            let shared = Arc::new(Shared::new(config, 0));
            serve(&shared, listeners)
                .map_err(|source| MonitorError::io("listen", directory, source))?;
            Ok(Self { shared })
        };
        rpc.run("start the fake", make, drop).await
    }

    /// Connects as any client would.
    ///
    /// # Errors
    /// See [`Monitor::connect`].
    pub async fn connect(&self, rpc: &Rpc) -> Result<(Monitor, Events), MonitorError> {
        Monitor::connect(rpc, self.run_directory()).await
    }

    /// Where it listens.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.shared.config.run_directory
    }

    /// All containers, as a client would see them.
    #[must_use]
    pub fn state(&self) -> PodState {
        self.shared.pod().state()
    }

    /// The calls so far, in the order of their arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.script().calls.clone()
    }

    /// Ends a container.
    ///
    /// # Errors
    /// When there is no such container, or it has exited.
    pub fn exit(&self, id: &str, status: ExitStatus) -> Result<(), Error> {
        self.shared.change(|pod| pod.exit(id, status))
    }

    /// Says that the kernel killed a process of the container because memory ran out. Its exit
    /// is marked so when it comes.
    ///
    /// # Errors
    /// When there is no such container, or it has exited.
    pub fn oom(&self, id: &str) -> Result<(), Error> {
        self.shared.change(|pod| pod.oom(id))
    }

    /// Says that so many more bytes of the container's log are lost.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn lose_log(&self, id: &str, bytes: u64) -> Result<(), Error> {
        self.shared.change(|pod| pod.lose_log(id, bytes))
    }

    /// Makes a container deaf to all signals but SIGKILL.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn ignore_signals(&self, id: &str) -> Result<(), Error> {
        self.shared.change(|pod| pod.ignore_signals(id))
    }

    /// Makes the next call of this kind fail. Repeated, the one after it as well.
    pub fn fail(&self, operation: Operation, error: Error) {
        self.shared.script().fail(operation, error);
    }

    /// Keeps calls of this kind in flight, from now on.
    pub fn hold(&self, operation: Operation) {
        self.shared.held.send_modify(|held| held.push(operation));
    }

    /// Lets calls of this kind go on.
    pub fn release(&self, operation: Operation) {
        self.shared
            .held
            .send_modify(|held| held.retain(|other| *other != operation));
    }

    /// What the next exec plays. Without it an exec writes nothing and exits with 0.
    pub fn next_exec(&self, script: ExecScript) {
        self.shared.script().execs.push_back(script);
    }

    /// Writes as the container does: to every client that is attached.
    ///
    /// # Errors
    /// When there is no such container, or it has exited.
    pub async fn write_output(&self, id: &str, output: Output, bytes: &[u8]) -> Result<(), Error> {
        let attached = self.shared.pod().attached(id)?;
        for client in attached {
            // One that went away reads nothing.
            let _ = client.send((output, bytes.to_vec())).await;
        }
        Ok(())
    }

    /// What attached clients wrote to the container's standard input so far.
    #[must_use]
    pub fn input(&self, id: &str) -> Vec<u8> {
        self.shared.pod().input(id)
    }

    /// Breaks all connections. New ones are accepted.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }

    /// Waits until a client has shut the monitor down.
    pub async fn stopped(&self) {
        self.shared.stopped.cancelled().await;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Runs as a monitor's process: takes the place of the `pod-monitor` program, started by
/// [`Monitor::spawn`], until a client shuts it down. The program of `src/bin/` is this function.
///
/// # Errors
/// When the process was not started like a monitor.
pub fn main() -> io::Result<()> {
    use pod_monitor_schema::layout;
    use std::io::Read as _;

    let mut bytes = Vec::new();
    std::fs::File::from(crate::fd::inherited(layout::CONFIG_FD)?).read_to_end(&mut bytes)?;
    let config = pod_monitor_schema::from_bytes(&bytes).map_err(io::Error::other)?;
    let listeners = Listeners {
        rpc: crate::fd::inherited(layout::RPC_LISTENER_FD)?,
        streams: crate::fd::inherited(layout::STREAMS_LISTENER_FD)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let fake = Fake {
            shared: Arc::new(Shared::new(config, std::process::id())),
        };
        serve(&fake.shared, listeners)?;
        fake.stopped().await;
        Ok(())
    })
}

/// What the handle, the connections and the tasks share.
#[derive(Debug)]
struct Shared {
    config: StartConfig,
    /// 0 where it is part of another process.
    pid: u32,
    pod: Mutex<Pod>,
    /// Changes whenever the pod does.
    changed: watch::Sender<()>,
    script: Mutex<Script>,
    held: watch::Sender<Vec<Operation>>,
    door: door::Door,
    /// Cancelled to break the connections of today; replaced for those of tomorrow.
    connections: Mutex<CancellationToken>,
    stopped: CancellationToken,
}

impl Shared {
    fn new(config: StartConfig, pid: u32) -> Self {
        Self {
            config,
            pid,
            pod: Mutex::default(),
            changed: watch::Sender::new(()),
            script: Mutex::default(),
            held: watch::Sender::new(Vec::new()),
            door: door::Door::default(),
            connections: Mutex::default(),
            stopped: CancellationToken::new(),
        }
    }

    fn pod(&self) -> MutexGuard<'_, Pod> {
        lock(&self.pod)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    /// Changes the pod and wakes who waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Pod) -> Result<T, Error>) -> Result<T, Error> {
        let changed = change(&mut self.pod());
        self.changed.send_replace(());
        changed
    }

    fn subscribe(&self, subscriber: mpsc::Sender<Event>) {
        self.pod().subscribe(subscriber);
    }

    fn disconnect(&self) {
        let broken = std::mem::take(&mut *lock(&self.connections));
        broken.cancel();
    }

    fn stop(&self) {
        if self.stopped.is_cancelled() {
            return;
        }
        self.stopped.cancel();
        self.disconnect();
        if let Err(error) = clear_run_directory(&self.config.run_directory) {
            tracing::warn!(%error, "a fake monitor left something");
        }
    }
}

/// A test that panicked with a lock held has failed already; others may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// Accepts on both sockets until the fake is stopped.
fn serve(shared: &Arc<Shared>, listeners: Listeners) -> io::Result<()> {
    let rpc = listener(listeners.rpc)?;
    let streams = listener(listeners.streams)?;
    let accepting = Arc::clone(shared);
    spawn_local(async move {
        while let Some(stream) = accept(&rpc, &accepting.stopped).await {
            let closed = lock(&accepting.connections).clone();
            spawn_local(server::serve(Arc::clone(&accepting), stream, closed));
        }
    });
    let accepting = Arc::clone(shared);
    spawn_local(async move {
        while let Some(stream) = accept(&streams, &accepting.stopped).await {
            let handing = Arc::clone(&accepting);
            spawn_local(async move { handing.door.hand_out(stream).await });
        }
    });
    Ok(())
}

fn listener(socket: OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(socket.into())
}

async fn accept(
    listener: &UnixListener,
    stopped: &CancellationToken,
) -> Option<tokio::net::UnixStream> {
    tokio::select! {
        accepted = listener.accept() => accepted.ok().map(|(stream, _)| stream),
        () = stopped.cancelled() => None,
    }
}
