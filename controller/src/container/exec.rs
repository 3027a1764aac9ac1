//! A command in a container, run to its end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ExecConfig, Exit, ExitStatus, StreamSet};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::{bundle, monitor_error};
use crate::monitors::Trace;
use crate::pod::{Found, PodError};
use crate::services::Services;
use crate::spec;

/// How long output is awaited after the command's end, when something it left running still holds
/// the pipe.
const LINGER: Duration = Duration::from_millis(250);
const BUFFER: usize = 16 * 1024;
const OUTPUTS: StreamSet = StreamSet {
    stdin: false,
    stdout: true,
    stderr: true,
};

/// What to run.
#[derive(Debug)]
pub struct Command<'a> {
    /// The program and its arguments.
    pub arguments: &'a [String],
    /// Seconds it may take; 0 is no limit.
    pub timeout: i64,
}

/// What a command wrote and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output up to the limit.
    pub stdout: Vec<u8>,
    /// Standard error up to the limit.
    pub stderr: Vec<u8>,
    /// As a shell counts: 128 plus the signal's number for a signalled process.
    pub exit_code: i32,
}

/// Runs a command and collects its output; more than the configured limit is read and dropped.
///
/// # Errors
/// When the command cannot be started, or did not end in its time.
pub async fn exec_sync(
    services: &Services,
    monitor: &Monitor,
    found: &Found,
    command: &Command<'_>,
    trace: &Trace,
) -> Result<ExecOutput, PodError> {
    let id = &found.container.id;
    let config = exec_config(
        services,
        found,
        &Exec {
            arguments: command.arguments,
            terminal: false,
            streams: OUTPUTS,
            timeout: seconds(command.timeout),
        },
    )?;
    let exec = monitor
        .exec(trace, &config)
        .await
        .map_err(monitor_error("exec in", id))?;
    let limit =
        usize::try_from(services.config.limits.exec_sync_output.get()).unwrap_or(usize::MAX);
    let streams = exec.streams;
    let mut stdout = Output::new(limit);
    let mut stderr = Output::new(limit);
    let exit = {
        let mut reading = std::pin::pin!(async {
            tokio::join!(
                stdout.read(streams.stdout, id),
                stderr.read(streams.stderr, id)
            )
        });
        let mut waiting = std::pin::pin!(exec.process.wait());
        tokio::select! {
            exit = &mut waiting => {
                // Whatever was written before the end is in the pipe already.
                let _ = tokio::time::timeout(LINGER, reading).await;
                exit
            }
            _ = &mut reading => waiting.await,
        }
    };
    let exit = exit.map_err(monitor_error("wait for the command in", id))?;
    Ok(ExecOutput {
        exit_code: code(&exit, id, command.timeout)?,
        stdout: stdout.kept,
        stderr: stderr.kept,
    })
}

/// A process to start in a container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The program and its arguments.
    pub arguments: &'a [String],
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// The streams that are wanted.
    pub streams: StreamSet,
    /// After which it is killed.
    pub timeout: Option<Duration>,
}

/// What the monitor is asked for: the container's own process with other arguments.
///
/// # Errors
/// When the arguments make no sense or the bundle cannot be read.
pub fn exec_config(
    services: &Services,
    found: &Found,
    exec: &Exec<'_>,
) -> Result<ExecConfig, PodError> {
    let container = &found.container;
    let directory = services
        .directories
        .bundle(&container.pod_id, &container.id);
    let process = bundle::read_process(&directory)?;
    let process =
        spec::exec(&process, exec.arguments, exec.terminal).map_err(|source| PodError::Spec {
            subject: format!("the command in container {}", container.id),
            source: Box::new(source),
        })?;
    Ok(ExecConfig {
        container_id: container.id.clone(),
        process: bundle::to_json(&process, &directory)?,
        terminal: exec.terminal,
        streams: exec.streams,
        size: None,
        timeout: exec.timeout,
    })
}

fn seconds(timeout: i64) -> Option<Duration> {
    let seconds = u64::try_from(timeout).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn code(exit: &Exit, id: &str, timeout: i64) -> Result<i32, PodError> {
    match exit.status {
        ExitStatus::Code(code) => Ok(code.into()),
        ExitStatus::Signal(signal) => Ok(128 + i32::from(signal)),
        ExitStatus::Lost => Ok(255),
        ExitStatus::TimedOut => Err(PodError::ExecTimeout {
            id: id.to_owned(),
            seconds: timeout,
        }),
    }
}

/// One stream's output, bounded.
struct Output {
    kept: Vec<u8>,
    limit: usize,
}

impl Output {
    fn new(limit: usize) -> Self {
        Self {
            kept: Vec::new(),
            limit,
        }
    }

    /// Reads to the end. A stream that breaks off ends there: the exit status is what counts.
    async fn read(&mut self, stream: Option<OwnedFd>, id: &str) {
        let Some(stream) = stream else { return };
        let mut pipe = match pipe::Receiver::from_owned_fd(stream) {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::warn!(container = %id, %error, "output of a command cannot be read");
                return;
            }
        };
        let mut buffer = vec![0; BUFFER];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) => return,
                Ok(read) => {
                    let room = self.limit.saturating_sub(self.kept.len()).min(read);
                    self.kept.extend_from_slice(&buffer[..room]);
                }
                Err(error) => {
                    tracing::warn!(container = %id, %error, "output of a command broke off");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn output_beyond_the_limit_is_read_and_dropped() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let feeding = std::thread::spawn(move || {
            // More than a pipe holds: the writer ends only if everything is read.
            writer.write_all(&[b'y'; 200_000]).unwrap();
        });
        let mut output = Output::new(1000);
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        output.read(Some(reader.into()), "c").await;
        feeding.join().unwrap();
        assert_eq!(output.kept, [b'y'; 1000]);
    }
}
