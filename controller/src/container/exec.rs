//! A command in a container, run to its end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use pod_monitor_client::schema::{ExecConfig, Exit, ExitStatus, StreamSet};
use pod_monitor_client::{Monitor, Process, Streams};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

use super::{limited, monitor_error};
use crate::bundle;
use crate::error::PodError;
use crate::fault;
use crate::monitors::{self, Trace};
use crate::services::Services;
use crate::spec;
use crate::view::Found;

/// How long output is awaited after the command's end, when something it left running still holds
/// the pipe.
const LINGER: Duration = Duration::from_millis(250);
const BUFFER: usize = 16 * 1024;
const SIGKILL: u8 = 9;
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
    fault::point("container.exec.begin")?;
    let call = begin(monitor.clone(), config, trace.clone());
    let running = limited(services, "exec", id, call).await?;
    fault::point("container.exec.started")?;
    let limit =
        usize::try_from(services.config.limits.exec_sync_output.get()).unwrap_or(usize::MAX);
    let ended = running.collect(id, limit).await?;
    fault::point("container.exec.ended")?;
    Ok(ExecOutput {
        exit_code: code(&ended.exit, id, command.timeout)?,
        stdout: ended.stdout,
        stderr: ended.stderr,
    })
}

/// Starts the process in a task of its own: when nobody waits for the answer any more, the process
/// that it brings is killed like one whose output nobody waits for.
async fn begin(
    monitor: Monitor,
    config: ExecConfig,
    trace: Trace,
) -> Result<Running, monitors::Error> {
    let starting = tokio::spawn(async move {
        let exec = monitor.exec(&trace, &config).await?;
        Ok(Running {
            streams: exec.streams,
            process: Kept::new(exec.process),
        })
    });
    let gone = |_| monitors::Error::Disconnected { operation: "exec" };
    starting.await.map_err(gone)?
}

/// A process that is killed when its owner lets go of it before it has ended: the client went away.
struct Kept {
    process: Process,
    /// Where the call is made from: whoever drops this may be outside of every runtime.
    runtime: Handle,
    ended: bool,
}

impl Kept {
    /// Must be called inside the runtime.
    fn new(process: Process) -> Self {
        Self {
            process,
            runtime: Handle::current(),
            ended: false,
        }
    }

    async fn wait(&mut self) -> Result<Exit, monitors::Error> {
        let exit = self.process.wait().await?;
        self.ended = true;
        Ok(exit)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let process = self.process.clone();
        self.runtime.spawn(async move {
            if let Err(error) = process.kill(SIGKILL).await {
                tracing::debug!(%error, "an abandoned command has ended by itself");
            }
        });
    }
}

/// A command that runs, and our ends of its streams.
struct Running {
    streams: Streams,
    process: Kept,
}

/// A command that has ended, and what it wrote.
struct Ended {
    exit: Exit,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Running {
    /// Reads what it writes, up to `limit` bytes of each stream, until it has ended.
    async fn collect(self, id: &str, limit: usize) -> Result<Ended, PodError> {
        let Self {
            streams,
            mut process,
        } = self;
        let mut stdout = Output::new(limit);
        let mut stderr = Output::new(limit);
        let exit = {
            let mut reading = std::pin::pin!(async {
                tokio::join!(
                    stdout.read(streams.stdout, id),
                    stderr.read(streams.stderr, id)
                )
            });
            let mut waiting = std::pin::pin!(process.wait());
            tokio::select! {
                exit = &mut waiting => {
                    // Whatever was written before the end is in the pipe already.
                    let _ = tokio::time::timeout(LINGER, reading).await;
                    exit
                }
                _ = &mut reading => waiting.await,
            }
        };
        Ok(Ended {
            exit: exit.map_err(monitor_error("wait for a command", id))?,
            stdout: stdout.kept,
            stderr: stderr.kept,
        })
    }
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

    use pod_monitor_client::Rpc;
    use pod_monitor_client::fake::{ExecEnd, ExecScript, Fake};
    use pod_monitor_client::schema::{ContainerConfig, StartConfig, Stdin};

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

    /// A fake monitor with a container `c` that runs.
    async fn fake(directory: &std::path::Path) -> (Rpc, Fake, Monitor) {
        let rpc = Rpc::start("test").unwrap();
        let config = StartConfig {
            id: "pod".into(),
            run_directory: directory.into(),
            ..StartConfig::default()
        };
        let fake = Fake::start(&rpc, config).await.unwrap();
        let (monitor, _events) = fake.connect(&rpc).await.unwrap();
        let container = ContainerConfig {
            id: "c".into(),
            bundle: "/bundle".into(),
            terminal: false,
            stdin: Stdin::None,
            log_path: None,
            memory_events: false,
        };
        monitor.create(&Trace::default(), &container).await.unwrap();
        monitor.start(&Trace::default(), "c").await.unwrap();
        (rpc, fake, monitor)
    }

    async fn begun(monitor: &Monitor) -> Running {
        let config = ExecConfig {
            container_id: "c".into(),
            process: b"{}".to_vec(),
            terminal: false,
            streams: OUTPUTS,
            size: None,
            timeout: None,
        };
        begin(monitor.clone(), config, Trace::default())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_command_that_ends_answers_its_output_and_its_exit() {
        let directory = tempfile::tempdir().unwrap();
        let (_rpc, fake, monitor) = fake(directory.path()).await;
        fake.next_exec(ExecScript {
            stdout: b"out".to_vec(),
            stderr: b"errors".to_vec(),
            status: ExitStatus::Code(3),
            ..ExecScript::default()
        });
        let ended = begun(&monitor).await.collect("c", 4).await.unwrap();
        assert_eq!(ended.exit.status, ExitStatus::Code(3));
        assert_eq!(
            (&*ended.stdout, &*ended.stderr),
            (&b"out"[..], &b"erro"[..])
        );
    }

    #[tokio::test]
    async fn a_command_whose_client_went_away_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let (_rpc, fake, monitor) = fake(directory.path()).await;
        fake.next_exec(ExecScript {
            end: ExecEnd::Never,
            ..ExecScript::default()
        });
        let running = begun(&monitor).await;
        let process = running.process.process.clone();
        let mut collecting = Box::pin(running.collect("c", 4));
        assert!(futures::poll!(&mut collecting).is_pending());
        drop(collecting);
        let exit = tokio::time::timeout(Duration::from_secs(30), process.wait()).await;
        let exit = exit.expect("the command runs on").unwrap();
        assert_eq!(exit.status, ExitStatus::Signal(SIGKILL));
    }
}
