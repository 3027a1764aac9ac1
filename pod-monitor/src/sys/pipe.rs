//! Pipes and terminals of which the monitor keeps one end.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

/// The two ends of a pipe, both blocking and closed on exec.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

/// A new pipe.
pub(crate) fn pipe() -> io::Result<Pipe> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(Pipe { read, write })
}

/// Makes calls on the descriptor return `WouldBlock` instead of waiting. The flag belongs to the
/// open file, so it is only for ends which nobody else holds.
pub(crate) fn unblock(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// The number of a descriptor, to be told to whom it is handed over.
pub(crate) fn number(fd: &OwnedFd) -> u32 {
    std::os::fd::AsRawFd::as_raw_fd(fd).unsigned_abs()
}

/// Makes every write go to the end of the file, whoever else writes to it.
pub(crate) fn append(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::APPEND)?)
}

/// Gives a pipe to a user and group, so that their processes may open it by its name in /proc.
/// What is no pipe stays as it is: `/dev/null` belongs to all.
pub(crate) fn give(fd: &OwnedFd, (uid, gid): (u32, u32)) -> io::Result<()> {
    use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
    if FileType::from_raw_mode(fstat(fd)?.st_mode) != FileType::Fifo {
        return Ok(());
    }
    Ok(fchown(
        fd,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// `/dev/null`, for a stream that nobody wants.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Sets the size of a terminal, through either of its ends.
pub(crate) fn set_terminal_size(fd: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}

/// The other end of a terminal's master. Holding it does not keep the terminal from hanging up
/// when the master's last holder goes away (ioctl_tty(2), `TIOCGPTPEER`).
pub(crate) fn terminal_peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::pty::OpenptFlags;
    Ok(rustix::pty::ioctl_tiocgptpeer(
        master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?)
}
