//! Further processes in a container that runs.
//!
//! Owns: such a process from the OCI runtime's answer to its end. Its streams are not the
//! monitor's business: their other ends wait in the vault until the client fetches them.
//!
//! Deliberately absent: anything that outlives the process. What is left is its exit, in the hands
//! of those who hold the process.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use pod_monitor_schema::streams::{StreamMask, Token};
use pod_monitor_schema::{
    Error, ExecConfig, Exit, ExitStatus, ResumedExec, StreamSet, TerminalSize,
};
use tokio::time::Instant;

use crate::console::Console;
use crate::descent::Family;
use crate::errors;
use crate::fault;
use crate::outcome::Outcome;
use crate::reaper::{Ended, Reaper};
use crate::runtime::{Call, CallError, Made, Runtime, Stdio, io_step};
use crate::streams::Vault;
use crate::sys::signal::Status;
use crate::sys::{pipe, signal};

/// How long to wait between two rounds of killing.
const ROUND: Duration = Duration::from_millis(20);
/// Rounds after which what is left cannot be killed.
const ROUNDS: u32 = 250;

/// Those that run.
#[derive(Debug, Default)]
pub(crate) struct Execs(RefCell<Vec<Rc<Process>>>);

impl Execs {
    /// One that runs, or that was resumed and ended lately.
    pub(crate) fn find(&self, pid: i32) -> Option<Rc<Process>> {
        let execs = self.0.borrow();
        execs.iter().find(|process| process.pid == pid).cloned()
    }

    /// Whether the end of one that the reaper knows nothing of is still to be told.
    pub(crate) fn is_changing(&self, reaper: &Reaper) -> bool {
        let execs = self.0.borrow();
        let mut running = execs.iter().filter(|process| process.exit.get().is_none());
        running.any(|process| process.hunted.get() || !reaper.awaits(process.pid))
    }

    /// What another monitor needs to go on with them.
    pub(crate) fn hand_over(&self) -> Vec<ResumedExec> {
        let execs = self.0.borrow();
        let running = execs.iter().filter(|process| process.exit.get().is_none());
        running.map(|process| process.state()).collect()
    }

    /// Goes on with one. It is remembered for `time` beyond its end: who waited for it has to ask
    /// for it anew.
    pub(crate) fn resume(
        self: &Rc<Execs>,
        from: ResumedExec,
        terminal: Option<OwnedFd>,
        (reaper, time): (&Reaper, Duration),
    ) {
        let Ok(pid) = i32::try_from(from.pid) else {
            return;
        };
        let process = Rc::new(Process::new(pid, terminal, from.left));
        self.watch(process, reaper.watch(pid), time);
    }

    fn watch(
        self: &Rc<Execs>,
        process: Rc<Process>,
        ended: impl Future<Output = Option<Ended>> + 'static,
        time: Duration,
    ) {
        self.0.borrow_mut().push(Rc::clone(&process));
        let execs = Rc::clone(self);
        tokio::task::spawn_local(async move {
            Rc::clone(&process).supervise(ended).await;
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            let mut execs = execs.0.borrow_mut();
            execs.retain(|other| !Rc::ptr_eq(other, &process));
            if execs.is_empty() {
                *execs = Vec::new();
            }
        });
    }
}

/// A process in a container.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    exit: Outcome<Exit>,
    /// The process's side of its terminal, kept to set its size while the process lives.
    terminal: RefCell<Option<OwnedFd>>,
    /// When its time is over.
    deadline: Option<Instant>,
    /// Whether it is.
    hunted: Cell<bool>,
}

/// What an exec answers with.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) token: Token,
    pub(crate) process: Rc<Process>,
    pub(crate) at: i64,
}

/// What an exec needs of the pod.
#[derive(Debug)]
pub(crate) struct Means<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) reaper: &'a Reaper,
    pub(crate) execs: &'a Rc<Execs>,
    pub(crate) vault: &'a Rc<Vault>,
    pub(crate) token_time: Duration,
}

/// Starts a process. The caller has checked that the container runs.
pub(crate) async fn start(means: &Means<'_>, config: &ExecConfig) -> Result<Started, Error> {
    let id = &config.container_id;
    fault::point("monitor.exec.begin")?;
    let fail = |error: &CallError| errors::of_call("exec", id, error);
    let (made, terminal, mask, fds) = if config.terminal {
        let (made, master) = with_terminal(means, config).await.map_err(|e| fail(&e))?;
        let peer = pipe::terminal_peer(&master).ok();
        (made, peer, StreamMask::TERMINAL, vec![master])
    } else {
        let (made, mask, fds) = with_pipes(means, config).await.map_err(|e| fail(&e))?;
        (made, None, mask, fds)
    };
    fault::mark("monitor.exec.called");
    let Made { pid, hold } = made;
    let ended = means.reaper.watch(pid);
    drop(hold);
    let process = Rc::new(Process::new(pid, terminal, config.timeout));
    let token = means.vault.put(mask, fds, means.token_time);
    means
        .execs
        .watch(Rc::clone(&process), ended, Duration::ZERO);
    let token = token.map_err(|error| {
        process.kill(9);
        Error::io("exec", id, &error)
    })?;
    Ok(Started {
        token,
        process,
        at: crate::sys::clock::now(),
    })
}

async fn with_terminal(
    means: &Means<'_>,
    config: &ExecConfig,
) -> Result<(Made, OwnedFd), CallError> {
    let console = Console::bind(means.runtime).map_err(io_step("bind the console socket"))?;
    let null = || pipe::null().map_err(io_step("open /dev/null"));
    let stdio = Stdio {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    };
    let made = call(means, config, stdio, Some(&console)).await?;
    match receive(console, config.size).await {
        Ok(master) => Ok((made, master)),
        Err(error) => {
            // Nobody could ever speak with it. It is the monitor's child, so the number is its own.
            drop(signal::kill(made.pid, 9));
            Err(error)
        }
    }
}

async fn receive(console: Console, size: Option<TerminalSize>) -> Result<OwnedFd, CallError> {
    let master = console
        .receive()
        .await
        .map_err(io_step("receive the terminal"))?;
    if let Some(size) = size {
        pipe::set_terminal_size(&master, size.columns, size.rows)
            .map_err(io_step("set the terminal's size"))?;
    }
    Ok(master)
}

async fn with_pipes(
    means: &Means<'_>,
    config: &ExecConfig,
) -> Result<(Made, StreamMask, Vec<OwnedFd>), CallError> {
    let (stdio, mask, fds) = pipes(config.streams).map_err(io_step("make pipes"))?;
    let made = call(means, config, stdio, None).await?;
    Ok((made, mask, fds))
}

fn pipes(wanted: StreamSet) -> io::Result<(Stdio, StreamMask, Vec<OwnedFd>)> {
    let mut mask = StreamMask::default();
    let mut ours = Vec::new();
    let mut end = |wanted: bool, bit, input: bool| -> io::Result<OwnedFd> {
        if !wanted {
            return pipe::null();
        }
        let pipe = pipe::pipe()?;
        let (kept, given) = if input {
            (pipe.write, pipe.read)
        } else {
            (pipe.read, pipe.write)
        };
        mask = mask.with(bit);
        ours.push(kept);
        Ok(given)
    };
    let stdio = Stdio {
        stdin: end(wanted.stdin, StreamMask::STDIN, true)?,
        stdout: end(wanted.stdout, StreamMask::STDOUT, false)?,
        stderr: end(wanted.stderr, StreamMask::STDERR, false)?,
    };
    Ok((stdio, mask, ours))
}

async fn call(
    means: &Means<'_>,
    config: &ExecConfig,
    stdio: Stdio,
    console: Option<&Console>,
) -> Result<Made, CallError> {
    let pid_file = means.runtime.scratch("pid");
    let call = Call::Exec {
        id: &config.container_id,
        pid_file: pid_file.path(),
        console_socket: console.map(Console::path),
    };
    means
        .runtime
        .make(&call, pid_file.path(), stdio, Some(&config.process))
        .await
}

impl Process {
    fn new(pid: i32, terminal: Option<OwnedFd>, timeout: Option<Duration>) -> Process {
        Process {
            pid,
            exit: Outcome::new(None),
            terminal: RefCell::new(terminal),
            // A moment that cannot be computed is never.
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            hunted: Cell::new(false),
        }
    }

    fn state(&self) -> ResumedExec {
        ResumedExec {
            pid: self.pid.unsigned_abs(),
            terminal: self.terminal.borrow().as_ref().map(pipe::number),
            left: self.deadline.map(|at| at.duration_since(Instant::now())),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, once it has.
    pub(crate) async fn wait(&self) -> Exit {
        self.exit.wait().await
    }

    /// Signals it and all that descend from it.
    pub(crate) fn kill(&self, signal: u8) {
        if self.exit.get().is_none() {
            Family::of(self.pid).signal(signal);
        }
    }

    /// Sets the size of its terminal. `None` where it has none, or not any more.
    pub(crate) fn resize(&self, size: TerminalSize) -> Option<io::Result<()>> {
        let terminal = self.terminal.borrow();
        let terminal = terminal.as_ref()?;
        Some(pipe::set_terminal_size(terminal, size.columns, size.rows))
    }

    async fn supervise(self: Rc<Process>, ended: impl Future<Output = Option<Ended>>) {
        let mut ended = std::pin::pin!(ended);
        let timed_out = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let exit = tokio::select! {
            ended = &mut ended => exit_of(ended),
            () = timed_out => {
                self.hunted.set(true);
                hunt(self.pid).await;
                Exit { status: ExitStatus::TimedOut, ..exit_of(ended.await) }
            }
        };
        // Its other side ends when nobody holds this one.
        self.terminal.take();
        self.exit.set(exit);
    }
}

/// Kills until nobody of the family is left: who forks while it is killed is found next time.
async fn hunt(pid: i32) {
    let mut family = Family::of(pid);
    for _ in 0..ROUNDS {
        if family.signal(9) == 0 {
            return;
        }
        tokio::time::sleep(ROUND).await;
    }
}

const LOST: Exit = Exit {
    status: ExitStatus::Lost,
    at: 0,
    oom_killed: false,
};

/// The contract's word for the end of a child.
pub(crate) fn exit_of(ended: Option<Ended>) -> Exit {
    let Some(ended) = ended else {
        return Exit {
            at: crate::sys::clock::now(),
            ..LOST
        };
    };
    Exit {
        status: match ended.status {
            Status::Code(code) => ExitStatus::Code(code),
            Status::Signal(signal) => ExitStatus::Signal(signal),
        },
        at: ended.at,
        oom_killed: false,
    }
}
