//! Openers that start local programs, with pipes or a terminal.

use std::os::fd::OwnedFd;
use std::process::Stdio as ChildStdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use husk_streaming::{
    BoxFuture, ByteStream, Connector, Opened, Opener, PortForwardSession, RemoteSession,
    SessionError, StdinEnd, Stdio, StreamSet,
};
use rustix::pty::OpenptFlags;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How often sessions were abandoned.
pub(crate) type Abandoned = Arc<AtomicUsize>;

/// Runs a shell script as the process of an exec.
pub(crate) struct Script {
    pub(crate) script: String,
    pub(crate) streams: StreamSet,
    pub(crate) abandoned: Abandoned,
}

pub(crate) fn piped(stdin: bool, stdout: bool, stderr: bool) -> StreamSet {
    StreamSet {
        stdin,
        stdout,
        stderr,
        tty: false,
    }
}

pub(crate) fn terminal(stdin: bool) -> StreamSet {
    StreamSet {
        stdin,
        stdout: true,
        stderr: false,
        tty: true,
    }
}

/// A session which runs a script, and the counter of its abandonment.
pub(crate) fn script(script: &str, streams: StreamSet) -> (RemoteSession, Abandoned) {
    let abandoned = Abandoned::default();
    let opener = Script {
        script: script.to_owned(),
        streams,
        abandoned: Arc::clone(&abandoned),
    };
    (
        RemoteSession {
            streams,
            opener: Box::new(opener),
        },
        abandoned,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of these tests that starts programs"
)]
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true);
    command
}

impl Opener for Script {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async move {
            let mut command = command("sh");
            command.arg("-c").arg(&self.script);
            let opened = if self.streams.tty {
                self.on_terminal(&mut command)
            } else {
                self.on_pipes(&mut command)
            };
            opened.map_err(|error| SessionError::new(error.to_string()))
        })
    }
}

impl Script {
    fn on_pipes(&self, command: &mut Command) -> std::io::Result<Opened> {
        let pipe = |wanted| {
            if wanted {
                ChildStdio::piped()
            } else {
                ChildStdio::null()
            }
        };
        command.stdin(pipe(self.streams.stdin));
        command.stdout(pipe(self.streams.stdout));
        command.stderr(pipe(self.streams.stderr));
        let mut child = command.spawn()?;
        let stdio = Stdio::Pipes {
            stdin: child
                .stdin
                .take()
                .map(|end| end.into_owned_fd())
                .transpose()?,
            stdout: child
                .stdout
                .take()
                .map(|end| end.into_owned_fd())
                .transpose()?,
            stderr: child
                .stderr
                .take()
                .map(|end| end.into_owned_fd())
                .transpose()?,
            resize: None,
        };
        Ok(self.opened(child, stdio))
    }

    fn on_terminal(&self, command: &mut Command) -> std::io::Result<Opened> {
        let (terminal, inside) = open_terminal()?;
        command
            .stdin(inside.try_clone()?)
            .stdout(inside.try_clone()?)
            .stderr(inside);
        let child = command.spawn()?;
        // The command holds copies of the inner side, which would keep the terminal open.
        command
            .stdin(ChildStdio::null())
            .stdout(ChildStdio::null())
            .stderr(ChildStdio::null());
        let stdio = Stdio::Terminal {
            terminal,
            on_stdin_end: StdinEnd::Type,
        };
        Ok(self.opened(child, stdio))
    }

    fn opened(&self, mut child: Child, stdio: Stdio) -> Opened {
        let abandoned = Arc::clone(&self.abandoned);
        Opened {
            stdio,
            exit: Box::pin(async move {
                let status = child.wait().await;
                let status = status.map_err(|error| SessionError::new(error.to_string()))?;
                Ok(status.code().unwrap_or(255))
            }),
            abandon: Some(Box::new(move || {
                abandoned.fetch_add(1, Ordering::SeqCst);
            })),
        }
    }
}

fn open_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let terminal = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::pty::grantpt(&terminal)?;
    rustix::pty::unlockpt(&terminal)?;
    let name = rustix::pty::ptsname(&terminal, Vec::new())?;
    let inside = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_string_lossy().as_ref())?;
    Ok((terminal, inside.into()))
}

/// An opener that fails with a text.
pub(crate) struct Failing(pub(crate) &'static str);

impl Opener for Failing {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async move { Err(SessionError::new(self.0)) })
    }
}

/// Connects to ports of this host.
pub(crate) struct Loopback;

impl Connector for Loopback {
    fn connect(&self, port: u16) -> BoxFuture<Result<Box<dyn ByteStream>, SessionError>> {
        Box::pin(async move {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn ByteStream>),
                Err(error) => Err(SessionError::new(error.to_string())),
            }
        })
    }
}

pub(crate) fn forward(ports: &[u16]) -> PortForwardSession {
    PortForwardSession {
        ports: ports.to_vec(),
        connector: Box::new(Loopback),
    }
}
