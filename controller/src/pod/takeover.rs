//! Another monitor for a pod whose monitor is gone, or the same one again where only the connection
//! broke.

use std::sync::Arc;
use std::time::Duration;

use pod_monitor_client::schema::{PodState, StartConfig, from_bytes};
use pod_monitor_client::{Events, HandedOver, Handover, Monitor};

use super::sandbox;
use crate::error::PodError;
use crate::monitors::{self, Trace};
use crate::services::Services;
use crate::store::v1::PodRecord;

/// How long a monitor may take to say what it has, and to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a takeover works on.
pub(crate) struct Takeover {
    pub(crate) services: Arc<Services>,
    pub(crate) record: Arc<PodRecord>,
    /// The pod's containers, with what is held of them.
    pub(crate) containers: Vec<HandedOver>,
}

/// A pod that has a monitor again.
#[derive(Debug)]
pub(crate) struct TakenOver {
    pub(crate) monitor: Monitor,
    pub(crate) events: Events,
    /// What the monitor knows of its containers.
    pub(crate) state: PodState,
    /// Whether it is another one.
    pub(crate) restarted: bool,
}

impl Takeover {
    /// Finds out what became of the monitor, and replaces it after a pause where it is gone.
    pub(super) async fn succeed(
        self,
        monitor: Monitor,
        pause: Duration,
    ) -> Result<TakenOver, PodError> {
        if !monitors::has_ended(&monitor).await {
            if let Some(found) = self.reconnect().await {
                return Ok(found);
            }
            tracing::warn!(
                pid = monitor.pid(),
                "the monitor does not answer: killing it"
            );
            if let Err(error) = monitor.kill_process() {
                tracing::warn!(%error, "the monitor cannot be killed");
            }
            // Where it does not go, its sockets are in use and the takeover fails.
            let _ = tokio::time::timeout(PATIENCE, monitor.ended()).await;
        }
        drop(monitor);
        tokio::time::sleep(pause).await;
        self.run().await
    }

    /// The connection broke and the monitor lives.
    async fn reconnect(&self) -> Option<TakenOver> {
        let run = self.services.directories.pod(&self.record.id);
        let (monitor, events) = self
            .services
            .monitors
            .connect(&run, &Trace::default())
            .await
            .ok()?;
        let state = state(&monitor, &self.record.id).await.ok()?;
        Some(TakenOver {
            monitor,
            events,
            state,
            restarted: false,
        })
    }

    /// Starts another monitor for a pod that has none.
    pub(crate) async fn run(self) -> Result<TakenOver, PodError> {
        let Self {
            services,
            record,
            containers,
        } = self;
        let id = &record.id;
        let config = start_config(&record)?;
        let cgroup = record.monitor_cgroup(&services.cgroups);
        services.cgroups.kill_calls(&cgroup, record.init_pid).await;
        let procs = services.cgroups.make(&cgroup).map_err(PodError::io(
            "making the monitor's cgroup below",
            &record.cgroup_parent,
        ))?;
        let handover = Handover {
            pod_pid: (record.init_pid > 0).then_some(record.init_pid),
            containers,
        };
        let started = services.monitors.restart(config, procs, handover).await;
        let (monitor, events) = started.map_err(|source| PodError::Monitor {
            operation: "starting another monitor",
            subject: format!("pod {id}"),
            source: Box::new(source),
        })?;
        if let Err(error) = sandbox::start_scope(&services, &cgroup, id, &monitor).await {
            // Its memory is not counted as the pod's then; the pod itself is whole.
            let error = crate::chain::chain(&error);
            tracing::warn!(error, "the new monitor is not in a cgroup of its own");
        }
        let state = state(&monitor, id).await?;
        Ok(TakenOver {
            monitor,
            events,
            state,
            restarted: true,
        })
    }
}

fn start_config(record: &PodRecord) -> Result<StartConfig, PodError> {
    let unknown = |cause: String| PodError::NoTakeover {
        id: record.id.clone(),
        cause,
    };
    if record.monitor.is_empty() {
        let cause = "its record is of an earlier version";
        return Err(unknown(cause.into()));
    }
    from_bytes(&record.monitor).map_err(|error| unknown(error.to_string()))
}

async fn state(monitor: &Monitor, id: &str) -> Result<PodState, PodError> {
    let subject = format!("pod {id}");
    let operation = "asking for the state";
    match tokio::time::timeout(PATIENCE, monitor.state(&Trace::default())).await {
        Ok(state) => state.map_err(|source| PodError::Monitor {
            operation,
            subject,
            source: Box::new(source),
        }),
        Err(_) => Err(PodError::MonitorSilent {
            operation,
            subject,
            limit: PATIENCE,
        }),
    }
}
