//! From a run directory to a monitor that answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use pod_monitor_schema::wire::monitor;
use pod_monitor_schema::{Hello, Message as _, TraceContext, Welcome, layout, reader_options};
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};
use tokio_util::sync::CancellationToken;

use crate::child::Child;
use crate::events::{self, Events};
use crate::link::Link;
use crate::monitor::Monitor;
use crate::remote::Remote;
use crate::{MonitorError, Rpc};

/// Sends a request and takes the answer out of its `result` field. The request is sent at once,
/// the answer is a future. An answer without an owned type is read by the given closure.
macro_rules! answer {
    ($operation:literal, $request:expr) => {
        $crate::connection::answer!(@ $operation, $request, |result| {
            pod_monitor_schema::read_result(result)
        })
    };
    ($operation:literal, $request:expr, |$value:ident| $read:expr) => {
        $crate::connection::answer!(@ $operation, $request, |result| {
            use pod_monitor_schema::{Error, Message as _, wire::result};
            match result.which()? {
                result::Error(error) => Ok(Err(Error::read(error?)?)),
                result::Value($value) => {
                    let $value = $value?;
                    let read: capnp::Result<_> = $read;
                    read.map(Ok)
                }
            }
        })
    };
    (@ $operation:literal, $request:expr, |$result:ident| $read:expr) => {{
        let promise = $request.send().promise;
        async move {
            let read = async {
                let response = promise.await?;
                let $result = response.get()?.get_result()?;
                $read
            };
            match read.await {
                Ok(result) => result.map_err(MonitorError::Refused),
                Err(error) => Err(MonitorError::from_capnp($operation, error)),
            }
        }
    }};
}
pub(crate) use answer;

/// How long what is queued for a monitor may take to be sent when its connection is closed.
const FLUSH: Duration = Duration::from_millis(100);

/// Bytes of each connection's read and write buffers. Nearly all messages fit, larger ones go past
/// them, and the usual 8 KiB each would be a third of what a pod costs a controller.
const BUFFER: usize = 256;

/// What a new connection is made with.
pub(crate) struct Handshake {
    name: String,
    limit: Duration,
    run_directory: PathBuf,
    trace: TraceContext,
}

impl Handshake {
    /// `limit` holds where the handle of the RPC thread has none of its own.
    pub(crate) fn new(rpc: &Rpc, run_directory: &Path, limit: Duration) -> Self {
        Self {
            name: rpc.name().to_owned(),
            limit: rpc.handshake_limit().unwrap_or(limit),
            run_directory: run_directory.to_owned(),
            trace: rpc.trace(),
        }
    }

    /// Connects, says hello and subscribes. Runs on the RPC thread. `child` is the monitor's
    /// process where this process started it.
    pub(crate) async fn open(
        self,
        child: Option<Child>,
    ) -> Result<(Monitor, Events), MonitorError> {
        let limit = self.limit;
        tokio::time::timeout(limit, self.shake(child))
            .await
            .unwrap_or(Err(MonitorError::Timeout {
                operation: "hello",
                limit,
            }))
    }

    /// Connects again with the monitor of the process `child`. Runs on the RPC thread.
    pub(crate) async fn reopen(self, child: &Child) -> Result<(Link, Events), MonitorError> {
        let limit = self.limit;
        let shaken = tokio::time::timeout(limit, self.link(Some(child.clone()))).await;
        let (link, _, _, events) = shaken.unwrap_or(Err(MonitorError::Timeout {
            operation: "hello",
            limit,
        }))?;
        Ok((link, events))
    }

    async fn shake(self, child: Option<Child>) -> Result<(Monitor, Events), MonitorError> {
        let (link, welcome, child, events) = self.link(child).await?;
        let monitor = Monitor::new(link, welcome, child, self.run_directory);
        Ok((monitor, events))
    }

    async fn link(
        &self,
        child: Option<Child>,
    ) -> Result<(Link, Welcome, Child, Events), MonitorError> {
        let stream = crate::socket::connect(&self.run_directory, layout::RPC_SOCKET).await?;
        let (remote, closed) = serve(stream);
        // A monitor that is stuck must not keep the connection of each who gave up waiting.
        let unanswered = closed.clone().drop_guard();
        let welcome = hello(&remote, Hello::new(self.name.clone())).await?;
        // Before the subscription: its answer proves that the monitor was alive after its number
        // was looked up, so the number was its own.
        let child = match child {
            Some(child) => child,
            None if welcome.pid == 0 => Child::none(closed.clone()),
            None => Child::watch(welcome.pid)
                .map_err(|source| MonitorError::io("watch", "the monitor's process", source))?,
        };
        let events = subscribe(&remote, self.trace.clone(), closed.clone()).await?;
        unanswered.disarm();
        Ok((Link { remote, closed }, welcome, child, events))
    }
}

/// Speaks Cap'n Proto over the stream until the last handle is dropped.
fn serve(stream: UnixStream) -> (Remote<monitor::Client>, CancellationToken) {
    let (reader, writer) = stream.into_split();
    let network = twoparty::VatNetwork::new(
        futures::io::BufReader::with_capacity(BUFFER, reader.compat()),
        futures::io::BufWriter::with_capacity(BUFFER, writer.compat_write()),
        Side::Client,
        reader_options(),
    );
    let mut system = RpcSystem::new(Box::new(network), None);
    let client: monitor::Client = system.bootstrap(Side::Server);
    let disconnector = system.get_disconnector();
    let closed = CancellationToken::new();
    let guard = closed.clone().drop_guard();
    let served = spawn_local(async move {
        if let Err(error) = system.await {
            tracing::debug!(%error, "a connection to a monitor broke");
        }
        drop(guard);
    });
    let ended = async move {
        // Sends what is queued first. The monitor may not be reading.
        let _ = tokio::time::timeout(FLUSH, disconnector).await;
        served.abort();
    };
    (Remote::new(client, closed.clone(), ended), closed)
}

async fn hello(remote: &Remote<monitor::Client>, hello: Hello) -> Result<Welcome, MonitorError> {
    remote
        .call("hello", move |monitor| {
            let mut request = monitor.hello_request();
            hello.write(request.get().init_client());
            answer!("hello", request)
        })
        .await
}

async fn subscribe(
    remote: &Remote<monitor::Client>,
    trace: TraceContext,
    closed: CancellationToken,
) -> Result<Events, MonitorError> {
    let unread = remote
        .call("subscribe", move |monitor| {
            let (sink, unread) = events::channel(closed);
            let mut request = monitor.subscribe_request();
            trace.write(request.get().init_trace());
            request.get().set_sink(sink);
            let subscribed = answer!("subscribe", request);
            async move { subscribed.await.map(|()| unread) }
        })
        .await?;
    Ok(Events::new(unread, remote.clone()))
}
