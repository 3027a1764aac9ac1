//! Plugins that we start ourselves: each is a child with its connection as descriptor 3.
//!
//! Deliberately absent: starting one again that ended. What made it end would do so again, and hooks
//! without it are what its absence says.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::discover::Program;
use crate::error::Refusal;

/// The descriptor that the plugin finds its connection at.
const DESCRIPTOR: i32 = 3;

/// Starts a plugin; answers it with our end of its connection. It is killed when it is dropped.
pub(crate) fn launch(program: &Program) -> Result<(Child, UnixStream), Refusal> {
    let failed = |source| Refusal::Launch {
        path: program.path.clone(),
        source,
    };
    let (ours, theirs) = StdStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let ours = UnixStream::from_std(ours).map_err(failed)?;
    let mut command = command(program);
    let mapping = FdMapping {
        parent_fd: OwnedFd::from(theirs),
        child_fd: DESCRIPTOR,
    };
    let mapped = command.fd_mappings(vec![mapping]);
    mapped.map_err(|error| failed(std::io::Error::other(error)))?;
    let child = command.spawn().map_err(failed)?;
    Ok((child, ours))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this crate that starts programs"
)]
fn command(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command
        .env_clear()
        .env("NRI_PLUGIN_NAME", &program.identity.name)
        .env("NRI_PLUGIN_IDX", &program.identity.index)
        .env("NRI_PLUGIN_SOCKET", DESCRIPTOR.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}
