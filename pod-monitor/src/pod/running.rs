//! What can be done with a container while it lives.

use std::rc::Rc;

use pod_monitor_schema::streams::Token;
use pod_monitor_schema::{AttachConfig, Error, ExecConfig, TerminalSize};

use super::{Found, Pod};
use crate::errors;
use crate::exec::{self, Means};
use crate::fault;
use crate::runtime::Call;
use crate::state::Request;
use crate::stdio::{Client, Streams};

/// What an attach answers with.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) token: Token,
    pub(crate) client: Rc<Client>,
    pub(crate) terminal: bool,
}

impl Pod {
    pub(crate) async fn exec(self: Rc<Pod>, config: ExecConfig) -> Result<exec::Started, Error> {
        self.find("exec", &config.container_id, Request::Exec)?;
        let means = Means {
            runtime: &self.runtime,
            reaper: &self.reaper,
            vault: &self.vault,
            token_time: self.bounds.token,
        };
        exec::start(&means, &config).await
    }

    pub(crate) fn attach(&self, config: &AttachConfig) -> Result<Attached, Error> {
        let operation = "attach";
        let id = &config.container_id;
        let (terminal, streams) = self.streams(operation, id, Request::Attach)?;
        let failed = |error: std::io::Error| Error::io(operation, id, &error);
        let (client, mask, fds) = streams.attach(config.streams).map_err(failed)?;
        let token = self
            .vault
            .put(mask, fds, self.bounds.token)
            .map_err(failed)?;
        Ok(Attached {
            token,
            client,
            terminal,
        })
    }

    pub(crate) fn resize(&self, id: &str, size: TerminalSize) -> Result<(), Error> {
        let operation = "resize";
        let (_, streams) = self.streams(operation, id, Request::Resize)?;
        match streams.resize(size.columns, size.rows) {
            Some(result) => result.map_err(|error| Error::io(operation, id, &error)),
            None => Err(errors::not_now(operation, id, "it has no terminal")),
        }
    }

    pub(crate) fn reopen_log(&self, id: &str) -> Result<(), Error> {
        fault::point("monitor.reopen")?;
        let (_, streams) = self.streams("reopen log", id, Request::ReopenLog)?;
        streams
            .reopen_log()
            .map_err(|error| Error::io("reopen log", id, &error))
    }

    pub(crate) async fn update(self: Rc<Pod>, id: String, resources: Vec<u8>) -> Result<(), Error> {
        let operation = "update";
        self.find(operation, &id, Request::Update)?;
        self.runtime
            .call_with(&Call::Update { id: &id }, &resources)
            .await
            .map_err(|error| errors::of_call(operation, &id, &error))
    }

    pub(crate) async fn pause(self: Rc<Pod>, id: String) -> Result<(), Error> {
        self.freeze("pause", &id, Request::Pause).await
    }

    pub(crate) async fn resume(self: Rc<Pod>, id: String) -> Result<(), Error> {
        self.freeze("resume", &id, Request::Resume).await
    }

    async fn freeze(&self, operation: &str, id: &str, request: Request) -> Result<(), Error> {
        let Found::ToDo(container) = self.find(operation, id, request)? else {
            return Ok(());
        };
        let gate = container.gate.lock().await;
        if let Found::Done(_) = self.find(operation, id, request)? {
            return Ok(());
        }
        let pauses = request == Request::Pause;
        let call = if pauses {
            Call::Pause { id }
        } else {
            Call::Resume { id }
        };
        self.runtime
            .call(&call)
            .await
            .map_err(|error| errors::of_call(operation, id, &error))?;
        let mut life = container.life.borrow_mut();
        if pauses {
            life.pause();
        } else {
            life.run(0);
        }
        drop((life, gate));
        Ok(())
    }

    fn streams(
        &self,
        operation: &str,
        id: &str,
        request: Request,
    ) -> Result<(bool, Rc<Streams>), Error> {
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, id, request)?;
        let streams = container.streams.borrow().clone();
        let streams = streams.ok_or_else(|| errors::not_now(operation, id, "it has no streams"))?;
        Ok((container.config.terminal, streams))
    }
}
