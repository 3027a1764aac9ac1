//! The monitor's own process: what it inherits, and what it is to the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

/// What the monitor was given when it was started.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// A sealed memfd with the start-up configuration.
    pub(crate) config: OwnedFd,
    /// A listening unix socket, for calls.
    pub(crate) calls: OwnedFd,
    /// A listening unix socket, for streams.
    pub(crate) streams: OwnedFd,
}

/// Takes the three descriptors that a monitor is started with, numbers 3, 4 and 5, marks them to
/// be closed on exec and closes every other but the standard streams.
///
/// # Errors
/// The kernel's where one of them is not open.
pub(crate) fn inherit() -> io::Result<Inherited> {
    close_from(6)?;
    fill_standard_streams()?;
    Ok(Inherited {
        config: take(3)?,
        calls: take(4)?,
        streams: take(5)?,
    })
}

fn take(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: called once for each number, before anything else of the process opens
    // descriptors, so nobody else owns it; that it is open is checked next.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(error) => {
            // Not open: closing it would be closing nothing, or worse.
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// Opens `/dev/null` for standard streams that are closed, lest something else gets the number.
fn fill_standard_streams() -> io::Result<()> {
    loop {
        let fd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if std::os::fd::AsRawFd::as_raw_fd(&fd) > 2 {
            return Ok(());
        }
        std::mem::forget(fd);
    }
}

/// Closes every descriptor from this number on.
pub(crate) fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: called before anything of the process owns a descriptor of these numbers, or in a
    // forked child that owns none.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the process what a monitor is: a session of its own, the one that orphans of its
/// children are given to, known by its name.
///
/// Answers the OOM score adjustment that the monitor had and its children should have, where it
/// could be lowered for the monitor.
///
/// # Errors
/// The kernel's, where the process cannot become a subreaper.
pub(crate) fn become_monitor() -> io::Result<Option<String>> {
    // Fails where the process leads a group already; then whoever started it saw to it.
    let _ = rustix::process::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_name(c"pod-monitor")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // To lower the score needs a capability that may be missing: it is a wish.
    let inherited = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    let lowered = std::fs::write("/proc/self/oom_score_adj", "-999").is_ok();
    Ok(lowered.then_some(inherited))
}
