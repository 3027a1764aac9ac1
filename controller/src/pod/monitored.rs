//! Pods' monitors for those who ask them directly: about containers that run, and to become another
//! program.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pod_monitor_client::Monitor;

use super::Pods;
use super::driver::Request;
use crate::chain::chain;
use crate::error::{Kind, PodError, SharedError};
use crate::view::{Found, PodPhase, PodView};

/// Monitors that are upgraded at the same time: each stands still for a moment.
pub(crate) const UPGRADES: usize = 8;

/// How long who asks about a running container waits while its pod is given to another monitor.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

impl Pods {
    /// A container that runs, and its pod's monitor to ask about it. Where that one has died, waits for
    /// the next.
    ///
    /// # Errors
    /// As [`Pods::container`]; [`PodError::State`] where it does not run, [`PodError::NoMonitor`] where
    /// no monitor comes.
    pub async fn monitored(
        &self,
        operation: &'static str,
        id: &str,
    ) -> Result<(Found, Monitor), PodError> {
        let first = self.container(id)?;
        let pod = first.pod.record.id.clone();
        let view = self.read().pods.get(&pod).map(|handle| handle.view.clone());
        if let Some(mut view) = view {
            let settled =
                |view: &Arc<PodView>| view.monitor.is_some() || view.phase != PodPhase::Ready;
            // Whether it came in time, or the pod was removed, is seen below.
            let _ = tokio::time::timeout(TAKEOVER_LIMIT, view.wait_for(settled)).await;
        }
        let found = self.container(&first.container.id)?;
        if !found.container.is_running() {
            return Err(PodError::State {
                operation,
                kind: Kind::Container,
                id: found.container.id.clone(),
                state: found.container.state_word(),
            });
        }
        let monitor = found.pod.monitor.clone();
        let monitor = monitor.ok_or(PodError::NoMonitor { id: pod })?;
        Ok((found, monitor))
    }

    /// Makes the monitor of a pod execute the daemon's monitor program in place.
    ///
    /// # Errors
    /// When it cannot be now, or the monitor does not survive it.
    pub async fn upgrade_monitor(&self, id: &str) -> Result<(), SharedError> {
        self.ask(id, |reply| Request::Upgrade { reply }).await
    }

    /// Makes every monitor that executes another program than the daemon's execute that one, and
    /// answers how many there were.
    pub async fn upgrade_old_monitors(&self) -> usize {
        let (services, pods) = (self.services.clone(), self.list());
        let find = move || {
            let old = |pod: Arc<PodView>| {
                let monitor = pod.monitor.as_ref()?;
                let current = services.monitors.is_current(monitor.pid());
                (!current).then(|| pod.record.id.clone())
            };
            pods.into_iter().filter_map(old).collect()
        };
        let old: Vec<String> = tokio::task::spawn_blocking(find).await.unwrap_or_default();
        let count = old.len();
        let upgrades = old.into_iter().map(|id| async move {
            if let Err(error) = self.upgrade_monitor(&id).await {
                let error = chain(&*error);
                tracing::warn!(pod = %id, error, "the monitor keeps its program");
            }
        });
        let mut upgrades = futures::stream::iter(upgrades).buffer_unordered(UPGRADES);
        while upgrades.next().await.is_some() {}
        count
    }
}
