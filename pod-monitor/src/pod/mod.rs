//! The pod: its containers, and everything that can be done with them.
//!
//! Owns: the containers by id, the pod's events, the streams that wait to be fetched, and the
//! namespaces. Every method here is one request of the contract, in the contract's types; it runs
//! in a task of its own, so that a client that goes away interrupts nothing.
//!
//! Deliberately absent: the wire (`server` translates), and any word of whoever drives the
//! monitor.

mod end;
mod make;
mod resume;
mod running;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use pod_monitor_schema::{Error, PodState, StartConfig};
use tokio::sync::Notify;

use crate::config::Checked;
use crate::container::Container;
use crate::errors;
use crate::events::Events;
use crate::exec::Execs;
use crate::namespaces::PodNamespaces;
use crate::reaper::Reaper;
use crate::runtime::Runtime;
use crate::state::{Request, Verdict};
use crate::streams::Vault;
use crate::sys::own::Place;

/// The one pod of this monitor.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) events: Events,
    pub(crate) vault: Rc<Vault>,
    /// Called when the monitor has nothing left to do.
    pub(crate) over: Notify,
    run_directory: PathBuf,
    bounds: Checked,
    runtime: Runtime,
    reaper: Rc<Reaper>,
    namespaces: RefCell<PodNamespaces>,
    init: Option<i32>,
    /// Why the pod could not be set up.
    broken: Option<Error>,
    containers: RefCell<BTreeMap<String, Rc<Container>>>,
    execs: Rc<Execs>,
    /// How many attachments there were so far.
    attachments: Cell<u32>,
    closing: Cell<bool>,
    place: RefCell<Place>,
}

/// What the monitor itself comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The OOM score adjustment of its children, where it is not its own.
    pub(crate) oom_score: Option<String>,
    pub(crate) namespaces: Result<PodNamespaces, Error>,
    /// Where what another program goes on from is to be.
    pub(crate) place: Place,
}

impl Pod {
    pub(crate) fn new(config: StartConfig, reaper: Rc<Reaper>, origin: Origin) -> Pod {
        let (namespaces, broken) = match origin.namespaces {
            Ok(namespaces) => (namespaces, None),
            Err(error) => (PodNamespaces::default(), Some(error)),
        };
        let runtime = Runtime::new(
            config.runtime,
            config.run_directory.clone(),
            Rc::clone(&reaper),
            origin.oom_score,
            crate::namespaces::root(&config.namespaces),
        );
        Pod {
            id: config.id,
            events: Events::default(),
            vault: Rc::default(),
            over: Notify::new(),
            run_directory: config.run_directory,
            bounds: Checked::new(&config.limits),
            runtime,
            reaper,
            init: namespaces.init(),
            namespaces: RefCell::new(namespaces),
            broken,
            containers: RefCell::default(),
            execs: Rc::default(),
            attachments: Cell::new(0),
            closing: Cell::new(false),
            place: RefCell::new(origin.place),
        }
    }

    /// Why the pod could not be set up, when it could not.
    pub(crate) fn broken(&self) -> Option<&Error> {
        self.broken.as_ref()
    }

    /// The first process of the shared PID namespace, where there is one.
    pub(crate) fn init(&self) -> Option<u32> {
        self.init.and_then(|pid| u32::try_from(pid).ok())
    }

    pub(crate) fn state(&self) -> PodState {
        let containers = self.containers.borrow();
        PodState {
            containers: containers.values().filter_map(|c| c.state()).collect(),
            last_event: self.events.last(),
        }
    }

    /// A container of which `request` can be asked now. The inner error is "nothing to do".
    fn find(&self, operation: &str, id: &str, request: Request) -> Result<Found, Error> {
        let container = self
            .containers
            .borrow()
            .get(id)
            .cloned()
            .ok_or_else(|| errors::not_found(operation, id))?;
        match container.judge(request) {
            Verdict::Do => Ok(Found::ToDo(container)),
            Verdict::Done => Ok(Found::Done(container)),
            Verdict::Denied(why) => Err(errors::not_now(operation, id, why)),
        }
    }
}

/// A container, and whether anything is to be done.
#[derive(Debug)]
enum Found {
    ToDo(Rc<Container>),
    Done(Rc<Container>),
}
