//! Why something asked of a pod or a container did not happen.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::ScopeError;
use crate::chain::chain;
use crate::fault;
use crate::{cdi, host, monitors, network, spec, store, users};

/// Shared, for everyone who joined the same request gets the same answer.
pub type SharedError = Arc<PodError>;

/// What kind of thing an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod sandbox",
            Self::Container => "container",
        })
    }
}

/// Why a request failed. `cri/status.rs` alone picks the gRPC code.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// No such pod or container.
    #[error("{kind} {id:?} does not exist")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// The id or its beginning, as asked for.
        id: String,
    },
    /// The beginning of an id fits more than one.
    #[error("{kind} id {id:?} is ambiguous: it fits {count} of them")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// The beginning of an id.
        id: String,
        /// How many ids begin so.
        count: usize,
    },
    /// The name and attempt belong to something else.
    #[error("{kind} {name:?} exists as {id} {why}")]
    Exists {
        /// What was to be made.
        kind: Kind,
        /// Its name and attempt.
        name: String,
        /// Who has the name.
        id: String,
        /// Why that one is not the answer.
        why: &'static str,
    },
    /// The request lacks something or contradicts itself.
    #[error("{subject}: {cause}")]
    Invalid {
        /// The field.
        subject: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The configuration of a pod or a container cannot be carried out.
    #[error("configuration of {subject} is refused")]
    Spec {
        /// The name of the pod or container.
        subject: String,
        /// What is wrong.
        #[source]
        source: Box<spec::SpecError>,
    },
    /// The state does not allow it.
    #[error("cannot {operation} {kind} {id}: it is {state}")]
    State {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        kind: Kind,
        /// Its id.
        id: String,
        /// Its state in one word.
        state: &'static str,
    },
    /// The runtime handler is not configured.
    #[error("runtime handler {name:?} is not configured; there is: {known}")]
    Handler {
        /// As asked for.
        name: String,
        /// Those there are, comma separated.
        known: String,
    },
    /// The image is not on this node.
    #[error("image {reference:?} is not present")]
    NoImage {
        /// As asked for.
        reference: String,
    },
    /// The image store refused.
    #[error("image {reference:?}")]
    Image {
        /// As asked for.
        reference: String,
        /// Why.
        #[source]
        source: Box<husk_image::FindError>,
    },
    /// The root file system could not be put together or taken down.
    #[error("root file system of container {id}")]
    Rootfs {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: Box<husk_image::RootfsError>,
    },
    /// The user cannot be found in the image's files.
    #[error("user of container {id}")]
    Users {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: Box<users::UsersError>,
    },
    /// A device of the host cannot be given to a container.
    #[error("device {path:?}")]
    Device {
        /// Its path on the host.
        path: String,
        /// Why.
        #[source]
        source: Box<host::HostError>,
    },
    /// The pod's monitor could not be started or reached, or refused.
    #[error("{operation} of {subject}")]
    Monitor {
        /// What was asked.
        operation: &'static str,
        /// Of which pod or container.
        subject: String,
        /// The monitor's answer.
        #[source]
        source: Box<monitors::Error>,
    },
    /// The OCI runtime, or CRIU, did not make a checkpoint, or nothing of one.
    #[error("{operation} of container {id}: {cause}")]
    Criu {
        /// What was done.
        operation: &'static str,
        /// The container.
        id: String,
        /// What is missing, or what CRIU said.
        cause: String,
        /// Whether the node has what it takes.
        able: bool,
        /// The monitor's answer.
        #[source]
        source: Box<monitors::Error>,
    },
    /// The OCI runtime was built without checkpoints.
    #[error(
        "{operation} of {subject}: the OCI runtime of handler {handler:?} was built without CRIU"
    )]
    NoCriu {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
        /// The pod's runtime handler.
        handler: String,
    },
    /// A checkpoint was not complete in its time.
    #[error("checkpoint of container {id} took longer than {} s and was given up", limit.as_secs())]
    CheckpointTimeout {
        /// The container.
        id: String,
        /// The limit.
        limit: Duration,
    },
    /// The pod's monitor is there, but did not answer in its time.
    #[error("{operation} of {subject}: the monitor has not answered within {} s", limit.as_secs())]
    MonitorSilent {
        /// What was asked.
        operation: &'static str,
        /// Of which pod or container.
        subject: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The pod's monitor is gone.
    #[error("the monitor of pod sandbox {id} is gone")]
    NoMonitor {
        /// The pod.
        id: String,
    },
    /// What is needed to start another monitor for a pod is not known.
    #[error("pod sandbox {id} cannot be given to another monitor: {cause}")]
    NoTakeover {
        /// The pod.
        id: String,
        /// What is not known.
        cause: String,
    },
    /// The pod's network could not be set up.
    #[error("network of pod sandbox {id}")]
    NetworkAdd {
        /// The pod.
        id: String,
        /// Why.
        #[source]
        source: Box<network::AddError>,
    },
    /// The pod's network could not be taken down.
    #[error("removal of the network of pod sandbox {id}")]
    NetworkDel {
        /// The pod.
        id: String,
        /// Why.
        #[source]
        source: Box<network::DelError>,
    },
    /// systemd did not make the monitor's scope.
    #[error("cgroup of the monitor of pod sandbox {id}")]
    Scope {
        /// The pod.
        id: String,
        /// Why.
        #[source]
        source: Box<ScopeError>,
    },
    /// A CDI device cannot be had.
    #[error("devices of container {subject}")]
    Cdi {
        /// The container's name.
        subject: String,
        /// Why.
        #[source]
        source: Box<cdi::CdiError>,
    },
    /// An NRI plugin refused, or plugins want what does not go together.
    #[error("plugins about {subject}")]
    Plugins {
        /// The pod or container.
        subject: String,
        /// Why.
        #[source]
        source: Box<husk_nri::HookError>,
    },
    /// The state could not be kept.
    #[error("keeping the state of {id}")]
    Store {
        /// The pod or container.
        id: String,
        /// Why.
        #[source]
        source: store::StoreError,
    },
    /// A file, directory or mount.
    #[error("{operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A container is still there after SIGKILL.
    #[error("container {id} has not gone within {} s after SIGKILL", limit.as_secs())]
    Unkillable {
        /// The container.
        id: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A command did not end in its time and was killed.
    #[error("command in container {id} did not end within {seconds} s and was killed")]
    ExecTimeout {
        /// The container.
        id: String,
        /// The limit.
        seconds: i64,
    },
    /// Something failed, and so did undoing what had been done before.
    #[error("not all could be undone ({}) after a failure", list(.cleanup))]
    Cleanup {
        /// What failed first.
        #[source]
        failed: Box<PodError>,
        /// What could not be undone.
        cleanup: Vec<PodError>,
    },
    /// Parts of a teardown failed; the rest is done.
    #[error("{} of the steps failed: {}", .0.len(), list(.0))]
    Several(Vec<PodError>),
    /// The task that owned the pod ended before it answered.
    #[error("the request on {id} was cut off: the controller is stopping, or failed in it")]
    Stopping {
        /// The pod or container.
        id: String,
    },
}

impl From<fault::Fired> for PodError {
    fn from(fired: fault::Fired) -> Self {
        Self::io("passing the fault point", fired.point)(fired.source)
    }
}

fn list(errors: &[PodError]) -> String {
    errors
        .iter()
        .map(|error| chain(error))
        .collect::<Vec<_>>()
        .join("; ")
}

impl PodError {
    /// For `map_err` on file operations.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }

    /// Whether the monitor went away while it was asked. What it did until then is not known.
    pub fn is_disconnected(&self) -> bool {
        let Self::Monitor { source, .. } = self else {
            return false;
        };
        matches!(**source, monitors::Error::Disconnected { .. })
    }

    /// One error of a teardown's list, or none.
    pub fn gathered(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}
