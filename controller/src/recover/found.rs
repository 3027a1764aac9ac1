//! What is done about the state that a monitor was found in.

use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ContainerPhase, PodState};

use crate::services::Services;

/// What logs lack, which the monitors count.
pub(super) fn note_losses(services: &Services, state: &PodState) {
    for known in state.containers.iter().filter(|it| it.log_bytes_lost > 0) {
        services
            .stats
            .note_log_lost(&known.id, known.log_bytes_lost);
    }
}

/// Lets those run that stand still because the daemon that paused them for a checkpoint was killed;
/// nobody else pauses a container.
pub(super) async fn resume_paused(monitor: &Monitor, state: &PodState) {
    let is_paused = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Paused { .. });
    for paused in state.containers.iter().filter(|it| is_paused(&it.phase)) {
        tracing::info!(container = %paused.id, "resuming a container that was left paused");
        if let Err(error) = monitor.resume(&super::trace(), &paused.id).await {
            tracing::error!(container = %paused.id, %error, "a container is left paused");
        }
    }
}
