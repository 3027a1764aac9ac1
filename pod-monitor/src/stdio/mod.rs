//! The standard streams of a container: from its pipes or its terminal to the log and to attached
//! clients, and from clients to its input.
//!
//! One task reads one stream. It reads into the process's one buffer, writes the log, offers the
//! bytes to every client of the stream, and reads on when all have taken them: so no byte is lost
//! to a client silently, and a client that takes nothing delays the stream until it is dropped.
//!
//! Deliberately absent: what is done with a container that has ended. The tasks end by themselves
//! and whoever started them waits for that.

mod client;
mod input;
mod pump;
mod resume;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::streams::StreamMask;
use pod_monitor_schema::{
    AttachEnd, EventKind, ResumedClient, ResumedContainer, ResumedOutput, Stdin, StreamSet,
};
use tokio::io::Interest;
use tokio::task::JoinHandle;

pub(crate) use client::Client;

pub(crate) use resume::Remains;

use crate::log::Stream;
use crate::log::splitter::Splitter;
use crate::log::writer::LogFile;
use crate::outcome::Outcome;
use crate::runtime::Stdio;
use crate::sys::watched::{self, Watched};
use crate::sys::{clock, pipe};

/// The bounds that streams are handled within.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) line_bytes: usize,
    pub(crate) flush: Duration,
    pub(crate) stall: Duration,
}

/// Told what subscribers are to hear of.
pub(crate) type Tell = Box<dyn Fn(EventKind)>;

/// A stream of the container's that is read. What is here is whole whenever its task waits, so that
/// another monitor can go on with it.
#[derive(Debug)]
struct Output {
    stream: Stream,
    source: Rc<Watched>,
    splitter: RefCell<Splitter>,
}

/// The streams of one container.
pub(crate) struct Streams {
    bounds: Bounds,
    log: RefCell<Option<LogFile>>,
    tell: Tell,
    losing: Cell<bool>,
    outputs: RefCell<Vec<Rc<Output>>>,
    stdin: RefCell<Option<Rc<Watched>>>,
    stdin_mode: Stdin,
    terminal: RefCell<Option<Rc<Watched>>>,
    /// What the log lacks, once it is closed.
    lost: Cell<u64>,
    clients: RefCell<Vec<Rc<Client>>>,
    /// Whether somebody holds duplicates of the descriptors.
    escrowed: Cell<bool>,
    /// Whether the container's first process has ended.
    ended: Outcome<()>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin_mode", &self.stdin_mode)
            .field("clients", &self.clients.borrow().len())
            .finish_non_exhaustive()
    }
}

/// Where streams go.
pub(crate) struct Setup {
    pub(crate) bounds: Bounds,
    pub(crate) log: Option<LogFile>,
    pub(crate) tell: Tell,
    pub(crate) stdin: Stdin,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

/// The monitor's ends of a container's pipes.
#[derive(Debug)]
pub(crate) struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Ends {
    /// Makes pipes, and what the container gets of them.
    pub(crate) fn pipes(stdin: Stdin) -> io::Result<(Ends, Stdio)> {
        let (stdout, stderr) = (pipe::pipe()?, pipe::pipe()?);
        let (ours, theirs) = match stdin {
            Stdin::None => (None, pipe::null()?),
            Stdin::Open | Stdin::Once => {
                let stdin = pipe::pipe()?;
                pipe::unblock(&stdin.write)?;
                (Some(stdin.write), stdin.read)
            }
        };
        pipe::unblock(&stdout.read)?;
        pipe::unblock(&stderr.read)?;
        let ends = Ends {
            stdin: ours,
            stdout: stdout.read,
            stderr: stderr.read,
        };
        let stdio = Stdio {
            stdin: theirs,
            stdout: stdout.write,
            stderr: stderr.write,
        };
        Ok((ends, stdio))
    }

    /// What is in the pipe of errors now: what an OCI runtime said that failed.
    pub(crate) fn errors(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let read = rustix::io::read(&self.stderr, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// Throws away what is in the pipes before the container's program runs: warnings of the OCI
    /// runtime, which are no output of the container's.
    pub(crate) fn discard(&self) {
        let mut bytes = [0; 1024];
        for fd in [&self.stdout, &self.stderr] {
            while rustix::io::read(fd, &mut bytes).is_ok_and(|read| read > 0) {}
        }
    }
}

/// What a container's streams are made of.
#[derive(Debug)]
pub(crate) enum Connection {
    Pipes(Ends),
    /// The controlling side, and what the OCI runtime itself wrote to.
    Terminal(OwnedFd),
    /// What another monitor has left.
    Remains(Remains),
}

impl Streams {
    /// To be called in the runtime, which watches the descriptors.
    pub(crate) fn new(setup: Setup, connection: Connection) -> io::Result<Rc<Streams>> {
        let (mut outputs, mut stdin, mut terminal) = (Vec::new(), None, None);
        let mut clients = Vec::new();
        let mut escrowed = false;
        match connection {
            Connection::Pipes(ends) => {
                outputs.push((Stream::Stdout, ends.stdout, Vec::new()));
                outputs.push((Stream::Stderr, ends.stderr, Vec::new()));
                stdin = ends.stdin;
            }
            Connection::Terminal(master) => terminal = Some((master, Vec::new())),
            Connection::Remains(remains) => {
                outputs = remains.outputs;
                (stdin, terminal) = (remains.stdin, remains.terminal);
                (clients, escrowed) = (remains.clients, remains.escrowed);
            }
        }
        let watch = |fd, interest| watched::watch(fd, interest).map(Rc::new);
        let stdin = stdin.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?;
        let output = |stream, source, unfinished| {
            let splitter = Splitter::resume(setup.bounds.line_bytes, unfinished);
            Rc::new(Output {
                stream,
                source,
                splitter: RefCell::new(splitter),
            })
        };
        let mut watched = Vec::new();
        for (stream, fd, unfinished) in outputs {
            let source = watch(fd, Interest::READABLE)?;
            watched.push(output(stream, source, unfinished));
        }
        let mut master = None;
        if let Some((fd, unfinished)) = terminal {
            pipe::unblock(&fd)?;
            let both = watch(fd, Interest::READABLE | Interest::WRITABLE)?;
            watched.push(output(Stream::Stdout, Rc::clone(&both), unfinished));
            master = Some(both);
        }
        let typed = master.clone().filter(|_| setup.stdin != Stdin::None);
        let streams = Rc::new(Streams {
            bounds: setup.bounds,
            log: RefCell::new(setup.log),
            tell: setup.tell,
            losing: Cell::new(false),
            outputs: RefCell::new(watched),
            stdin: RefCell::new(stdin.or(typed)),
            stdin_mode: setup.stdin,
            terminal: RefCell::new(master),
            lost: Cell::new(0),
            clients: RefCell::default(),
            escrowed: Cell::new(escrowed),
            ended: Outcome::new(None),
        });
        streams.take_back(clients)?;
        Ok(streams)
    }

    /// Starts the tasks that read. Each ends when its stream has ended, or was given up on after
    /// `end` was called.
    pub(crate) fn read(self: &Rc<Streams>) -> Vec<JoinHandle<()>> {
        let outputs = self.outputs.borrow().clone();
        if outputs.is_empty() {
            self.finish();
        }
        let pump = |output| tokio::task::spawn_local(pump::pump(Rc::clone(self), output));
        outputs.into_iter().map(pump).collect()
    }

    /// A stream has ended: its descriptor is closed, and after the last one all else is.
    fn forget(&self, output: &Rc<Output>) {
        let mut outputs = self.outputs.borrow_mut();
        outputs.retain(|other| !Rc::ptr_eq(other, output));
        let was_last = outputs.is_empty();
        drop(outputs);
        if was_last {
            self.finish();
        }
    }

    /// The container's first process has ended: what is in the pipes is read, and whoever still
    /// holds them is not waited for much longer.
    pub(crate) fn end(&self) {
        self.ended.set(());
    }

    fn finish(&self) {
        for client in self.clients.take() {
            client.end(AttachEnd::ContainerExited);
        }
        self.stdin.take();
        self.terminal.take();
        if let Some(log) = self.log.borrow_mut().as_mut() {
            log.settle(clock::now());
        }
        self.outputs.take();
        self.lost.set(self.lost());
        self.log.take();
        if self.losing.get() {
            (self.tell)(EventKind::LogLost {
                bytes: self.lost.get(),
            });
        }
    }

    /// Bytes that the log lacks.
    pub(crate) fn lost(&self) -> u64 {
        let log = self.log.borrow();
        log.as_ref().map_or(self.lost.get(), LogFile::lost)
    }

    /// See [`LogFile::reopen`]. `None` where nothing is written, or no longer.
    pub(crate) fn reopen_log(&self) -> Option<io::Result<()>> {
        self.log.borrow_mut().as_mut().map(LogFile::reopen)
    }

    /// Sets the terminal's size. `None` where there is no terminal.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Option<io::Result<()>> {
        let terminal = self.terminal.borrow().clone()?;
        Some(pipe::set_terminal_size(terminal.get_ref(), columns, rows))
    }

    /// Connects a client from the next byte on. Answers its ends, in the order of the mask's bits.
    pub(crate) fn attach(
        self: &Rc<Streams>,
        number: u32,
        wanted: StreamSet,
    ) -> io::Result<(Rc<Client>, StreamMask, Vec<OwnedFd>)> {
        let mut mask = StreamMask::default();
        let mut theirs = Vec::new();
        let mut stdin = None;
        if wanted.stdin && self.stdin.borrow().is_some() {
            let pipe = pipe::pipe()?;
            pipe::unblock(&pipe.read)?;
            stdin = Some(pipe.read);
            theirs.push(pipe.write);
            mask = mask.with(StreamMask::STDIN);
        }
        let mut output = |wanted: bool, bit| -> io::Result<Option<OwnedFd>> {
            if !wanted {
                return Ok(None);
            }
            let pipe = pipe::pipe()?;
            pipe::unblock(&pipe.write)?;
            theirs.push(pipe.read);
            mask = mask.with(bit);
            Ok(Some(pipe.write))
        };
        let stdout = output(wanted.stdout, StreamMask::STDOUT)?;
        // A terminal has one stream for both.
        let separate = wanted.stderr && self.terminal.borrow().is_none();
        let stderr = output(separate, StreamMask::STDERR)?;
        let client = Client::new(number, stdout, stderr)?;
        self.clients.borrow_mut().push(Rc::clone(&client));
        if let Some(stdin) = stdin {
            input::spawn(self, &client, stdin)?;
        }
        client::watch_hangup(self, &client, mask.contains(StreamMask::STDIN));
        Ok((client, mask, theirs))
    }

    /// The container reads the end of its input, once whoever holds a duplicate drops it.
    fn close_stdin(&self) {
        if self.stdin.take().is_some() && self.escrowed.get() {
            (self.tell)(EventKind::StdinClosed);
        }
    }

    /// Drops a client.
    pub(crate) fn detach(&self, client: &Rc<Client>, end: AttachEnd) {
        self.clients
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, client));
        client.end(end);
    }

    /// Opens the log where the configuration names one.
    pub(crate) fn open_log(path: Option<&Path>) -> io::Result<Option<LogFile>> {
        path.map(LogFile::open).transpose()
    }
}
