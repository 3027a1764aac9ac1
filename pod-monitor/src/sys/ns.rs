//! Namespaces: made in a child that lives for a moment, kept by bind mounts.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::init;

/// A child that sits in new namespaces until it is let go.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
    socket: UnixStream,
    /// Where the new PID namespace's first process is wanted and runs.
    init: Option<i32>,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Of net, ipc and uts.
    pub(crate) flags: CloneFlags,
    /// A user namespace that owns the others.
    pub(crate) user: bool,
    /// A PID namespace with an init.
    pub(crate) pid: bool,
}

/// What went wrong, and in which step.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct Failure {
    pub(crate) step: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure {
        step,
        source: error.into(),
    }
}

impl Holder {
    /// Makes the namespaces. Where a user namespace is wanted, `map` is called with the child's id
    /// to write its mappings before anything else is made.
    pub(crate) fn start(
        wanted: Wanted,
        map: impl FnOnce(i32) -> Result<(), Failure>,
    ) -> Result<Holder, Failure> {
        let (socket, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        // SAFETY: the process has one thread, so the child may do all that the parent may; it
        // ends with `leave` and runs nothing of the parent's.
        let pid = match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Child => {
                drop(socket);
                hold(wanted, theirs)
            }
            ForkResult::Parent { child } => child,
        };
        drop(theirs);
        let mut holder = Holder {
            pid,
            socket,
            init: None,
        };
        if wanted.user {
            holder.expect_step("make a user namespace")?;
            map(pid.as_raw())?;
            holder.answer()?;
        }
        holder.expect_step("make namespaces")?;
        if wanted.pid {
            holder.init = Some(holder.expect_step("start the init of the pid namespace")?);
        }
        Ok(holder)
    }

    /// The id of the PID namespace's first process.
    pub(crate) fn init(&self) -> Option<i32> {
        self.init
    }

    /// Where the kernel shows a namespace of this child.
    pub(crate) fn path(&self, name: &str) -> String {
        match self.init {
            Some(init) if name == "pid" => format!("/proc/{init}/ns/pid"),
            _ => format!("/proc/{}/ns/{name}", self.pid),
        }
    }

    /// Reads the child's next report: an errno, and a number that the step gives.
    fn expect_step(&mut self, step: &'static str) -> Result<i32, Failure> {
        let mut report = [0; 8];
        self.socket.read_exact(&mut report).map_err(failed(step))?;
        let [a, b, c, d, e, f, g, h] = report;
        match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(i32::from_ne_bytes([e, f, g, h])),
            errno => Err(Failure {
                step,
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    fn answer(&mut self) -> Result<(), Failure> {
        self.socket
            .write_all(&[0])
            .map_err(failed("let the namespaces' holder go on"))
    }
}

impl Drop for Holder {
    /// The child ends when its socket does.
    fn drop(&mut self) {
        drop(self.socket.shutdown(std::net::Shutdown::Both));
        while waitpid(self.pid, None) == Err(nix::errno::Errno::EINTR) {}
    }
}

/// The child's part.
fn hold(wanted: Wanted, mut socket: UnixStream) -> ! {
    let made = make(wanted, &mut socket);
    if made.is_some() {
        // Until the parent has pinned everything; its end of the socket says when.
        drop(socket.read(&mut [0]));
    }
    init::leave(0)
}

fn make(wanted: Wanted, socket: &mut UnixStream) -> Option<()> {
    if wanted.user {
        report(socket, unshare(CloneFlags::CLONE_NEWUSER).map(|()| 0))?;
        // The mappings are there when the parent answers; without them no id can be taken.
        socket.read_exact(&mut [0]).ok()?;
        let root = nix::unistd::setgid(nix::unistd::Gid::from_raw(0))
            .and_then(|()| nix::unistd::setuid(nix::unistd::Uid::from_raw(0)));
        let flags = wanted.flags | pid_flag(wanted);
        report(socket, root.and_then(|()| unshare(flags)).map(|()| 0))?;
    } else {
        let flags = wanted.flags | pid_flag(wanted);
        report(socket, unshare(flags).map(|()| 0))?;
    }
    if wanted.pid {
        // SAFETY: one thread; the child never returns from `init::run`.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => init::run(),
            Ok(ForkResult::Parent { child }) => report(socket, Ok(child.as_raw()))?,
            Err(error) => report(socket, Err(error))?,
        }
    }
    Some(())
}

fn pid_flag(wanted: Wanted) -> CloneFlags {
    if wanted.pid {
        CloneFlags::CLONE_NEWPID
    } else {
        CloneFlags::empty()
    }
}

fn report(socket: &mut UnixStream, result: nix::Result<i32>) -> Option<()> {
    let (errno, number) = match result {
        Ok(number) => (0, number),
        Err(error) => (error as i32, 0),
    };
    let mut bytes = [0; 8];
    let (left, right) = bytes.split_at_mut(4);
    left.copy_from_slice(&errno.to_ne_bytes());
    right.copy_from_slice(&number.to_ne_bytes());
    socket.write_all(&bytes).ok()?;
    (errno == 0).then_some(())
}

/// Keeps a namespace after its last process by a bind mount on `target`, which is made.
pub(crate) fn pin(source: &str, target: &Path) -> Result<(), Failure> {
    File::create_new(target).map_err(failed("create the file for a namespace"))?;
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(failed("pin a namespace"))
}

/// Undoes `pin`. What is gone already is no error.
pub(crate) fn unpin(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` in a child that has entered the pinned namespaces, and answers what it says.
///
/// # Errors
/// The step that failed, with the number the kernel gave.
pub(crate) fn inside(
    namespaces: &[std::path::PathBuf],
    work: impl FnOnce() -> io::Result<()>,
) -> Result<(), Failure> {
    let (mut socket, mut theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    // SAFETY: as in `Holder::start`.
    let child = match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Child => {
            let done = enter(namespaces).and_then(|()| work());
            let errno = done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            drop(theirs.write_all(&errno.to_ne_bytes()));
            init::leave(0)
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let mut errno = [0; 4];
    let read = socket.read_exact(&mut errno);
    while waitpid(child, None) == Err(nix::errno::Errno::EINTR) {}
    read.map_err(failed("hear of the child inside the namespaces"))?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(Failure {
            step: "change something inside the namespaces",
            source: io::Error::from_raw_os_error(errno),
        }),
    }
}

fn enter(namespaces: &[std::path::PathBuf]) -> io::Result<()> {
    for path in namespaces {
        setns(File::open(path)?, CloneFlags::empty())?;
    }
    Ok(())
}
