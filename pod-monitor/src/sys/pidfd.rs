//! Processes by descriptor: whom it means never changes, whoever the process's parent is.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

use super::signal::Status;

/// Opens a process. It must be a child that was not reaped, or the number may be another's.
///
/// # Errors
/// The kernel's.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal. A process that is gone is no error.
pub(crate) fn signal(process: &OwnedFd, signal: u8) -> io::Result<()> {
    match send(process, signal) {
        Err(gone) if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Whether the process lives or at least was not reaped, so that its number is its own still.
pub(crate) fn has_its_number(process: &OwnedFd) -> bool {
    // Signal 0 is none (kill(2)).
    send(process, 0).is_ok()
}

fn send(process: &OwnedFd, signal: u8) -> io::Result<()> {
    // SAFETY: the descriptor is open, and without a siginfo the kernel reads integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            i32::from(signal),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct pidfd_info` of linux/pidfd.h, as it was first.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: u64 = (3 << 30) | ((size_of::<Info>() as u64) << 16) | (0xff << 8) | 11;

/// How a process ended that somebody else has reaped; nothing where it was not reaped yet.
///
/// # Errors
/// The kernel's, which can say so from Linux 6.15 on.
pub(crate) fn exit_status(process: &OwnedFd) -> io::Result<Option<Status>> {
    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // glibc and musl declare the request's type differently.
    let request = GET_INFO as libc::Ioctl;
    // SAFETY: the descriptor is open; the request says how much the kernel may write, which is the
    // size of what the pointer is to.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), request, &raw mut info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & EXIT != 0).then(|| decode(info.exit_code)))
}

/// Reads a status as wait(2) gives it.
fn decode(status: i32) -> Status {
    let [low, high, ..] = status.to_le_bytes();
    match low & 0x7f {
        0 => Status::Code(high),
        signal => Status::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_wait_gives_them() {
        let rows = [
            (0x0700, Status::Code(7)),
            (0, Status::Code(0)),
            (9, Status::Signal(9)),
            (0x8b, Status::Signal(11)),
        ];
        for (status, expect) in rows {
            assert_eq!(decode(status), expect);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child that ends by itself")]
    fn the_status_of_a_reaped_process_is_known_where_the_kernel_keeps_it() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let process = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(has_its_number(&process));
        child.wait().unwrap();
        assert!(!has_its_number(&process));
        match exit_status(&process) {
            Ok(status) => assert_eq!(status, Some(Status::Code(7))),
            // Linux before 6.15.
            Err(error) => assert!(
                [Some(libc::ENOTTY), Some(libc::EINVAL)].contains(&error.raw_os_error()),
                "{error}"
            ),
        }
        signal(&process, 9).unwrap();
    }
}
