//! An exec or attach session: a process's streams on one side, channels on the other.
//!
//! Output is read to its end before the verdict is sent, so nothing the process
//! wrote is lost. A child that outlives the process and holds its pipes open does
//! not hold the session: see [`Drain`].

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fd::Fd;
use crate::link::{CHUNK, Inbound, Outbound, Received};
use crate::resize::SizeReader;
use crate::session::{Opened, Opener, Resize, SessionError, Size, StdinEnd, Stdio};
use crate::status::{StatusFormat, Verdict};

/// Bytes a pipe can hold by default at most (`/proc/sys/fs/pipe-max-size`).
const PIPE: usize = 1024 * 1024;

/// How long an open but silent pipe is listened to after the process has ended.
const QUIET: Duration = Duration::from_millis(500);

/// When the output of a process that has ended counts as complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// At its end, or when its pipe was silent for [`QUIET`], or after as much as a
    /// pipe can have held at the exit. For an exec, whose orphans may hold the pipe.
    ExitPlusPipe,
    /// At its end only. For an attach: whoever feeds it closes it.
    ToEnd,
}

/// The client's channels of one session.
#[derive(Debug)]
pub(crate) struct RemoteChannels {
    pub(crate) stdin: Option<Inbound>,
    pub(crate) stdout: Option<Outbound>,
    pub(crate) stderr: Option<Outbound>,
    pub(crate) resize: Option<Inbound>,
    pub(crate) error: Outbound,
    /// The unused halves of the channels above, to be finished with the session.
    pub(crate) spare: Vec<Outbound>,
}

/// How the end is told and found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) drain: Drain,
    pub(crate) format: StatusFormat,
}

pub(crate) async fn run(
    opener: Box<dyn Opener>,
    mut channels: RemoteChannels,
    manner: Manner,
    tasks: &TaskTracker,
) {
    let verdict = match open(opener, tasks).await {
        Err(error) => Verdict::Failed(error.to_string()),
        Ok(process) => attend(process, &mut channels, manner.drain).await,
    };
    if let Some(text) = verdict.render(manner.format) {
        let _ = channels.error.write(text).await;
    }
    channels.error.finish().await;
    for rest in channels
        .spare
        .into_iter()
        .chain(channels.stdout)
        .chain(channels.stderr)
    {
        rest.finish().await;
    }
}

/// A process whose opener is told when it is left behind.
struct Process {
    stdio: Stdio,
    exit: crate::session::BoxFuture<Result<i32, SessionError>>,
    abandon: Abandon,
}

/// Calls on drop, unless the process has ended by itself.
struct Abandon(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(abandon) = self.0.take() {
            abandon();
        }
    }
}

/// In its own task, so that a client which goes away does not leave half a process:
/// what was opened for nobody is abandoned when it is dropped.
async fn open(opener: Box<dyn Opener>, tasks: &TaskTracker) -> Result<Process, SessionError> {
    let (sender, opened) = oneshot::channel();
    tasks.spawn(async move {
        let result = opener.open().await.map(
            |Opened {
                 stdio,
                 exit,
                 abandon,
             }| Process {
                stdio,
                exit,
                abandon: Abandon(abandon),
            },
        );
        // A receiver that is gone leaves the process to its guard.
        let _ = sender.send(result);
    });
    opened
        .await
        .unwrap_or_else(|_| Err(SessionError::new("the session could not be opened")))
}

async fn attend(process: Process, channels: &mut RemoteChannels, drain: Drain) -> Verdict {
    let Process {
        stdio,
        exit,
        mut abandon,
    } = process;
    let ends = match Ends::new(stdio) {
        Ok(ends) => ends,
        Err(error) => return Verdict::Failed(format!("standard streams: {error}")),
    };
    let exited = CancellationToken::new();
    let ending = Ending {
        exited: exited.clone(),
        drain,
    };
    let Ends {
        stdin,
        stdout,
        stderr,
        terminal,
    } = ends;
    let input = feed(channels.stdin.take(), stdin);
    let sizes = follow_sizes(channels.resize.take(), terminal);
    let outputs = async {
        tokio::join!(
            pump(stdout, channels.stdout.take(), &ending),
            pump(stderr, channels.stderr.take(), &ending),
        )
    };
    let exit = async {
        let result = exit.await;
        abandon.0 = None;
        exited.cancel();
        result
    };
    let both = async { tokio::join!(exit, outputs) };
    let (result, _) = tokio::select! {
        both = both => both,
        () = async { tokio::join!(input, sizes); pending().await } => return Verdict::Exited(0),
    };
    match result {
        Ok(code) => Verdict::Exited(code),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

/// The fds of a process, registered with the runtime.
struct Ends {
    stdin: Option<Stdin>,
    stdout: Option<Arc<Fd>>,
    stderr: Option<Arc<Fd>>,
    terminal: Option<Terminal>,
}

struct Stdin {
    fd: Arc<Fd>,
    on_end: Option<StdinEnd>,
}

/// Whose size a client may set.
enum Terminal {
    Ours(Arc<Fd>),
    Elsewhere(Resize),
}

impl Ends {
    fn new(stdio: Stdio) -> std::io::Result<Ends> {
        match stdio {
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
                resize,
            } => {
                let register = |fd: Option<_>| fd.map(Fd::new).transpose();
                let stdin = register(stdin)?.map(|fd| Stdin {
                    fd: Arc::new(fd),
                    on_end: None,
                });
                Ok(Ends {
                    stdin,
                    stdout: register(stdout)?.map(Arc::new),
                    stderr: register(stderr)?.map(Arc::new),
                    terminal: resize.map(Terminal::Elsewhere),
                })
            }
            Stdio::Terminal {
                terminal,
                on_stdin_end,
            } => {
                let fd = Arc::new(Fd::new(terminal)?);
                Ok(Ends {
                    stdin: Some(Stdin {
                        fd: Arc::clone(&fd),
                        on_end: Some(on_stdin_end),
                    }),
                    stdout: Some(Arc::clone(&fd)),
                    stderr: None,
                    terminal: Some(Terminal::Ours(fd)),
                })
            }
        }
    }
}

/// From the client to the process, until either stops.
async fn feed(from: Option<Inbound>, to: Option<Stdin>) {
    let (Some(mut from), Some(to)) = (from, to) else {
        return;
    };
    let mut line_open = false;
    loop {
        match from.next().await {
            Received::Bytes(bytes) => {
                line_open = bytes.last() != Some(&b'\n');
                if to.fd.write_all(&bytes).await.is_err() {
                    // The process closed its input; what the client still sends is dropped.
                    return;
                }
            }
            Received::End => {
                if to.on_end == Some(StdinEnd::Type) {
                    type_end(&to.fd, line_open).await;
                }
                // Dropping the fd closes the pipe.
                return;
            }
            // Not an end of input but of the client, most likely: an attached process
            // must not see its input closed because of that.
            Received::Reset => return pending().await,
        }
    }
}

/// In canonical mode the end-of-file character ends the input only at the start of
/// a line; elsewhere the first one just hands over the line so far (`termios(3)`).
async fn type_end(terminal: &Fd, line_open: bool) {
    let Ok(modes) = rustix::termios::tcgetattr(terminal) else {
        return;
    };
    if !modes.local_modes.contains(LocalModes::ICANON) {
        return;
    }
    let end = modes.special_codes[SpecialCodeIndex::VEOF];
    let typed = if line_open { vec![end, end] } else { vec![end] };
    let _ = terminal.write_all(&typed).await;
}

async fn follow_sizes(from: Option<Inbound>, terminal: Option<Terminal>) {
    let (Some(mut from), Some(terminal)) = (from, terminal) else {
        return;
    };
    let mut reader = SizeReader::default();
    while let Received::Bytes(bytes) = from.next().await {
        match reader.feed(&bytes) {
            Ok(sizes) => sizes.into_iter().for_each(|size| terminal.set(size)),
            Err(error) => {
                tracing::debug!(%error, "sizes are ignored from now on");
                return;
            }
        }
    }
}

impl Terminal {
    fn set(&self, size: Size) {
        let fd = match self {
            Self::Elsewhere(resize) => return resize(size),
            Self::Ours(fd) => fd,
        };
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // Fails only where the process, and with it the terminal, is gone already.
        let _ = rustix::termios::tcsetwinsize(&**fd, size);
    }
}

struct Ending {
    exited: CancellationToken,
    drain: Drain,
}

impl Ending {
    /// Resolves when a silent output counts as complete.
    async fn quiet(&self) {
        self.exited.cancelled().await;
        match self.drain {
            Drain::ExitPlusPipe => sleep(QUIET).await,
            Drain::ToEnd => pending().await,
        }
    }

    /// Whether an output that never ends has given all it had at the exit.
    fn is_satisfied(&self, after_exit: usize) -> bool {
        self.drain == Drain::ExitPlusPipe && after_exit > PIPE
    }
}

/// From the process to the client, until the output ends or the client is gone.
async fn pump(from: Option<Arc<Fd>>, to: Option<Outbound>, ending: &Ending) {
    let (Some(from), Some(to)) = (from, to) else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    let mut after_exit = 0;
    while !ending.is_satisfied(after_exit) {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = ending.quiet() => break,
        };
        let Some(bytes) = read.ok().and_then(|length| buffer.get(..length)) else {
            break;
        };
        if bytes.is_empty() || to.write(Bytes::copy_from_slice(bytes)).await.is_err() {
            break;
        }
        if ending.exited.is_cancelled() {
            after_exit += bytes.len();
        }
    }
    to.finish().await;
}
