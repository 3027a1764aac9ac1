//! What a monitor that was killed leaves in its run directory.

use std::io;
use std::path::Path;

use pod_monitor_schema::layout::{self, namespace};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::MonitorError;

const PINS: [&str; 5] = [
    namespace::NET,
    namespace::IPC,
    namespace::UTS,
    namespace::USER,
    namespace::PID,
];

/// Unpins the namespaces and removes the sockets of a monitor that has ended. What is not there
/// is fine. Files that the layout does not name are left, and so is the directory.
///
/// # Errors
/// The first failure; the rest is removed all the same.
pub fn clear_run_directory(run_directory: &Path) -> Result<(), MonitorError> {
    let mut first = Ok(());
    for pin in PINS {
        let path = run_directory.join(pin);
        let unpinned = unpin(&path).map_err(|source| MonitorError::io("unpin", &path, source));
        first = first.and(unpinned).and(remove(&path));
    }
    for socket in [layout::RPC_SOCKET, layout::STREAMS_SOCKET] {
        first = first.and(remove(&run_directory.join(socket)));
    }
    let namespaces = run_directory.join(layout::NAMESPACE_DIRECTORY);
    match std::fs::remove_dir(&namespaces) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            first.and(Err(MonitorError::io("remove", namespaces, source)))
        }
        _ => first,
    }
}

fn unpin(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount point, or not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(()),
        // Who may not unmount could not have mounted.
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn remove(path: &Path) -> Result<(), MonitorError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(MonitorError::io("remove", path, source))
        }
        _ => Ok(()),
    }
}
