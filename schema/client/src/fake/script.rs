//! What a test wants to happen, and what did.

use std::collections::{HashMap, VecDeque};

use pod_monitor_schema::{Error, TraceContext};

use super::exec::ExecScript;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named like the calls of the schema")]
pub enum Operation {
    Hello,
    Subscribe,
    State,
    Create,
    Start,
    Kill,
    Stop,
    Delete,
    Exec,
    Attach,
    Resize,
    ReopenLog,
    Update,
    Pause,
    Resume,
    Checkpoint,
    Restore,
    Shutdown,
}

/// A call that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub operation: Operation,
    /// The container; empty where the call is about the pod.
    pub id: String,
    /// What came with it.
    pub trace: TraceContext,
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) calls: Vec<Call>,
    pub(super) execs: VecDeque<ExecScript>,
    failures: HashMap<Operation, VecDeque<Error>>,
}

impl Script {
    pub(super) fn fail(&mut self, operation: Operation, error: Error) {
        self.failures.entry(operation).or_default().push_back(error);
    }

    pub(super) fn take_failure(&mut self, operation: Operation) -> Result<(), Error> {
        let failures = self.failures.get_mut(&operation);
        failures.and_then(VecDeque::pop_front).map_or(Ok(()), Err)
    }
}
