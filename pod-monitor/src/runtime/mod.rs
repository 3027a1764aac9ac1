//! The OCI runtime, as a program that is called.
//!
//! Owns: its argument vector (`arguments`, the only place that knows it), the time that a call may
//! take, and how what it said becomes an error (`said`, pure).
//!
//! Deliberately absent: what a call means for a container. A call that failed half-way is undone
//! by whoever made it.

mod arguments;
mod said;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::RuntimeConfig;

pub(crate) use arguments::{Call, Checkpoint};

use crate::reaper::{Ended, Hold, Reaper};
use crate::sys::signal::Status;
use crate::sys::{memfd, pipe, signal, spawn};

/// How long a call may take where the configuration does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a killed call may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Where crun, and runc before 1.2, mount themselves read-only for a moment, so that no container can
/// overwrite them; one that is killed then leaves that behind. Elsewhere than in `/tmp` it goes with the pod.
const STUBS: &str = "_LIBCONTAINER_STATEDIR";
/// How much of what the runtime said is looked at.
const SAID_MAX: usize = 16 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot start {}", program.display())]
    Missing {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{command} took longer than {} ms and was killed", timeout.as_millis())]
    TimedOut {
        command: &'static str,
        timeout: Duration,
    },
    #[error("{command} failed{}: {}", ending(*status), cause(said))]
    Refused {
        command: &'static str,
        status: Option<Status>,
        /// Empty where it did not say why.
        said: String,
    },
    #[error("{step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

impl CallError {
    /// Whether the runtime was killed, by the monitor or by somebody else, and how far it came is not known.
    pub(crate) fn is_cut_off(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Refused { status, .. } => matches!(status, Some(Status::Signal(_)) | None),
            Self::Missing { .. } | Self::Io { .. } => false,
        }
    }
}

fn ending(status: Option<Status>) -> String {
    match status {
        Some(Status::Code(code)) => format!(" with code {code}"),
        Some(Status::Signal(signal)) => format!(" by signal {signal}"),
        None => String::new(),
    }
}

fn cause(said: &str) -> &str {
    if said.is_empty() {
        "it did not say why"
    } else {
        said
    }
}

/// The cause in what a runtime wrote.
pub(crate) fn said(bytes: &[u8]) -> String {
    said::error(bytes).unwrap_or_default()
}

pub(crate) fn io_step(step: &'static str) -> impl Fn(io::Error) -> CallError {
    move |source| CallError::Io { step, source }
}

/// What a process that the runtime starts is connected with.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The configured runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    config: RuntimeConfig,
    run_directory: PathBuf,
    reaper: Rc<Reaper>,
    /// What the monitor's children get as their OOM score adjustment.
    oom_score: Option<String>,
    /// Who the containers' root is, where they have a user namespace.
    root: Option<(u32, u32)>,
    sequence: Cell<u32>,
}

/// A process that a call has made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    /// Keeps its end, should it have come already.
    pub(crate) hold: Hold,
}

impl Runtime {
    pub(crate) fn new(
        config: RuntimeConfig,
        run_directory: PathBuf,
        reaper: Rc<Reaper>,
        oom_score: Option<String>,
        root: Option<(u32, u32)>,
    ) -> Runtime {
        Runtime {
            config,
            run_directory,
            reaper,
            oom_score,
            root,
            sequence: Cell::new(0),
        }
    }

    /// What the monitor's children get as their OOM score adjustment.
    pub(crate) fn oom_score(&self) -> Option<&str> {
        self.oom_score.as_deref()
    }

    /// A name in the run directory that no other call uses.
    pub(crate) fn scratch(&self, kind: &str) -> Scratch {
        let number = self.sequence.get().wrapping_add(1);
        self.sequence.set(number);
        Scratch(self.run_directory.join(format!("{kind}-{number}")))
    }

    /// A call that makes no process.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<(), CallError> {
        self.run(call, None, None).await
    }

    /// A call with a document that the runtime reads.
    pub(crate) async fn call_with(
        &self,
        call: &Call<'_>,
        document: &[u8],
    ) -> Result<(), CallError> {
        let document = memfd::sealed("document", document).map_err(io_step("make a memfd"))?;
        self.run(call, None, Some(&document)).await
    }

    /// A call that makes a process and writes its id to `pid_file`.
    pub(crate) async fn make(
        &self,
        call: &Call<'_>,
        pid_file: &Path,
        stdio: Stdio,
        document: Option<&[u8]>,
    ) -> Result<Made, CallError> {
        let document = document
            .map(|bytes| memfd::sealed("process", bytes))
            .transpose()
            .map_err(io_step("make a memfd"))?;
        if let Some(root) = self.root {
            for stream in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
                pipe::give(stream, root).map_err(io_step("give a pipe to the container"))?;
            }
        }
        let hold = self.reaper.hold();
        self.run(call, Some(stdio), document.as_ref()).await?;
        let text = std::fs::read_to_string(pid_file).map_err(io_step("read the pid file"))?;
        match text.trim().parse() {
            Ok(pid) if pid > 0 => Ok(Made { pid, hold }),
            _ => Err(CallError::Io {
                step: "read the pid file",
                source: io::ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// Whether the runtime says that a container's program was started.
    pub(crate) async fn says_running(&self, id: &str) -> Result<bool, CallError> {
        let answer = memfd::empty("state").map_err(io_step("make a memfd"))?;
        let null = || pipe::null().map_err(io_step("open /dev/null"));
        let stdio = Stdio {
            stdin: null()?,
            stdout: answer.try_clone().map_err(io_step("duplicate a memfd"))?,
            stderr: null()?,
        };
        self.run(&Call::State { id }, Some(stdio), None).await?;
        let answer = memfd::head(&answer, SAID_MAX).map_err(io_step("read the state"))?;
        Ok(said::status(&answer).as_deref() == Some("running"))
    }

    async fn run(
        &self,
        call: &Call<'_>,
        stdio: Option<Stdio>,
        document: Option<&OwnedFd>,
    ) -> Result<(), CallError> {
        let log = memfd::empty("log").map_err(io_step("make a memfd"))?;
        let pid = self.spawn(call, stdio, document, &log)?;
        let command = call.command();
        let ended = self.wait(pid, call).await?;
        let status = match ended {
            Some(Ended {
                status: Status::Code(0),
                ..
            }) => return Ok(()),
            ended => ended.map(|ended| ended.status),
        };
        let bytes = memfd::tail(&log, SAID_MAX).unwrap_or_default();
        Err(CallError::Refused {
            command,
            status,
            said: said(&bytes),
        })
    }

    /// The streams are closed here as soon as the runtime has them: where the monitor held a
    /// pipe's end, the pipe would never end.
    fn spawn(
        &self,
        call: &Call<'_>,
        stdio: Option<Stdio>,
        document: Option<&OwnedFd>,
        log: &OwnedFd,
    ) -> Result<i32, CallError> {
        pipe::append(log).map_err(io_step("prepare the runtime's log"))?;
        let null = pipe::null().map_err(io_step("open /dev/null"))?;
        let streams = match &stdio {
            Some(stdio) => [&stdio.stdin, &stdio.stdout, &stdio.stderr],
            None => [&null, &null, log],
        };
        let extra: Vec<&OwnedFd> = [Some(log), document].into_iter().flatten().collect();
        let pid = spawn::spawn(&spawn::Program {
            path: &self.config.path,
            arguments: &arguments::arguments(&self.config, call),
            variable: (STUBS, &self.run_directory),
            streams,
            extra: &extra,
        })
        .map_err(|source| CallError::Missing {
            program: self.config.path.clone(),
            source,
        })?;
        if let Some(score) = &self.oom_score {
            // Before it has forked: what it starts must not be as protected as the monitor.
            drop(std::fs::write(format!("/proc/{pid}/oom_score_adj"), score));
        }
        Ok(pid)
    }

    async fn wait(&self, pid: i32, call: &Call<'_>) -> Result<Option<Ended>, CallError> {
        let command = call.command();
        let timeout = match call.limit().unwrap_or(self.config.timeout) {
            Duration::ZERO => DEFAULT_TIMEOUT,
            timeout => timeout,
        };
        let mut end = std::pin::pin!(self.reaper.watch(pid));
        if let Ok(ended) = tokio::time::timeout(timeout, &mut end).await {
            return Ok(ended);
        }
        // It leads a group of its own, so whatever it started goes with it.
        drop(signal::kill(-pid, 9));
        drop(signal::kill(pid, 9));
        drop(tokio::time::timeout(KILL_TIMEOUT, end).await);
        Err(CallError::TimedOut { command, timeout })
    }
}

/// A file that goes with the value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
