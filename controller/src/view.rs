//! What readers see of a pod: a snapshot, published by the task that owns the pod.
//!
//! Relists, status, statistics and events look at these and ask nobody.
//!
//! Deliberately absent: how they come about (`pod/`), and how a caller is told of them (`cri/`).

use std::sync::{Arc, OnceLock};

use pod_monitor_client::Monitor;
use prost::bytes::Bytes;

use crate::store::v1::{ContainerRecord, PodRecord};

/// Where a pod's life stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Containers may be made in it.
    Ready,
    /// Its containers are being stopped and its network taken down.
    Stopping,
    /// Stopped, or lost what it consists of.
    NotReady,
    /// Being removed.
    Removing,
}

/// Everything readers may know of a pod, as of one moment.
#[derive(Debug, Clone)]
pub struct PodView {
    /// What the store has of it.
    pub record: Arc<PodRecord>,
    /// Where its life stands.
    pub phase: PodPhase,
    /// Its containers, by id.
    pub containers: Vec<Arc<ContainerRecord>>,
    /// Its monitor, while it has one.
    pub monitor: Option<Monitor>,
    /// What lists say of it, from the first one on.
    pub listed: OnceLock<Listed>,
}

/// Entries of lists, encoded: a relist every second asks for what has hardly ever changed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The pod's.
    pub pod: Bytes,
    /// Those of its containers, in the order of the view.
    pub containers: Vec<Bytes>,
}

/// A container together with its pod.
#[derive(Debug, Clone)]
pub struct Found {
    /// The pod.
    pub pod: Arc<PodView>,
    /// The container.
    pub container: Arc<ContainerRecord>,
}
