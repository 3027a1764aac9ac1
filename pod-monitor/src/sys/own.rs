//! The monitor's own process: what it inherits, and what it is to the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use pod_monitor_schema::layout::{FIRST_RESUMED_FD, RESUME_FD};
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::{DupFlags, FdFlags};

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

/// What a monitor goes on from has this number; one that begins a pod keeps it occupied.
#[derive(Debug)]
pub(crate) struct Place(OwnedFd);

impl Place {
    /// The sealed memfd that the monitor was started with here, where it was.
    pub(crate) fn message(&self) -> Option<&OwnedFd> {
        is_sealed(&self.0).then_some(&self.0)
    }

    /// Lets go of what was read.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let null = super::pipe::null()?;
        Ok(rustix::io::dup3(&null, &mut self.0, DupFlags::CLOEXEC)?)
    }

    pub(crate) fn fd(&mut self) -> &mut OwnedFd {
        &mut self.0
    }
}

/// Takes the three descriptors that a monitor is started with, numbers 3, 4 and 5, and marks them
/// to be closed on exec. Others than the standard streams stay open until [`keep`] is called.
///
/// # Errors
/// The kernel's where one of them is not open.
pub(crate) fn inherit() -> io::Result<(Inherited, Place)> {
    fill_standard_streams()?;
    let inherited = Inherited {
        config: take(3)?,
        calls: take(4)?,
        streams: take(5)?,
    };
    match take(RESUME_FD) {
        Ok(fd) if is_sealed(&fd) => return Ok((inherited, Place(fd))),
        Ok(_) | Err(_) => {}
    }
    let null = super::pipe::null()?;
    if std::os::fd::AsRawFd::as_raw_fd(&null) == RESUME_FD {
        return Ok((inherited, Place(null)));
    }
    let place = rustix::io::fcntl_dupfd_cloexec(&null, RESUME_FD)?;
    Ok((inherited, Place(place)))
}

/// Whether nobody can change it any more: so a monitor is told what to go on from.
fn is_sealed(fd: &OwnedFd) -> bool {
    let seals = rustix::fs::fcntl_get_seals(fd);
    seals.is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SEAL))
}

/// Descriptors that were handed over by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Kept(Vec<(u32, OwnedFd)>);

impl Kept {
    /// The descriptor of a number, once.
    pub(crate) fn take(&mut self, number: Option<u32>) -> Option<OwnedFd> {
        let number = number?;
        let index = self.0.iter().position(|(kept, _)| *kept == number)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// Takes the descriptors of these numbers, marks them to be closed on exec, and closes all others
/// that the process was started with and that are not the first seven.
///
/// # Errors
/// `InvalidData` for numbers that are not of such descriptors, and the kernel's.
pub(crate) fn keep(mut numbers: Vec<u32>) -> io::Result<Kept> {
    numbers.sort_unstable();
    let mut next = FIRST_RESUMED_FD.unsigned_abs();
    for number in &numbers {
        if *number < next {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if *number > next {
            close_range(next, number - 1)?;
        }
        next = number.saturating_add(1);
    }
    close_from(next)?;
    let take = |number: u32| {
        let fd = take(i32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?)?;
        Ok((number, fd))
    };
    numbers
        .into_iter()
        .map(take)
        .collect::<io::Result<_>>()
        .map(Kept)
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
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: called before anything of the process owns a descriptor of these numbers, or in a
    // forked child that owns none.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
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
