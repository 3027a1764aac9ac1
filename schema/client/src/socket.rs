//! The sockets in a run directory.
//!
//! The address of a unix socket holds 108 bytes, and a run directory may be deeper than that. So
//! both ends go through `/proc/self/fd/<directory>`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use pod_monitor_schema::layout;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use crate::MonitorError;

/// How many clients may wait for a monitor to accept them.
const BACKLOG: i32 = 128;

/// The listeners that a monitor is started with.
pub(crate) struct Listeners {
    pub(crate) rpc: OwnedFd,
    pub(crate) streams: OwnedFd,
}

impl Listeners {
    /// Binds both sockets in the directory, with mode 0600. Takes the place of sockets on which
    /// nobody listens any more.
    pub(crate) fn bind(directory: &Path) -> Result<Self, MonitorError> {
        let rpc = bind_at(directory, layout::RPC_SOCKET)?;
        let streams = bind_at(directory, layout::STREAMS_SOCKET).inspect_err(|_| {
            // The caller learns of the failure; a socket without a listener is all that stays.
            let _ = std::fs::remove_file(directory.join(layout::RPC_SOCKET));
        })?;
        Ok(Self { rpc, streams })
    }
}

fn bind_at(directory: &Path, name: &str) -> Result<OwnedFd, MonitorError> {
    bind(directory, name).map_err(|source| MonitorError::io("bind", directory.join(name), source))
}

fn bind(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let reached = Reached::open(directory)?;
    let address = SocketAddrUnix::new(reached.join(name))?;
    let socket = new_socket()?;
    // Before it is bound: the file is then made with this mode, so there is no moment at which
    // others can connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match rustix::net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            remove_stale(&address, &directory.join(name))?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// Removes a socket on which nobody listens.
fn remove_stale(address: &SocketAddrUnix, path: &Path) -> io::Result<()> {
    match rustix::net::connect(&new_socket()?, address) {
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path),
        _ => Err(rustix::io::Errno::ADDRINUSE.into()),
    }
}

/// Connects with a socket of the directory and makes sure that our own user listens there.
pub(crate) async fn connect(directory: &Path, name: &str) -> Result<UnixStream, MonitorError> {
    let failed = |source: io::Error| MonitorError::io("connect", directory.join(name), source);
    let reached = Reached::open(directory).map_err(failed)?;
    let stream = UnixStream::connect(reached.join(name))
        .await
        .map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(MonitorError::Foreign { uid });
    }
    Ok(stream)
}

/// A directory by its descriptor, which makes its path short.
struct Reached(OwnedFd);

impl Reached {
    fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(directory, flags, Mode::empty())?))
    }

    fn join(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}
