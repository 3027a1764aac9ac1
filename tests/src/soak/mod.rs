//! A soak: several clients do pod operations at random while the daemon, monitors, OCI runtimes and CNI plugins are
//! killed, monitors also together with the daemon.
//!
//! ```text
//!   client 1…n: a pod, its containers, commands, rotations, stops ──▶ node ◀── killer: daemon, monitors, crun, plugins
//!        └── oracle: every line once and in order, the right exit code, nothing left at the end
//! ```
//! The daemon has a store of descriptors, as under systemd, without which a container that writes while its monitor and
//! the daemon are both dead would get a broken pipe. What a killed monitor had read and not written may be missing from
//! a log, once for each time (`lines`).
//!
//! A client behaves as a kubelet does: what fails is asked again, what is lost is replaced. One seed gives one sequence
//! of decisions for each client and for the killer; how they interleave is the machine's.
//!
//! Deliberately absent: waits for luck. A pause between two kills is part of what is tried, not of what is awaited.

mod client;
mod dice;
mod killer;
mod lines;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;

use crate::service::ServiceManager;
use crate::snapshot::Snapshot;
use crate::wait::{DEADLINE, wait_for};
use crate::{Node, NodeOptions};
use dice::Dice;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub time: Duration,
    pub clients: u64,
}

/// How often what was done.
pub type Counts = BTreeMap<&'static str, u64>;

/// What clients and killer share.
#[derive(Debug)]
struct World {
    node: Node,
    end: Instant,
    counts: Mutex<Counts>,
    /// How often each pod has lost its monitor, by its id.
    deaths: Mutex<BTreeMap<String, u64>>,
}

impl World {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn count(&self, what: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what).or_default() += 1;
    }

    fn note_death(&self, pod: &str) {
        let mut deaths = self.deaths.lock().unwrap_or_else(PoisonError::into_inner);
        *deaths.entry(pod.to_owned()).or_default() += 1;
    }

    fn deaths(&self, pod: &str) -> u64 {
        let deaths = self.deaths.lock().unwrap_or_else(PoisonError::into_inner);
        deaths.get(pod).copied().unwrap_or_default()
    }
}

/// Runs a soak to its end, or to the first thing that is wrong.
pub async fn run(plan: Plan) -> Result<Counts> {
    soak(plan).await.with_context(|| {
        format!(
            "this soak comes again with HUSK_SOAK_SEED={} and cargo xtask test soak",
            plan.seed
        )
    })
}

async fn soak(plan: Plan) -> Result<Counts> {
    let directory = tempfile::tempdir()?;
    let service = Arc::new(ServiceManager::start(directory.path())?);
    let options = NodeOptions {
        configuration: "[runtime]\ndefault = \"crun\"\n".to_owned(),
        service: Some(service.clone()),
        ..Default::default()
    };
    let node = Node::start(options).await?;
    let before = lasting(node.settled().await?);
    let world = Arc::new(World {
        node,
        end: Instant::now() + plan.time,
        counts: Mutex::default(),
        deaths: Mutex::default(),
    });
    let clients = (0..plan.clients).map(|number| {
        let (world, dice) = (Arc::clone(&world), Dice::new(plan.seed, number));
        async move { client::run(&world, number, dice).await }
    });
    let killer = killer::run(&world, Dice::new(plan.seed, u64::MAX));
    let (lived, killed) = tokio::join!(try_join_all(clients), killer);
    killed.and(lived)?;
    let client = world.node.client().await?;
    let (pods, containers) = (client.pods(None).await?, client.containers(None).await?);
    ensure!(
        pods.is_empty() && containers.is_empty(),
        "{pods:?} {containers:?}"
    );
    wait_for("nothing is stored any more", DEADLINE, async || {
        service.stored().is_empty().then_some(())
    })
    .await
    .with_context(|| format!("{:?}", service.stored()))?;
    let same = wait_for("all is as before", DEADLINE, async || {
        before.assert_same(&lasting(world.node.snapshot())).ok()
    });
    if same.await.is_err() {
        before.assert_same(&lasting(world.node.snapshot()))?;
    }
    let counts = world.counts.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(counts.clone())
}

/// A snapshot without what says which daemon it is.
fn lasting(snapshot: Snapshot) -> Snapshot {
    let snapshot = snapshot.only("descriptors", |_| false);
    snapshot.only("processes", |line| !line.contains(" serve"))
}
