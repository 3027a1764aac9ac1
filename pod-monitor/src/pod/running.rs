//! What can be done with a container while it lives.

use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::streams::{StreamMask, Token};
use pod_monitor_schema::{
    AttachConfig, Error, ErrorCode, ExecConfig, Exit, ExitStatus, TerminalSize,
};

use super::{Found, Pod};
use crate::container::Container;
use crate::errors;
use crate::exec::{self, Means};
use crate::fault;
use crate::log::writer::LogFile;
use crate::reaper::Ended;
use crate::runtime::{Call, CallError, Checkpoint};
use crate::state::Request;
use crate::stdio::{Client, Streams};
use crate::sys::signal::Status;

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
            execs: &self.execs,
            vault: &self.vault,
            token_time: self.bounds.token,
        };
        exec::start(&means, &config).await
    }

    pub(crate) fn attach(&self, config: &AttachConfig) -> Result<Attached, Error> {
        let operation = "attach";
        let id = &config.container_id;
        let (container, streams) = self.streams(operation, id, Request::Attach)?;
        let failed = |error: std::io::Error| Error::io(operation, id, &error);
        let number = self.attachments.get().wrapping_add(1);
        let (client, mask, fds) = streams.attach(number, config.streams).map_err(failed)?;
        self.attachments.set(number);
        let token = self
            .vault
            .put(mask, fds, self.bounds.token)
            .map_err(failed)?;
        Ok(Attached {
            token,
            client,
            terminal: container.config.terminal,
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
        let (container, streams) = self.streams("reopen log", id, Request::ReopenLog)?;
        let reopened = match (streams.reopen_log(), &container.config.log_path) {
            (Some(reopened), _) => reopened,
            // A container that has closed its output writes no more, and its log is still looked for there.
            (None, Some(path)) => LogFile::open(path).map(drop),
            (None, None) => Ok(()),
        };
        reopened.map_err(|error| Error::io("reopen log", id, &error))
    }

    pub(crate) async fn update(self: Rc<Pod>, id: String, resources: Vec<u8>) -> Result<(), Error> {
        let operation = "update";
        self.find(operation, &id, Request::Update)?;
        self.runtime
            .call_with(&Call::Update { id: &id }, &resources)
            .await
            .map_err(|error| errors::of_call(operation, &id, &error))
    }

    /// The container runs on; how long it stands still meanwhile is CRIU's doing.
    pub(crate) async fn checkpoint(
        &self,
        id: &str,
        checkpoint: &Checkpoint,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let operation = "checkpoint";
        errors::absolute(operation, &checkpoint.images)?;
        errors::absolute(operation, &checkpoint.work)?;
        // What can be checkpointed is what a process can be started in.
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, id, Request::Exec)?;
        let gate = container.gate.lock().await;
        self.find(operation, id, Request::Exec)?;
        let call = Call::Checkpoint {
            id,
            checkpoint,
            limit,
        };
        let done = self.runtime.call(&call).await;
        if done.as_ref().is_err_and(CallError::is_cut_off) {
            // Its processes may have been frozen; where they are not, the runtime says so.
            drop(self.runtime.call(&Call::Resume { id }).await);
        }
        drop(gate);
        done.map_err(|error| errors::of_call(operation, id, &error))
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

    /// Duplicates of what keeps the container's streams from breaking, and its first process.
    pub(crate) fn escrow(&self, id: &str) -> Result<Token, Error> {
        let operation = "escrow";
        let failed = |error: std::io::Error| Error::io(operation, id, &error);
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, id, Request::Escrow)?;
        let (_, streams) = self.streams(operation, id, Request::Escrow)?;
        let (mut mask, mut fds) = streams.duplicates().map_err(failed)?;
        fds.push(container.process().map_err(failed)?);
        mask = mask.with(StreamMask::PROCESS);
        self.vault.put(mask, fds, self.bounds.token).map_err(failed)
    }

    /// Somebody knows how a container ended that this monitor has adopted.
    pub(crate) fn settle(&self, id: &str, exit: Exit) -> Result<(), Error> {
        let operation = "settle";
        let containers = self.containers.borrow();
        let container = containers
            .get(id)
            .ok_or_else(|| errors::not_found(operation, id))?;
        let status = match exit.status {
            ExitStatus::Code(code) => Status::Code(code),
            ExitStatus::Signal(signal) => Status::Signal(signal),
            ExitStatus::TimedOut | ExitStatus::Lost => {
                return Err(errors::invalid(operation, id, "not how a process ends"));
            }
        };
        if let Some(adopted) = container.adopted.borrow().as_ref() {
            adopted.tell(Ended {
                status,
                at: exit.at,
            });
        }
        Ok(())
    }

    /// An exec that runs.
    pub(crate) fn process(&self, pid: u32) -> Result<Rc<exec::Process>, Error> {
        let found = i32::try_from(pid).ok().and_then(|pid| self.execs.find(pid));
        let why = "no exec has this process";
        found.ok_or_else(|| Error::new(ErrorCode::NotFound, "process", pid.to_string(), why))
    }

    /// A client that is attached.
    pub(crate) fn attachment(&self, number: u32) -> Result<Rc<Client>, Error> {
        let containers = self.containers.borrow();
        let mut streams = containers
            .values()
            .filter_map(|c| c.streams.borrow().clone());
        let found = streams.find_map(|streams| streams.client(number));
        let why = "no such client is attached";
        found.ok_or_else(|| Error::new(ErrorCode::NotFound, "attachment", number.to_string(), why))
    }

    fn streams(
        &self,
        operation: &str,
        id: &str,
        request: Request,
    ) -> Result<(Rc<Container>, Rc<Streams>), Error> {
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, id, request)?;
        let streams = container.streams.borrow().clone();
        let streams = streams.ok_or_else(|| errors::not_now(operation, id, "it has no streams"))?;
        Ok((container, streams))
    }
}
