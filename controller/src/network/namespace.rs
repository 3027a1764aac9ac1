//! Doing something inside a pod's network namespace.
//!
//! A thread of its own enters the namespace and ends right after, because threads of the runtime
//! must not be in any namespace but the node's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// Enough for a few system calls.
const STACK: usize = 128 << 10;

/// Why nothing could be done there.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The thread does not start.
    #[error("start a thread for the network namespace {}", netns.display())]
    Thread {
        /// The namespace.
        netns: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread ended without an answer.
    #[error("the thread in the network namespace {} ended without an answer", netns.display())]
    Lost {
        /// The namespace.
        netns: PathBuf,
    },
    /// The file cannot be opened.
    #[error("open the network namespace {}", netns.display())]
    Open {
        /// The namespace.
        netns: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no network namespace, or the kernel refuses.
    #[error("enter the network namespace {}", netns.display())]
    Enter {
        /// The namespace.
        netns: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Runs `work` in the namespace. It must be short: each call costs a thread.
///
/// # Errors
/// When the namespace cannot be entered.
pub async fn within<T: Send + 'static>(
    netns: PathBuf,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NamespaceError> {
    let (answer, wait) = oneshot::channel();
    let path = netns.clone();
    let thread = std::thread::Builder::new()
        .name("netns".into())
        .stack_size(STACK);
    let spawned = thread.spawn(move || answer.send(enter(&path).map(|()| work())).is_ok());
    if let Err(source) = spawned {
        return Err(NamespaceError::Thread { netns, source });
    }
    wait.await.unwrap_or(Err(NamespaceError::Lost { netns }))
}

/// Moves the calling thread into the namespace for good.
fn enter(netns: &Path) -> Result<(), NamespaceError> {
    let owned = || netns.to_owned();
    let file = File::open(netns).map_err(|source| NamespaceError::Open {
        netns: owned(),
        source,
    })?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|source| NamespaceError::Enter {
        netns: owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_that_is_no_namespace_is_named() {
        let error = within("/proc/self/status".into(), || ()).await.unwrap_err();
        assert!(matches!(error, NamespaceError::Enter { .. }), "{error}");
        let error = within("/nonexistent/netns".into(), || ())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/netns"), "{error}");
    }
}
