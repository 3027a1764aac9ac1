//! One connection: a client is served until it goes away. Its calls are in `calls`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use pod_monitor_schema::wire::monitor;
use pod_monitor_schema::{Error, ErrorCode, reader_options};
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio_util::compat::{TokioAsyncReadCompatExt as _, TokioAsyncWriteCompatExt as _};
use tokio_util::sync::CancellationToken;

use super::script::Call;
use super::{Operation, Shared};

/// How long a client that is disconnected has to take its last answers.
const FLUSH: Duration = Duration::from_millis(100);

/// Serves one client until it goes away or `closed` is cancelled.
pub(super) async fn serve(shared: Arc<Shared>, stream: UnixStream, closed: CancellationToken) {
    let (reader, writer) = stream.into_split();
    let network = twoparty::VatNetwork::new(
        futures::io::BufReader::new(reader.compat()),
        futures::io::BufWriter::new(writer.compat_write()),
        Side::Server,
        reader_options(),
    );
    let gone = CancellationToken::new();
    let _guard = gone.clone().drop_guard();
    let monitor: monitor::Client = capnp_rpc::new_client(Server {
        shared,
        greeted: Cell::new(false),
        gone: gone.clone(),
    });
    let system = RpcSystem::new(Box::new(network), Some(monitor.client));
    let disconnector = system.get_disconnector();
    let mut serving = spawn_local(system);
    tokio::select! {
        _ = &mut serving => {}
        () = closed.cancelled() => {
            // Sends what is queued first. The client may not be reading.
            let _ = tokio::time::timeout(FLUSH, disconnector).await;
            serving.abort();
        }
    }
}

pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) greeted: Cell<bool>,
    /// Cancelled when the connection is gone.
    pub(super) gone: CancellationToken,
}

impl Server {
    /// Carries a call out, to its end even when its client goes away.
    pub(super) async fn carry<T: 'static>(
        &self,
        call: Call,
        act: impl AsyncFnOnce(&Arc<Shared>) -> Result<T, Error> + 'static,
    ) -> Result<T, Error> {
        let operation = call.operation;
        let greeted = self.greeted.get() || operation == Operation::Hello;
        let shared = Arc::clone(&self.shared);
        shared.script().calls.push(call);
        let carried = spawn_local(async move {
            if !greeted {
                return Err(refuse("call", "hello comes first"));
            }
            let mut held = shared.held.subscribe();
            let released = held.wait_for(|held| !held.contains(&operation));
            let released = shared.stopped.run_until_cancelled(released).await;
            if !matches!(released, Some(Ok(_))) {
                return Err(refuse("call", "the fake is stopped"));
            }
            drop(released);
            shared.script().take_failure(operation)?;
            act(&shared).await
        });
        let ended = |_| Error::new(ErrorCode::Internal, "call", "", "the fake panicked");
        carried.await.map_err(ended)?
    }

    /// Like [`Self::carry`], for what only changes the pod.
    pub(super) async fn change<T: 'static>(
        &self,
        call: Call,
        change: impl FnOnce(&mut super::Pod) -> Result<T, Error> + 'static,
    ) -> Result<T, Error> {
        self.carry(call, async move |shared: &Arc<Shared>| {
            shared.change(change)
        })
        .await
    }
}

fn refuse(operation: &str, detail: &str) -> Error {
    Error::new(ErrorCode::FailedPrecondition, operation, "", detail)
}
