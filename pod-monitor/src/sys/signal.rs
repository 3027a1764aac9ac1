//! Signals as a descriptor, and the state of ended children.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;

use super::watched::{self, Watched};

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// It called exit with this code.
    Code(u8),
    /// A signal of this number ended it.
    Signal(u8),
}

/// Readable when a child has changed its state.
#[derive(Debug)]
pub(crate) struct ChildSignals(Watched);

impl ChildSignals {
    /// To be called in the runtime. Blocks every signal that would end or disturb the monitor and makes the descriptor.
    ///
    /// A monitor outlives the terminal, the session and the program that started it, so the
    /// signals by which those end their children are blocked and never looked at. `SIGPIPE` is
    /// blocked too: writes to a peer that went away answer `EPIPE`.
    pub(crate) fn take_over() -> io::Result<ChildSignals> {
        let mut blocked = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGQUIT,
            Signal::SIGPIPE,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGALRM,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            blocked.add(signal);
        }
        blocked.thread_block()?;
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&children, flags)?;
        let fd = fd.as_fd().try_clone_to_owned()?;
        Ok(ChildSignals(watched::watch(fd, Interest::READABLE)?))
    }

    /// Waits until children have ended since the last call. Signals of one number are merged by
    /// the kernel, so how many there are says nothing: the children have to be asked.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(ready.get_inner(), &mut record) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Before the children are asked: one that ends in between signals again.
        ready.clear_ready();
        Ok(())
    }
}

/// Takes the status of one child that has ended, if there is one.
pub(crate) fn reap_any() -> Option<(i32, Status)> {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                return Some((pid.as_raw(), Status::Code(low_byte(code))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Some((pid.as_raw(), Status::Signal(low_byte(signal as i32))));
            }
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

fn low_byte(number: i32) -> u8 {
    number.to_le_bytes()[0]
}

/// Sends a signal to a process, or to a process group where `pid` is negative. A process that is
/// gone is no error: what the signal was for has happened.
pub(crate) fn kill(pid: i32, signal: u8) -> io::Result<()> {
    // SAFETY: kill(2) reads its two integers only.
    let result = unsafe { libc::kill(pid, i32::from(signal)) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}
