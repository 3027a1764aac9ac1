//! Starting a program.
//!
//! By posix_spawn, which shares the monitor's memory until the new program runs: no page of the
//! monitor is copied, and a start does not fail because memory for a copy could not be promised.

use std::ffi::{CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The first number that extra descriptors get in the program.
pub(crate) const FIRST_EXTRA: i32 = 3;

/// A program to start. It gets these descriptors and none else, default signal actions, an empty
/// signal mask and a process group of its own.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// An absolute path, or a name that is looked up in `PATH`.
    pub(crate) path: &'a Path,
    /// All of them, the zeroth included.
    pub(crate) arguments: &'a [OsString],
    /// What it gets beside the monitor's environment.
    pub(crate) variable: (&'a str, &'a Path),
    /// Standard input, output and error.
    pub(crate) streams: [&'a OwnedFd; 3],
    /// Numbered from `FIRST_EXTRA` in the program.
    pub(crate) extra: &'a [&'a OwnedFd],
}

/// Starts it and answers the process's id.
///
/// # Errors
/// `NotFound` and `PermissionDenied` where the program cannot be executed, and the kernel's
/// others.
pub(crate) fn spawn(program: &Program<'_>) -> io::Result<i32> {
    let path = CString::new(program.path.as_os_str().as_bytes())?;
    let arguments = strings(program.arguments.iter().map(|a| a.clone().into_vec()))?;
    let environment = strings(environment().chain([variable(program.variable)]))?;
    let actions = FileActions::new(program)?;
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: every pointer is to a NUL-terminated string or a NULL-terminated array that lives
    // until the end of this function; the actions and attributes are initialised.
    let error = unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            pointers(&arguments).as_ptr(),
            pointers(&environment).as_ptr(),
        )
    };
    check(error).map(|()| pid)
}

fn check(error: libc::c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn variable((name, value): (&str, &Path)) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat()
}

/// The monitor's environment without what speaks of the monitor itself: an OCI runtime that saw
/// a notify socket would report its readiness there.
pub(super) fn environment() -> impl Iterator<Item = Vec<u8>> {
    std::env::vars_os()
        .filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"LISTEN_"))
        .filter(|(name, _)| name != "NOTIFY_SOCKET")
        .map(|(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name.into_vec()
        })
}

pub(super) fn strings(bytes: impl Iterator<Item = Vec<u8>>) -> io::Result<Vec<CString>> {
    bytes
        .map(|bytes| CString::new(bytes).map_err(io::Error::from))
        .collect()
}

pub(super) fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([std::ptr::null_mut()])
        .collect()
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new(program: &Program<'_>) -> io::Result<FileActions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is to writable memory of the right type.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above initialised it.
        let mut actions = FileActions(unsafe { actions.assume_init() });
        for (fd, target) in program.streams.iter().zip(0..) {
            actions.duplicate(fd, target)?;
        }
        for (fd, target) in program.extra.iter().zip(FIRST_EXTRA..) {
            actions.duplicate(fd, target)?;
        }
        Ok(actions)
    }

    /// Everything of the monitor's is closed on exec; the copy that this makes is not. A source
    /// that has a target's number would be replaced before it is copied: the monitor keeps its
    /// first numbers occupied by what is never passed on.
    fn duplicate(&mut self, fd: &OwnedFd, target: i32) -> io::Result<()> {
        // SAFETY: the actions are initialised; the numbers are only read.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd.as_raw_fd(), target)
        })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is to writable memory of the right type.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call above initialised it.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        attributes.set_signals()?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETPGROUP;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the attributes are initialised.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        // SAFETY: as above; group 0 means a new one, named after the process.
        check(unsafe { libc::posix_spawnattr_setpgroup(&raw mut attributes.0, 0) })?;
        Ok(attributes)
    }

    fn set_signals(&mut self) -> io::Result<()> {
        let all = nix::sys::signal::SigSet::all();
        let none = nix::sys::signal::SigSet::empty();
        // SAFETY: the attributes and the set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut self.0, all.as_ref()) })?;
        // SAFETY: as above.
        check(unsafe { libc::posix_spawnattr_setsigmask(&raw mut self.0, none.as_ref()) })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
