//! What a monitor that died leaves of a container that it was asked about.

use pod_monitor_client::Monitor;

use crate::monitors;
use crate::services::Services;
use crate::store::v1::PodRecord;

/// Ends the calls of the OCI runtime that a monitor was in the middle of when it died, so that they
/// make nothing any more. Nothing is done where it lives: only its connection broke. To be called
/// before the monitor is replaced, for the next one is in the same cgroup.
pub(crate) async fn end_calls(services: &Services, pod: &PodRecord, monitor: &Monitor) {
    if monitors::has_ended(monitor).await {
        let cgroup = pod.monitor_cgroup(&services.cgroups);
        services.cgroups.kill_calls(&cgroup, pod.init_pid).await;
    }
}

/// Ends what is left of one container whose monitor cannot be asked for it.
pub(crate) async fn sweep(services: &Services, record: &PodRecord, id: &str) {
    let parent = &record.cgroup_parent;
    services.cgroups.kill_container(parent, id).await;
    if let Err(error) = services.cgroups.remove_container(parent, id) {
        tracing::warn!(container = %id, %error, "its cgroup is left");
    }
    let handler = services.monitors.handlers.find(&record.handler);
    let Ok(state) = handler.map(|handler| handler.root.join(id)) else {
        return;
    };
    match std::fs::remove_dir_all(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %state.display(), %error, "the OCI runtime's state is left");
        }
        _ => {}
    }
}
