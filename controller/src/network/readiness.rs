//! Whether pods can be attached, and why not. Pure.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::config::NetworkList;
use super::failure::InvokeError;
use super::invoke::Invoker;

/// The network's condition in words for the CRI status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    NotReady { reason: String },
}

/// What the configuration directory held.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Loaded {
    /// The first usable configuration by file name.
    pub(super) list: Option<Arc<NetworkList>>,
    /// What kept others from being used.
    pub(super) faults: Vec<Fault>,
}

/// A file, or the directory itself, and what is wrong with it.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) path: PathBuf,
    pub(super) cause: String,
}

/// What is known of the network now.
#[derive(Debug)]
pub(super) struct State {
    pub(super) loaded: Loaded,
    /// What keeps the plugins of the loaded list from being used.
    obstacle: Option<String>,
}

impl State {
    /// A list whose plugins know STATUS is not ready before they were asked.
    pub(super) fn new(loaded: Loaded, invoker: &Invoker) -> Self {
        let obstacle = loaded
            .list
            .as_ref()
            .and_then(|list| match invoker.find_all(list) {
                Err(error) => Some(error.to_string()),
                Ok(()) if list.version.has_status() => Some(format!(
                    "the plugins of network {} were not asked yet",
                    list.name
                )),
                Ok(()) => None,
            });
        State { loaded, obstacle }
    }

    /// Takes note of an answer, unless the list that was asked about has been replaced since.
    pub(super) fn remember_status(
        &mut self,
        list: &Arc<NetworkList>,
        status: Result<(), InvokeError>,
    ) {
        if self
            .loaded
            .list
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, list))
        {
            self.obstacle = status.err().map(|error| error.to_string());
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        match (&self.loaded.list, &self.obstacle) {
            (Some(_), None) => Readiness::Ready,
            (Some(_), Some(obstacle)) => Readiness::NotReady {
                reason: obstacle.clone(),
            },
            (None, _) => Readiness::NotReady {
                reason: self.reason_for_none(),
            },
        }
    }

    fn reason_for_none(&self) -> String {
        let faults = self.loaded.faults.iter().map(Fault::to_string);
        let reasons: Vec<String> =
            std::iter::once("there is no usable CNI configuration".to_owned())
                .chain(faults)
                .collect();
        reasons.join("; ")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady { reason } => f.write_str(reason),
        }
    }
}
