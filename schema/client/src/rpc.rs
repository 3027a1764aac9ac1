//! The one thread on which Cap'n Proto lives.
//!
//! Everything of `capnp-rpc` is bound to its thread. So one thread owns all connections, and the
//! rest of the program sends it closures that make futures there.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use pod_monitor_schema::{ExitStatus, TraceContext};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::MonitorError;
use crate::child::Child;

/// How many requests for connections wait for the thread. One that finds the queue full waits.
const QUEUE: usize = 64;

/// How long a new monitor may take to answer; making namespaces is part of it.
pub(crate) const SPAWN_LIMIT: Duration = Duration::from_secs(30);

/// How long a monitor that runs may take to answer a new connection. It has nothing to make, and
/// who comes back to many monitors must not be held up for long by one that hangs.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// A handle of the thread `monitor-rpc`, which serves the connections to all monitors.
///
/// The thread ends when the last handle is gone, all connections are closed, and all monitors
/// that it started have ended, for it also reaps them.
#[derive(Clone)]
pub struct Rpc {
    jobs: mpsc::Sender<Job>,
    name: Arc<str>,
    /// In place of the two above.
    handshake_limit: Option<Duration>,
    trace: TraceContext,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").field("name", &self.name).finish()
    }
}

impl Rpc {
    /// Starts the thread. `name` is the program and version that monitors see in their logs.
    ///
    /// # Errors
    /// When the kernel gives no thread or no epoll instance.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("monitor-rpc".to_owned())
            .spawn(move || {
                let tasks = LocalSet::new();
                tasks.spawn_local(accept(queue));
                // Ends when every task has: connections and reapers outlive the last handle.
                runtime.block_on(tasks);
            })?;
        Ok(Self {
            jobs,
            name: name.into(),
            handshake_limit: None,
            trace: TraceContext::default(),
        })
    }

    /// A handle of the same thread, which gives every monitor `limit` to answer a new connection
    /// instead of 30 s to [`crate::Monitor::spawn`] and 5 s to [`crate::Monitor::connect`].
    #[must_use]
    pub fn with_handshake_limit(mut self, limit: Duration) -> Self {
        self.handshake_limit = Some(limit);
        self
    }

    /// Waits until the process of a pidfd has ended, and takes its status where it is a child of
    /// this process that nobody else waits for; [`ExitStatus::Lost`] otherwise. The containers of
    /// a monitor that died become children of the process that started it, where that is a child
    /// subreaper (`PR_SET_CHILD_SUBREAPER(2const)`).
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub async fn reaped(&self, process: OwnedFd) -> Result<ExitStatus, MonitorError> {
        let wait = move || async move {
            let child = Child::adopt(process)
                .map_err(|source| MonitorError::io("watch", "a container's process", source))?;
            Ok(child.ended().await)
        };
        self.run("reap", wait, drop).await
    }

    /// A handle of the same thread whose new connections are part of the request `trace`: what the
    /// monitor logs of their subscription to events names it.
    #[must_use]
    pub fn with_trace(mut self, trace: &TraceContext) -> Self {
        self.trace = trace.clone();
        self
    }

    pub(crate) fn trace(&self) -> TraceContext {
        self.trace.clone()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn handshake_limit(&self) -> Option<Duration> {
        self.handshake_limit
    }

    /// Runs a future on the thread, to its end even if the caller goes away; `unclaimed` then
    /// gets what it made.
    pub(crate) async fn run<T, F, Fut>(
        &self,
        operation: &'static str,
        make: F,
        unclaimed: fn(T),
    ) -> Result<T, MonitorError>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, MonitorError>> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            async move {
                if let Err(Ok(value)) = answer.send(make().await) {
                    unclaimed(value);
                }
            }
            .boxed_local()
        });
        let gone = || MonitorError::Disconnected { operation };
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn accept(mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        spawn_local(job());
    }
}
