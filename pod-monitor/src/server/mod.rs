//! The wire: connections, and the translation of calls to what the pod does.
//!
//! Deliberately absent: decisions. A handler reads its arguments, calls the pod and writes the
//! answer. What changes a pod runs in a task of its own, because the library drops a call's future
//! when the client goes away.

mod calls;
mod capabilities;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use pod_monitor_schema::streams::Token;
use pod_monitor_schema::{Error, ErrorCode, TraceContext, wire};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::bounds::{self, Slots};
use crate::config::Checked;
use crate::errors;
use crate::pod::Pod;
use crate::say::say;

/// Accepts clients for ever.
pub(crate) async fn serve(listener: UnixListener, pod: Rc<Pod>, bounds: Checked) {
    let connections = Slots::new(bounds.connections);
    let calls = Slots::new(bounds.calls);
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: it may be better in a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if !bounds::is_trusted(&socket) {
            say(format_args!("refused a client of another user"));
            continue;
        }
        let Some(slot) = connections.take() else {
            say(format_args!("refused a client: there are too many"));
            continue;
        };
        let client = Connection {
            pod: Rc::clone(&pod),
            calls: calls.clone(),
            greeted: Cell::new(false),
            refused: Cell::new(false),
            hang_up: Rc::new(Notify::new()),
        };
        tokio::task::spawn_local(async move {
            client.run(socket, bounds.message_bytes).await;
            drop(slot);
        });
    }
}

/// One client.
#[derive(Debug)]
struct Connection {
    pod: Rc<Pod>,
    calls: Slots,
    /// Whether it has said hello.
    greeted: Cell<bool>,
    /// Whether it has been told that its calls are not taken.
    refused: Cell<bool>,
    /// Ends the connection from this side.
    hang_up: Rc<Notify>,
}

impl Connection {
    async fn run(self, socket: UnixStream, message_bytes: usize) {
        let (pod, hang_up) = (Rc::clone(&self.pod), Rc::clone(&self.hang_up));
        let (inbound, outbound) = bounds::split(socket);
        let mut options = capnp::message::ReaderOptions::new();
        options.traversal_limit_in_words(Some(message_bytes / 8));
        let network = twoparty::VatNetwork::new(inbound, outbound, Side::Server, options);
        let monitor: wire::monitor::Client = capnp_rpc::new_client(self);
        let system = RpcSystem::new(Box::new(network), Some(monitor.client));
        tokio::select! {
            // A client that goes away is no error.
            _ = system => {}
            () = hang_up.notified() => {}
        }
        pod.events.forget(&hang_up);
        if pod.broken().is_some() {
            pod.over.notify_one();
        }
    }

    /// Whether calls are taken from this client now. Only its first call that is not is told, lest
    /// a client that goes on fills the log.
    fn admit(&self, operation: &str, trace: &TraceContext) -> Result<(), Error> {
        let error = match self.pod.broken() {
            Some(error) => error.clone(),
            None if self.greeted.get() => return Ok(()),
            None => errors::not_now(operation, &self.pod.id, "hello comes first"),
        };
        if !self.refused.replace(true) {
            tell(&error, trace);
        }
        Err(error)
    }

    /// Answers a call that waits for nothing.
    fn answer<T>(
        &self,
        operation: &str,
        trace: &TraceContext,
        work: impl FnOnce(&Pod) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.admit(operation, trace)?;
        work(&self.pod).inspect_err(|error| tell(error, trace))
    }

    /// Lets what waits under a token go with this connection.
    fn bind(&self, token: &Token) {
        self.pod.vault.bind(token, Rc::downgrade(&self.hang_up));
    }

    /// Does the work to its end, whether or not the client is there to hear of it.
    async fn carry<T, F>(
        &self,
        operation: &'static str,
        trace: TraceContext,
        work: impl FnOnce(Rc<Pod>) -> F,
    ) -> Result<T, Error>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        self.admit(operation, &trace)?;
        let Some(slot) = self.calls.take() else {
            let why = "too many calls are being carried out";
            let error = Error::new(ErrorCode::ResourceExhausted, operation, &self.pod.id, why);
            tell(&error, &trace);
            return Err(error);
        };
        let work = work(Rc::clone(&self.pod));
        let task = tokio::task::spawn_local(async move {
            let result = work.await;
            if let Err(error) = &result {
                tell(error, &trace);
            }
            drop(slot);
            result
        });
        let lost = |_| {
            Error::new(
                ErrorCode::Internal,
                operation,
                &self.pod.id,
                "its task is gone",
            )
        };
        task.await.map_err(lost)?
    }
}

/// One line for a call that failed, with the name by which its caller knows it.
fn tell(error: &Error, trace: &TraceContext) {
    say(format_args!("{error} (request {})", trace.request_id));
}
