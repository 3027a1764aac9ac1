//! The rim: starts one plugin, talks to it, and ends it. Everything about it is bounded: the time,
//! the bytes of its answer, and what is kept of its standard error.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tracing::Instrument;

use super::args::{Command, Target, environment};
use super::config::NetworkList;
use super::failure::{InvokeError, Report, Stderr, printable};
use super::result::ResultError;

/// Most bytes of an answer. A result of a real plugin has a few hundred.
const ANSWER_LIMIT: usize = 1 << 20;
/// Most bytes kept of a plugin's standard error: the last ones, where the cause is.
const STDERR_LIMIT: usize = 4 << 10;
/// How long the pipes of a plugin that has ended may stay open in a process that it left behind.
const DRAIN: Duration = Duration::from_millis(500);
/// A plugin that is just being installed cannot be executed until its writer has closed it.
const BUSY_RETRY: Duration = Duration::from_millis(20);
const BUSY_ATTEMPTS: u32 = 50;

/// Finds and starts plugins.
#[derive(Debug)]
pub(super) struct Invoker {
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) timeout: Duration,
}

/// One call of one plugin.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    pub(super) command: Command,
    pub(super) target: Option<&'a Target<'a>>,
    pub(super) input: Value,
}

/// What a plugin that exited with success wrote.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Stderr,
}

/// The plugin's process group, killed unless the plugin is known to have ended.
///
/// Only a plugin that has not been reaped may be killed by its number, so the guard is disarmed
/// right after the wait. It also covers a call that is given up in the middle.
struct Group(Option<Pid>);

/// What was read so far; it outlives the reading, so that a plugin that hangs can be quoted.
#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why a conversation was broken off before the plugin's end.
enum Broken {
    TooLong,
    Io(io::Error),
}

impl Invoker {
    /// The path of a plugin's executable.
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf, InvokeError> {
        let mut paths = self.bin_dirs.iter().map(|dir| dir.join(plugin));
        paths
            .find(|path| path.is_file())
            .ok_or_else(|| InvokeError::Missing {
                plugin: plugin.to_owned(),
                dirs: self
                    .bin_dirs
                    .iter()
                    .map(|dir| dir.to_string_lossy())
                    .collect::<Vec<_>>()
                    .join(":"),
            })
    }

    /// Whether all plugins of a list are there, asked before any of them is started.
    pub(super) fn find_all(&self, list: &NetworkList) -> Result<(), InvokeError> {
        list.plugins
            .iter()
            .try_for_each(|plugin| self.find(&plugin.kind).map(drop))
    }

    pub(super) async fn run(&self, call: Call<'_>) -> Result<Answer, InvokeError> {
        let span = tracing::debug_span!(
            "cni",
            plugin = call.plugin,
            command = call.command.as_str(),
            pod = call.target.map(|target| target.pod.pod_id.as_str()),
            elapsed_ms = tracing::field::Empty,
        );
        let timed = async {
            let started = Instant::now();
            let answer = self.exchange(&call).await;
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::Span::current().record("elapsed_ms", elapsed);
            tracing::debug!(elapsed_ms = elapsed, ok = answer.is_ok(), "plugin ended");
            answer
        };
        timed.instrument(span).await
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, InvokeError> {
        let (plugin, command) = (call.plugin.to_owned(), call.command);
        let mut child = match self.start(call).await? {
            Ok(child) => child,
            Err(source) => {
                return Err(InvokeError::Start {
                    plugin,
                    command,
                    source,
                });
            }
        };
        let mut group = Group::of(&child);
        let mut output = Output::default();
        let input = call.input.to_string().into_bytes();
        let conversation = converse(&mut child, &mut group, input, &mut output);
        let ended = tokio::time::timeout(self.timeout, conversation).await;
        if !matches!(ended, Ok(Ok(_))) {
            group.kill();
            // The plugin is reaped here; SIGKILL does not let it take long.
            let _ = child.wait().await;
            group.disarm();
        }
        let stderr = Stderr::new(&output.stderr);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(Answer {
                stdout: output.stdout,
                stderr,
            }),
            Ok(Ok(status)) => {
                let report = Report::read(&output.stdout);
                Err(InvokeError::Failed {
                    plugin,
                    command,
                    status,
                    report,
                    stderr,
                })
            }
            Ok(Err(Broken::TooLong)) => Err(InvokeError::TooLong {
                plugin,
                command,
                limit: ANSWER_LIMIT,
                stderr,
            }),
            Ok(Err(Broken::Io(source))) => Err(InvokeError::Talk {
                plugin,
                command,
                source,
            }),
            Err(_) => Err(InvokeError::Hung {
                plugin,
                command,
                limit: self.timeout,
                stderr,
            }),
        }
    }

    async fn start(&self, call: &Call<'_>) -> Result<io::Result<Child>, InvokeError> {
        let path = self.find(call.plugin)?;
        let environment = environment(call.command, call.target, &self.bin_dirs);
        let mut attempts = 0;
        loop {
            attempts += 1;
            #[expect(
                clippy::disallowed_methods,
                reason = "this is the one place of the controller that starts CNI plugins"
            )]
            let mut command = tokio::process::Command::new(&path);
            command
                .env_clear()
                .envs(environment.iter().map(|(key, value)| (key, value)))
                .current_dir("/")
                .process_group(0)
                .kill_on_drop(true)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            match command.spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && attempts < BUSY_ATTEMPTS =>
                {
                    tokio::time::sleep(BUSY_RETRY).await;
                }
                started => return Ok(started),
            }
        }
    }
}

/// Feeds the plugin and reads what it says until it has ended.
async fn converse(
    child: &mut Child,
    group: &mut Group,
    input: Vec<u8>,
    output: &mut Output,
) -> Result<ExitStatus, Broken> {
    let feed = feed(child.stdin.take(), input);
    let answer = read_answer(child.stdout.take(), &mut output.stdout);
    let complaints = read_tail(child.stderr.take(), &mut output.stderr);
    let mut pipes = pin!(async { tokio::try_join!(feed, answer, complaints).map(drop) });
    tokio::select! {
        closed = &mut pipes => {
            closed?;
            let status = child.wait().await?;
            group.disarm();
            Ok(status)
        }
        status = child.wait() => {
            group.disarm();
            // A process that the plugin left behind may hold the pipes: what it has is enough.
            if let Ok(closed) = tokio::time::timeout(DRAIN, &mut pipes).await {
                closed?;
            }
            Ok(status?)
        }
    }
}

/// A plugin need not read its input: one that has failed early has closed the pipe.
async fn feed(pipe: Option<ChildStdin>, input: Vec<u8>) -> Result<(), Broken> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    match pipe.write_all(&input).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Broken::Io(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads to the end or to the limit.
async fn read_answer(
    pipe: Option<impl AsyncRead + Unpin>,
    answer: &mut Vec<u8>,
) -> Result<(), Broken> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    while pipe.read_buf(answer).await? != 0 {
        if answer.len() > ANSWER_LIMIT {
            return Err(Broken::TooLong);
        }
    }
    Ok(())
}

/// Reads to the end and keeps the last bytes.
async fn read_tail(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) -> Result<(), Broken> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut piece = [0; 1024];
    loop {
        let read = pipe.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        tail.extend_from_slice(&piece[..read]);
        let surplus = tail.len().saturating_sub(STDERR_LIMIT);
        tail.drain(..surplus);
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Group(pid.map(Pid::from_raw))
    }

    fn kill(&self) {
        if let Some(pid) = self.0 {
            // The group may be gone already: then there is nothing to kill.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Answer {
    /// The error for an answer that cannot be used.
    pub(super) fn garbage(
        self,
        plugin: &str,
        command: Command,
        source: ResultError,
    ) -> InvokeError {
        InvokeError::Garbage {
            plugin: plugin.to_owned(),
            command,
            answer: printable(&self.stdout[..self.stdout.len().min(200)]),
            stderr: self.stderr,
            source,
        }
    }
}
