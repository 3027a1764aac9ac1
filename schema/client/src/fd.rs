//! Starting a program with exactly the descriptors it is meant to have. The unsafe code of this
//! crate is here.
//!
//! The child is made like `posix_spawn` makes it: it shares the memory of its parent, whose thread
//! sleeps until the child has executed the program. So nothing is copied, however big the parent
//! is. `posix_spawn` itself will not do, for the child has to enter cgroups before it becomes the
//! program. Between `clone` and `execveat` the child only makes system calls: it allocates
//! nothing, takes no lock and cannot panic.

#![expect(
    unsafe_code,
    reason = "clone with shared memory and execveat have no safe form"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How far above the targets the sources are moved, so that none is overwritten by another's target.
const ABOVE_TARGETS: usize = 8;

const STACK_BYTES: usize = 64 * 1024;

/// What to start.
pub(crate) struct Launch<'a> {
    /// The program's file.
    pub(crate) program: BorrowedFd<'a>,
    /// Its arguments, its own name first.
    pub(crate) arguments: Vec<CString>,
    /// Its environment.
    pub(crate) environment: Vec<CString>,
    /// What it gets as descriptors from 0 on. It gets no other.
    pub(crate) descriptors: Vec<BorrowedFd<'a>>,
    /// Files named `cgroup.procs` or `tasks` that are open for writing: the cgroups that it enters.
    pub(crate) cgroups: Vec<BorrowedFd<'a>>,
}

/// What the child could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
    Cgroup,
    Descriptors,
    Execute,
}

/// A program that did not start.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

impl Failure {
    fn last(step: Step) -> Self {
        Self {
            step,
            source: io::Error::last_os_error(),
        }
    }
}

/// All that the child reads, made before it exists.
struct Prepared {
    program: RawFd,
    /// The number that the program has until it is executed: the first that is not passed on.
    place: RawFd,
    descriptors: Vec<RawFd>,
    cgroups: Vec<RawFd>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Written by the child.
    failed: Option<(Step, c_int)>,
}

/// Starts the program in a session of its own, with default signal handling, nothing blocked, `/`
/// as its directory and 022 as its umask. Answers with its pidfd when it has been executed.
pub(crate) fn launch(launch: &Launch<'_>) -> Result<OwnedFd, Failure> {
    let place = number(launch.descriptors.len())?;
    let lowest = number(launch.descriptors.len() + ABOVE_TARGETS)?;
    let above = |fd: &BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, lowest);
    let moved = launch
        .descriptors
        .iter()
        .map(above)
        .collect::<rustix::io::Result<Vec<_>>>()
        .map_err(descriptors_failed)?;
    let program = above(&launch.program).map_err(descriptors_failed)?;
    let mut prepared = Prepared {
        program: program.as_raw_fd(),
        place,
        descriptors: moved.iter().map(AsRawFd::as_raw_fd).collect(),
        cgroups: launch.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
        arguments: pointers(&launch.arguments),
        environment: pointers(&launch.environment),
        failed: None,
    };
    let started = with_signals_blocked(|| clone_child(&mut prepared))?;
    match prepared.failed {
        None => Ok(started),
        Some((step, errno)) => {
            reap(&started);
            let source = io::Error::from_raw_os_error(errno);
            Err(Failure { step, source })
        }
    }
}

/// Lets the runtime of this thread say when a descriptor is readable.
pub(crate) fn readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `Arc<OwnedFd>` names the same open descriptor for as long as it lives, and
    // `AsyncFd` removes it from epoll before it drops it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Takes over a descriptor that this process was started with, such as one of systemd's. To be
/// called once for each.
///
/// # Errors
/// The kernel's where the number is not of an open descriptor.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asking for the flags of a number that is no descriptor is an error, not a fault.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as was just seen, and whoever started this process meant it for the
    // caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn number(count: usize) -> Result<RawFd, Failure> {
    RawFd::try_from(count).map_err(|_| descriptors_failed(rustix::io::Errno::MFILE))
}

fn descriptors_failed(errno: rustix::io::Errno) -> Failure {
    Failure {
        step: Step::Descriptors,
        source: errno.into(),
    }
}

/// A null-terminated array of the strings, which must outlive it.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings.chain([ptr::null()]).collect()
}

/// Takes the status of a child that ended before it became the program.
fn reap(pidfd: &OwnedFd) {
    use std::os::fd::AsFd as _;
    let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
    // There is nobody to tell: the failure that the child left says more.
    let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
}

/// Runs `work` while no signal handler can run on this thread, nor on a child that it makes and
/// that shares its memory.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: the pointer is to memory that holds a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the first set was filled above, the second is memory that holds a set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let value = work();
    // SAFETY: the set was filled by the call above, which cannot fail with a valid `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    value
}

fn clone_child(prepared: &mut Prepared) -> Result<OwnedFd, Failure> {
    let mut stack = vec![MaybeUninit::<u128>::uninit(); STACK_BYTES / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = ptr::from_mut(prepared).cast::<c_void>();
    // SAFETY: the stack is aligned and outlives the child's use of it, for CLONE_VFORK keeps this
    // thread asleep until the child has executed a program or is gone; so does `prepared`, which
    // nothing else touches meanwhile. Signals are blocked, so no handler runs on the child.
    let pid = unsafe { libc::clone(child, top, flags, argument, ptr::from_mut(&mut pidfd)) };
    if pid < 0 {
        return Err(Failure::last(Step::Clone));
    }
    // SAFETY: clone succeeded, so it wrote a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// What the child runs, on the stack that `clone_child` made.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: it is the `Prepared` that `clone_child` passed, which nobody else uses while its
    // thread sleeps.
    let prepared = unsafe { &mut *argument.cast::<Prepared>() };
    let step = become_program(prepared);
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    prepared.failed = Some((step, errno));
    // Not `return`, which would run what the parent registered for its own exit.
    // SAFETY: ends this process only.
    unsafe { libc::_exit(127) }
}

/// Returns only on failure, with errno set.
fn become_program(prepared: &Prepared) -> Step {
    // SAFETY: fails only for a leader of a process group, which a new process is not.
    unsafe { libc::setsid() };
    for &cgroup in &prepared.cgroups {
        // SAFETY: the buffer is one byte long. "0" is the process that writes it.
        if unsafe { libc::write(cgroup, c"0".as_ptr().cast(), 1) } != 1 {
            return Step::Cgroup;
        }
    }
    // SAFETY: the path is a constant with a terminator.
    unsafe { libc::chdir(c"/".as_ptr()) };
    // SAFETY: a number, and the child's own since it was cloned without CLONE_FS.
    unsafe { libc::umask(0o022) };
    if !place_descriptors(prepared) {
        return Step::Descriptors;
    }
    reset_signals();
    execute(prepared);
    Step::Execute
}

fn place_descriptors(prepared: &Prepared) -> bool {
    for (target, &source) in (0..).zip(&prepared.descriptors) {
        // SAFETY: the child has a table of its own; sources lie above all targets.
        if unsafe { libc::dup2(source, target) } < 0 {
            return false;
        }
    }
    // SAFETY: as above.
    if unsafe { libc::dup3(prepared.program, prepared.place, libc::O_CLOEXEC) } < 0 {
        return false;
    }
    // SAFETY: closes descriptors of the child's own table, all of which its parent still has.
    unsafe { libc::syscall(libc::SYS_close_range, prepared.place + 1, c_int::MAX, 0) == 0 }
}

/// An ignored signal stays ignored in the program, as a blocked one stays blocked. Rust's runtime
/// ignores SIGPIPE.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the child has handlers of its own. The C library refuses its reserved signals.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: the pointer is to memory that holds a set.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was filled above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

fn execute(prepared: &Prepared) {
    const EMPTY: &CStr = c"";
    // SAFETY: both arrays end with null and point to strings that the parent keeps; an empty path
    // with AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            prepared.place,
            EMPTY.as_ptr(),
            prepared.arguments.as_ptr(),
            prepared.environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
}
