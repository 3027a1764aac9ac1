//! What reaches the task that owns a pod, besides its monitor's events: requests, and how operations ended.

use std::time::{Duration, Instant};

use husk_cri_api::v1;
use pod_monitor_client::Events;
use pod_monitor_client::schema::{Exit, ExitStatus, PodState};
use tokio::sync::oneshot;

use crate::container::{Begun, Change, Made};
use crate::error::{PodError, SharedError};
use crate::monitors::{Escrow, Trace};
use crate::pod::limits::PodLimits;
use crate::pod::takeover::TakenOver;
use crate::pod::teardown;

pub(in crate::pod) type Reply<T> = oneshot::Sender<Result<T, SharedError>>;

/// What may be asked of a pod.
#[derive(Debug)]
pub(in crate::pod) enum Request {
    Create {
        config: Box<v1::ContainerConfig>,
        trace: Trace,
        reply: Reply<String>,
    },
    Start {
        id: String,
        trace: Trace,
        reply: Reply<()>,
    },
    Stop {
        id: String,
        grace: Duration,
        trace: Trace,
        reply: Reply<()>,
    },
    Remove {
        id: String,
        trace: Trace,
        reply: Reply<()>,
    },
    Update {
        id: String,
        change: Box<Change>,
        trace: Trace,
        reply: Reply<()>,
    },
    UpdatePod {
        limits: Box<PodLimits>,
        reply: Reply<()>,
    },
    StopPod {
        trace: Trace,
        reply: Reply<()>,
    },
    RemovePod {
        trace: Trace,
        reply: Reply<()>,
    },
    /// Of its monitor.
    Upgrade {
        reply: Reply<()>,
    },
}

/// How an operation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Created {
        key: (String, u32),
        result: Result<Box<Made>, PodError>,
    },
    Started {
        id: String,
        /// The process id of the monitor that was asked.
        asked: u32,
        result: Result<Begun, PodError>,
    },
    Stopped {
        id: String,
        /// The process id of the monitor that was asked.
        asked: u32,
        result: Result<Exit, PodError>,
        /// When its grace period is over.
        deadline: Instant,
        reply: Reply<()>,
    },
    Removed {
        id: String,
        /// The process id of the monitor that was asked, where there was one.
        asked: Option<u32>,
        result: Result<(), PodError>,
    },
    Updated {
        id: String,
        result: Result<v1::LinuxContainerResources, PodError>,
        reply: Reply<()>,
    },
    /// Plugins know that a container has ended.
    Told {
        id: String,
    },
    PodUpdated {
        limits: Box<PodLimits>,
        result: Result<(), PodError>,
        reply: Reply<()>,
    },
    PodStopped {
        stopped: teardown::Stopped,
        /// Set when the pod is to be removed now.
        then_remove: Option<Trace>,
    },
    PodRemoved(Result<(), PodError>),
    /// What a container depends on; none where the monitor did not say.
    Held {
        id: String,
        escrow: Option<Escrow>,
    },
    TakenOver(Result<Box<TakenOver>, PodError>),
    /// The first process of a container that a dead monitor had.
    Reaped {
        id: String,
        status: ExitStatus,
    },
    Upgraded {
        result: Result<Box<(Events, PodState)>, PodError>,
        reply: Reply<()>,
    },
}
