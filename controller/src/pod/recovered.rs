//! What becomes a pod of the table: one that was just made, or one that was there before the controller.

use std::collections::HashMap;

use pod_monitor_client::{Events, Monitor};

use crate::events;
use crate::monitors::Escrow;
use crate::store::v1::{ContainerRecord, PodRecord};

/// A pod to take over at start.
#[derive(Debug)]
pub struct Recovered {
    /// Its record, brought up to date.
    pub record: PodRecord,
    /// Its containers' records, brought up to date.
    pub containers: Vec<ContainerRecord>,
    /// Its monitor, if it was found alive or could be replaced.
    pub monitor: Option<(Monitor, Events)>,
    /// What its containers depend on, as far as it is held, by their ids.
    pub escrows: HashMap<String, Escrow>,
    /// Whether nothing of a stopped pod is left on the node.
    pub clean: bool,
    /// What subscribers are to hear of it.
    pub news: News,
}

/// What happened to a pod before the task that owns it began.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It was made.
    Made,
    /// It lived on while the controller was away: changes of containers, or of the pod itself, by
    /// id, in their order.
    Missed(Vec<(String, events::Kind)>),
}
