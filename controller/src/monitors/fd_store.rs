//! systemd's file descriptor store: what keeps a container's pipes and its process known while neither
//! its monitor nor the daemon is there (systemd.service(5), `FileDescriptorStoreMax=`).
//!
//! Each descriptor has a name of its own, `<kind>.<container id>`, by which it is given back at start
//! and removed when the container has exited. Without systemd there is no store and nothing is done.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use pod_monitor_client::Escrow;
use sd_notify::NotifyState;

const KINDS: [&str; 5] = ["stdin", "stdout", "stderr", "terminal", "process"];

/// What the store gave back, by container.
pub type Stored = HashMap<String, Escrow>;

/// The store of this service, where it has one.
#[derive(Debug, Default)]
pub struct FdStore {
    enabled: bool,
    /// The names of what it has. systemd keeps a second descriptor of a name beside the first, and what
    /// a name stands for never changes.
    names: Mutex<HashSet<String>>,
}

/// The service manager sets both where the service may store anything (systemd.exec(5)).
#[expect(
    clippy::disallowed_methods,
    reason = "the service manager speaks by the environment"
)]
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

impl FdStore {
    /// Finds out whether there is a store, and takes what it has. To be called once.
    pub fn open() -> (Self, Stored) {
        let mut stored = Stored::new();
        let mut names = HashSet::new();
        for (name, fd) in received() {
            match parse(&name) {
                Some((kind, container)) => {
                    let escrow = stored.entry(container.to_owned()).or_default();
                    *slot(escrow, kind) = Some(fd);
                }
                None => tracing::debug!(name, "an unknown descriptor was in the store"),
            }
            names.insert(name);
        }
        let store = Self {
            enabled: is_set("NOTIFY_SOCKET") && is_set("FDSTORE"),
            names: Mutex::new(names),
        };
        (store, stored)
    }

    /// Keeps what a container depends on, and nothing else for it.
    pub fn put(&self, container: &str, escrow: &Escrow) {
        if !self.enabled {
            return;
        }
        let fds = [
            &escrow.stdin,
            &escrow.stdout,
            &escrow.stderr,
            &escrow.terminal,
            &escrow.process,
        ];
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, fd) in KINDS.into_iter().zip(fds) {
            let name = name(kind, container);
            match fd {
                Some(fd) if !names.contains(&name) => {
                    store(&name, fd);
                    names.insert(name);
                }
                None if names.remove(&name) => remove(&name),
                Some(_) | None => {}
            }
        }
    }

    /// Forgets a container.
    pub fn remove(&self, container: &str) {
        if !self.enabled {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in KINDS.map(|kind| name(kind, container)) {
            if names.remove(&name) {
                remove(&name);
            }
        }
    }
}

fn store(name: &str, fd: &OwnedFd) {
    let state = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        // Or it is dropped when the other end hangs up, which is when the rest has to be read.
        NotifyState::Custom("FDPOLL=0"),
    ];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd.as_fd()]) {
        tracing::warn!(name, %error, "a descriptor could not be stored");
    }
}

fn remove(name: &str) {
    let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify(&state) {
        tracing::debug!(name, %error, "a descriptor could not be removed from the store");
    }
}

fn name(kind: &str, container: &str) -> String {
    format!("{kind}.{container}")
}

fn parse(name: &str) -> Option<(usize, &str)> {
    let (kind, container) = name.split_once('.')?;
    let index = KINDS.iter().position(|known| *known == kind)?;
    (!container.is_empty()).then_some((index, container))
}

fn slot(escrow: &mut Escrow, kind: usize) -> &mut Option<OwnedFd> {
    match kind {
        0 => &mut escrow.stdin,
        1 => &mut escrow.stdout,
        2 => &mut escrow.stderr,
        3 => &mut escrow.terminal,
        _ => &mut escrow.process,
    }
}

/// What systemd has passed, with its names (sd_listen_fds_with_names(3)).
fn received() -> Vec<(String, OwnedFd)> {
    let named = match sd_notify::listen_fds_with_names() {
        Ok(named) => named,
        Err(error) => {
            tracing::warn!(%error, "the stored descriptors cannot be taken");
            return Vec::new();
        }
    };
    named
        .filter_map(|(number, name)| Some((name, pod_monitor_client::inherited(number).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_descriptor_is() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            let name = name(kind, "0a1b");
            assert_eq!(parse(&name), Some((index, "0a1b")));
        }
        for other in ["", "stdin", "stdin.", "other.0a1b", "unknown"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
