//! Descriptors whose readiness tokio tells.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that tokio watches.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Has the descriptor watched. To be called in the runtime.
///
/// # Errors
/// The kernel's, for what cannot be watched.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: an OwnedFd is open and of the same number for as long as it lives, which is as long
    // as the result does.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(|error| error.into_parts().1)
}
