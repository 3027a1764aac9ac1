//! A container as its monitor has it: what it is made with there, what is held of it for when the
//! monitor dies.

use std::path::PathBuf;

use husk_cri_api::v1;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ContainerConfig, Stdin};

use super::limited;
use crate::error::PodError;
use crate::monitors::{Escrow, Trace};
use crate::services::Services;
use crate::store::v1::ContainerRecord;

/// What a monitor was asked to make a container with.
pub fn monitor_config(services: &Services, record: &ContainerRecord) -> ContainerConfig {
    let log_path = Some(PathBuf::from(&record.log_path));
    in_monitor_words(
        &record.config(),
        ContainerConfig {
            id: record.id.clone(),
            bundle: services.directories.bundle(&record.pod_id, &record.id),
            terminal: false,
            stdin: Stdin::None,
            log_path: log_path.filter(|path| !path.as_os_str().is_empty()),
            memory_events: true,
        },
    )
}

/// Fills in what the kubelet's configuration decides.
pub(super) fn in_monitor_words(
    config: &v1::ContainerConfig,
    like: ContainerConfig,
) -> ContainerConfig {
    ContainerConfig {
        terminal: config.tty,
        stdin: match (config.stdin, config.stdin_once) {
            (false, _) => Stdin::None,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        ..like
    }
}

/// Duplicates of what a container depends on, which systemd's store gets too.
///
/// # Errors
/// When the monitor cannot be asked or refuses; then the store has what it had.
pub async fn escrow(
    services: &Services,
    monitor: &Monitor,
    id: &str,
    trace: &Trace,
) -> Result<Escrow, PodError> {
    let asked = limited(services, "escrow", id, monitor.escrow(trace, id)).await;
    match &asked {
        Ok(escrow) => services.fd_store.put(id, escrow),
        Err(error) => {
            let error = crate::chain::chain(error);
            tracing::warn!(container = %id, error, "nothing of the container can be held");
        }
    }
    asked
}
