//! The objects that answers carry.

use std::rc::Rc;

use capnp::Error as Fault;
use pod_monitor_schema::wire::{attachment, process};
use pod_monitor_schema::{Error, Message, TerminalSize, write_result};

use crate::errors;
use crate::{exec, stdio};

/// The contract's `Process`.
#[derive(Debug)]
pub(super) struct Process(pub(super) Rc<exec::Process>);

impl process::Server for Process {
    async fn wait(
        self: Rc<Self>,
        _: process::WaitParams,
        mut results: process::WaitResults,
    ) -> Result<(), Fault> {
        let exit = self.0.wait().await;
        write_result(&Ok(exit), results.get().init_result());
        Ok(())
    }

    async fn kill(
        self: Rc<Self>,
        params: process::KillParams,
        mut results: process::KillResults,
    ) -> Result<(), Fault> {
        let signal = params.get()?.get_signal();
        let answer = match signal {
            1..=64 => {
                self.0.kill(signal);
                Ok(())
            }
            _ => Err(errors::invalid("kill", "exec", "no such signal")),
        };
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn resize(
        self: Rc<Self>,
        params: process::ResizeParams,
        mut results: process::ResizeResults,
    ) -> Result<(), Fault> {
        let size = TerminalSize::read(params.get()?.get_size()?)?;
        let answer = match self.0.resize(size) {
            Some(result) => result.map_err(|error| Error::io("resize", "exec", &error)),
            None => Err(errors::not_now("resize", "exec", "it has no terminal")),
        };
        write_result(&answer, results.get().init_result());
        Ok(())
    }
}

/// The contract's `Attachment`.
#[derive(Debug)]
pub(super) struct Attachment(pub(super) Rc<stdio::Client>);

impl attachment::Server for Attachment {
    async fn wait(
        self: Rc<Self>,
        _: attachment::WaitParams,
        mut results: attachment::WaitResults,
    ) -> Result<(), Fault> {
        let end = self.0.ended().await;
        results.get().set_end(end.into());
        Ok(())
    }
}
