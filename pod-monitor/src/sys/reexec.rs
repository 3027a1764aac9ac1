//! Becoming another program in place: same process, same children, same descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::io::{DupFlags, FdFlags};

use super::spawn;

/// Executes the program with this process's arguments and environment. `message` becomes the
/// descriptor that `place` is now; the numbers, which are all of open descriptors, stay open in
/// the program, and every other is closed.
///
/// Returns only where that failed: then everything is as it was.
pub(crate) fn become_program(
    program: &OwnedFd,
    message: &OwnedFd,
    place: &mut OwnedFd,
    numbers: &[u32],
) -> io::Error {
    let failed = match attempt(program, message, place, numbers) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // What stayed open would reach the programs that this process starts.
    for number in numbers {
        let _ = set_flags(*number, FdFlags::CLOEXEC);
    }
    if let Ok(null) = super::pipe::null() {
        let _ = rustix::io::dup3(&null, place, DupFlags::CLOEXEC);
    }
    failed
}

fn attempt(
    program: &OwnedFd,
    message: &OwnedFd,
    place: &mut OwnedFd,
    numbers: &[u32],
) -> io::Result<std::convert::Infallible> {
    let arguments = spawn::strings(std::env::args_os().map(OsStringExt::into_vec))?;
    let environment = spawn::strings(spawn::environment())?;
    rustix::io::dup2(message, place)?;
    for number in numbers {
        set_flags(*number, FdFlags::empty())?;
    }
    let empty = CString::default();
    let (arguments, environment) = (spawn::pointers(&arguments), spawn::pointers(&environment));
    // SAFETY: both arrays end with null and point to strings that live until the end of this
    // function; an empty path with AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            empty.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

fn set_flags(number: u32, flags: FdFlags) -> io::Result<()> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the number is of an open descriptor that its owner holds for longer than this call;
    // only its flags are changed.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}
