//! Processes that a test writes beforehand.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pod_monitor_schema::streams::{StreamMask, TOKEN_BYTES};
use pod_monitor_schema::wire::process;
use pod_monitor_schema::{
    Error, ErrorCode, ExecConfig, Exit, ExitStatus, Message as _, TerminalSize, write_result,
};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::door::Parcel;
use super::{Shared, now};

/// What an exec does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecScript {
    /// What it writes to standard output, or to its terminal.
    pub stdout: Vec<u8>,
    /// What it writes to standard error.
    pub stderr: Vec<u8>,
    /// When it ends, after that.
    pub end: ExecEnd,
    /// How it ends.
    pub status: ExitStatus,
}

/// When an exec ends, unless it is killed or its time is over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecEnd {
    /// When its output is written.
    Written,
    /// When its input is closed. Until then it writes what it reads to standard output.
    InputClosed,
    /// Not by itself.
    Never,
}

impl Default for ExecScript {
    fn default() -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            end: ExecEnd::Written,
            status: ExitStatus::Code(0),
        }
    }
}

type Reader = Box<dyn AsyncRead + Unpin>;
type Writer = Box<dyn AsyncWrite + Unpin>;

/// The process's ends of its streams.
struct Ends {
    stdin: Reader,
    stdout: Writer,
    stderr: Writer,
}

/// A process that plays.
pub(super) struct Playing {
    pub(super) token: [u8; TOKEN_BYTES],
    pub(super) process: process::Client,
}

/// Lets the process run. It is over when its container is.
pub(super) fn play(
    shared: &Arc<Shared>,
    config: &ExecConfig,
    script: ExecScript,
) -> io::Result<Playing> {
    let mut parcel = Parcel::default();
    let ends = ends(config, &mut parcel)?;
    let token = shared.door.leave(parcel)?;
    let (killed, signals) = watch::channel(None);
    let (ended, exit) = watch::channel(None);
    let (timeout, shared) = (config.timeout, Arc::clone(shared));
    let id = config.container_id.clone();
    spawn_local(async move {
        let status = tokio::select! {
            status = perform(script, ends) => status,
            signal = signal(signals) => ExitStatus::Signal(signal),
            () = over(timeout) => ExitStatus::TimedOut,
            () = exited(&shared, &id) => ExitStatus::Signal(9),
        };
        let exit = Exit {
            status,
            at: now(),
            oom_killed: false,
        };
        ended.send_replace(Some(exit));
    });
    let process = capnp_rpc::new_client(Process {
        exit,
        killed,
        terminal: config.terminal,
    });
    Ok(Playing { token, process })
}

fn ends(config: &ExecConfig, parcel: &mut Parcel) -> io::Result<Ends> {
    if config.terminal {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        parcel.add(StreamMask::TERMINAL, theirs.into());
        ours.set_nonblocking(true)?;
        let (stdin, stdout) = UnixStream::from_std(ours)?.into_split();
        return Ok(Ends {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::sink()),
        });
    }
    let mut ends = Ends {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(tokio::io::sink()),
        stderr: Box::new(tokio::io::sink()),
    };
    if config.streams.stdin {
        ends.stdin = Box::new(read_end(StreamMask::STDIN, parcel)?);
    }
    if config.streams.stdout {
        ends.stdout = Box::new(write_end(StreamMask::STDOUT, parcel)?);
    }
    if config.streams.stderr {
        ends.stderr = Box::new(write_end(StreamMask::STDERR, parcel)?);
    }
    Ok(ends)
}

/// A pipe whose other end goes into the parcel; this one is read.
pub(super) fn read_end(stream: StreamMask, parcel: &mut Parcel) -> io::Result<pipe::Receiver> {
    let (reader, writer): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    parcel.add(stream, writer);
    pipe::Receiver::from_owned_fd(reader)
}

/// A pipe whose other end goes into the parcel; this one is written.
pub(super) fn write_end(stream: StreamMask, parcel: &mut Parcel) -> io::Result<pipe::Sender> {
    let (reader, writer): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    parcel.add(stream, reader);
    pipe::Sender::from_owned_fd(writer)
}

/// A reader that went away does not change what the script says, only what arrives.
async fn perform(script: ExecScript, mut ends: Ends) -> ExitStatus {
    let stdout = async {
        let _ = ends.stdout.write_all(&script.stdout).await;
        if script.end == ExecEnd::InputClosed {
            let _ = tokio::io::copy(&mut ends.stdin, &mut ends.stdout).await;
        }
    };
    let stderr = async {
        let _ = ends.stderr.write_all(&script.stderr).await;
    };
    tokio::join!(stdout, stderr);
    if script.end == ExecEnd::Never {
        std::future::pending::<()>().await;
    }
    script.status
}

/// The first signal that kills.
async fn signal(mut signals: watch::Receiver<Option<u8>>) -> u8 {
    let got = signals.wait_for(Option::is_some).await;
    let signal = got.ok().and_then(|signal| *signal);
    match signal {
        Some(signal) => signal,
        // Nobody can send one any more.
        None => std::future::pending().await,
    }
}

async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Waits until the container has exited or is gone.
pub(super) async fn exited(shared: &Shared, id: &str) {
    let mut changed = shared.changed.subscribe();
    loop {
        // Apart from the loop's head, which would keep the pod locked through its body.
        let exit = shared.pod().exit_of(id);
        if !matches!(exit, Ok(None)) || changed.changed().await.is_err() {
            return;
        }
    }
}

struct Process {
    exit: watch::Receiver<Option<Exit>>,
    killed: watch::Sender<Option<u8>>,
    terminal: bool,
}

impl process::Server for Process {
    async fn wait(
        self: Rc<Self>,
        _: process::WaitParams,
        mut results: process::WaitResults,
    ) -> capnp::Result<()> {
        let mut exit = self.exit.clone();
        let exit = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        let result = exit
            .ok()
            .flatten()
            .ok_or_else(|| Error::new(ErrorCode::Internal, "wait", "exec", "the fake is stopped"));
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn kill(
        self: Rc<Self>,
        params: process::KillParams,
        mut results: process::KillResults,
    ) -> capnp::Result<()> {
        let signal = params.get()?.get_signal();
        let result = if self.exit.borrow().is_some() {
            Err(refuse("kill", "it has exited"))
        } else {
            self.killed.send_replace((signal != 0).then_some(signal));
            Ok(())
        };
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn resize(
        self: Rc<Self>,
        params: process::ResizeParams,
        mut results: process::ResizeResults,
    ) -> capnp::Result<()> {
        TerminalSize::read(params.get()?.get_size()?)?;
        let result = if self.terminal {
            Ok(())
        } else {
            Err(refuse("resize", "it has no terminal"))
        };
        write_result(&result, results.get().init_result());
        Ok(())
    }
}

fn refuse(operation: &str, detail: &str) -> Error {
    Error::new(ErrorCode::FailedPrecondition, operation, "exec", detail)
}
