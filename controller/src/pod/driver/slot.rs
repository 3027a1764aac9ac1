//! One container of the pod, as the driver has it.

use std::sync::Arc;

use pod_monitor_client::schema::Exit;

use super::Reply;
use crate::monitors::Escrow;
use crate::pod::requests::Busy;
use crate::store::v1::ContainerRecord;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: Arc<ContainerRecord>,
    pub(super) busy: Busy,
    pub(super) waiters: Vec<Reply<()>>,
    /// Whether plugins know that it has ended, or are told by whatever ends it.
    pub(super) end_told: bool,
    /// What is held for the monitor's successor.
    pub(super) escrow: Escrow,
    /// Whether the end of its process is waited for here, and how it ended.
    pub(super) is_reaped: bool,
    pub(super) reaped: Option<Exit>,
}

impl Slot {
    pub(super) fn new(record: ContainerRecord, escrow: Escrow) -> Self {
        Self {
            end_told: record.is_exited(),
            record: Arc::new(record),
            busy: Busy::Idle,
            waiters: Vec::new(),
            escrow,
            is_reaped: false,
            reaped: None,
        }
    }
}
