//! A monitor that becomes another program while its containers run.

use std::sync::Arc;
use std::time::Duration;

use pod_monitor_schema::streams::{TOKEN_BYTES, Token};
use pod_monitor_schema::{Error, ErrorCode, Message as _, TraceContext, wire::monitor};

use crate::connection::{Handshake, answer};
use crate::rpc::CONNECT_LIMIT;
use crate::streams::deposit;
use crate::{Events, Monitor, MonitorError, Program, Rpc};

/// How long calls that are under way are waited for. New ones wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

impl Monitor {
    /// Makes the monitor execute `program` in place: its process, its containers and their streams
    /// stay, and so do execs and attachments with their handles. The connection is made anew, so
    /// the events of before end; those from now on are answered here. Who wants to be sure of what
    /// happened in between asks for [`Self::state`].
    ///
    /// # Errors
    /// [`MonitorError::Refused`] with `FailedPrecondition` where calls are under way for longer
    /// than a moment: then, as with every refusal, it goes on as it is. When the program does not
    /// come to life the monitor is gone.
    pub async fn upgrade(
        &self,
        rpc: &Rpc,
        trace: &TraceContext,
        program: &Program,
    ) -> Result<Events, MonitorError> {
        let alone = Arc::clone(self.gate()).write_owned();
        let Ok(alone) = tokio::time::timeout(PATIENCE, alone).await else {
            let why = "other calls are under way";
            let code = ErrorCode::FailedPrecondition;
            let busy = Error::new(code, "upgrade", &self.welcome().pod_id, why);
            return Err(MonitorError::Refused(busy));
        };
        let (this, program, trace) = (self.clone(), program.clone(), trace.clone());
        let handshake = Handshake::new(rpc, self.run_directory(), CONNECT_LIMIT);
        let upgrade = move || async move {
            let events = this.replace(&program, trace, handshake).await;
            drop(alone);
            events
        };
        rpc.run("upgrade", upgrade, drop).await
    }

    /// Runs on the RPC thread, while nobody else calls.
    async fn replace(
        &self,
        program: &Program,
        trace: TraceContext,
        handshake: Handshake,
    ) -> Result<Events, MonitorError> {
        let mut token = Token([0; TOKEN_BYTES]);
        getrandom::fill(&mut token.0).map_err(|error| {
            let source = std::io::Error::other(error.to_string());
            MonitorError::io("make a token for", "an upgrade", source)
        })?;
        let link = self.link();
        deposit(self.run_directory(), &token, program.as_fd()).await?;
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.upgrade_request();
            trace.write(request.get().init_trace());
            request.get().set_token(&token.0);
            answer!("upgrade", request)
        };
        match link.remote.call("upgrade", call).await {
            Err(MonitorError::Disconnected { .. }) => {}
            Err(error) => return Err(error),
            // It says so only with an error.
            Ok(()) => {
                return Err(MonitorError::Disconnected {
                    operation: "upgrade",
                });
            }
        }
        let (next, events) = handshake.reopen(self.child()).await?;
        self.replace_link(next);
        Ok(events)
    }
}
