//! An exec whose client has come.

use husk_streaming::{BoxFuture, Opened, Opener, SessionError, StdinEnd, Stdio};
use pod_monitor_client::schema::{ExecConfig, ExitStatus};
use pod_monitor_client::{Process, Streams};

use super::session_error;
use crate::monitors::Trace;
use crate::pod::Pods;

const SIGKILL: u8 = 9;

pub(super) struct ExecOpener {
    pub(super) pods: Pods,
    pub(super) config: ExecConfig,
    pub(super) trace: Trace,
}

impl Opener for ExecOpener {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async move {
            // Since it was offered the pod may have got another monitor.
            let running = self.pods.monitored("exec in", &self.config.container_id);
            let (_, monitor) = running.await.map_err(|error| session_error(&error))?;
            let exec = monitor.exec(&self.trace, &self.config).await;
            let exec = exec.map_err(|error| session_error(&error))?;
            let process = exec.process.clone();
            Ok(Opened {
                stdio: stdio(exec.streams),
                exit: Box::pin(async move { exit_code(&exec.process).await }),
                abandon: Some(Box::new(move || abandon(process))),
            })
        })
    }
}

fn stdio(streams: Streams) -> Stdio {
    match streams.terminal {
        Some(terminal) => Stdio::Terminal {
            terminal,
            on_stdin_end: StdinEnd::Type,
        },
        None => Stdio::Pipes {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            resize: None,
        },
    }
}

async fn exit_code(process: &Process) -> Result<i32, SessionError> {
    let exit = process
        .wait()
        .await
        .map_err(|error| session_error(&error))?;
    match exit.status {
        ExitStatus::Code(code) => Ok(code.into()),
        ExitStatus::Signal(signal) => Ok(128 + i32::from(signal)),
        ExitStatus::TimedOut => Err(SessionError::new(
            "the command was killed: its time was over",
        )),
        ExitStatus::Lost => Err(SessionError::new("nobody can say how the command ended")),
    }
}

/// Nobody reads what the command writes any more, and nobody will.
fn abandon(process: Process) {
    tokio::spawn(async move {
        if let Err(error) = process.kill(SIGKILL).await {
            tracing::debug!(%error, "an abandoned exec has ended by itself");
        }
    });
}
