//! Containers: how one is made, started, stopped, changed, removed, and how a command runs in it.
//!
//! Making goes image → root file system → user → spec → bundle → monitor, each step with its undo.
//! The bundle (`config.json`, and `process.json` that exec starts from) lies in the pod's run
//! directory. Everything alive is the monitor's: the functions here ask it and translate.
//!
//! Deliberately absent: the state of containers (`pod/driver.rs` owns it), the spec's rules
//! (`spec/`), processes and logs (the pod's monitor).

mod checkpoint;
mod create;
mod creation;
mod exec;
pub mod exits;
mod host_paths;
mod leftovers;
mod lookups;
mod monitored;
mod plugins;
mod prepare;
mod restore;
mod rootfs;
mod update;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use husk_nri::api::Event;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{Exit, ExitStatus};

pub use checkpoint::{Checkpoint, checkpoint, drafts};
pub use create::{Made, create};
pub use creation::Creation;
pub use exec::{Command, Exec, ExecOutput, exec_config, exec_sync};
pub(crate) use leftovers::sweep;
pub use monitored::{escrow, monitor_config};
pub use restore::Restored;
pub use update::{Change, update};
pub use usage::WritableUsage;

use crate::bundle;
use crate::clock::now;
use crate::error::PodError;
use crate::fault;
use crate::monitors::{self, Trace};
use crate::nri::Subject;
use crate::services::Services;
use crate::store::v1::ContainerRecord;

fn monitor_error<'a>(
    operation: &'static str,
    id: &'a str,
) -> impl FnOnce(monitors::Error) -> PodError + 'a {
    move |source| PodError::Monitor {
        operation,
        subject: format!("container {id}"),
        source: Box::new(source),
    }
}

/// Waits for the monitor's answer about a container, for as long as it can honestly take: one call
/// of the OCI runtime, and killing that one when its own time is over. A monitor that is stopped or
/// stuck must not hold the pod's requests for ever.
async fn limited<T>(
    services: &Services,
    operation: &'static str,
    id: &str,
    call: impl Future<Output = Result<T, monitors::Error>>,
) -> Result<T, PodError> {
    let runtime = &services.config.runtime;
    let limit = runtime.start_timeout.saturating_add(runtime.kill_timeout);
    within(limit, operation, id, call).await
}

async fn within<T>(
    limit: Duration,
    operation: &'static str,
    id: &str,
    call: impl Future<Output = Result<T, monitors::Error>>,
) -> Result<T, PodError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(monitor_error(operation, id)),
        Err(_) => Err(PodError::MonitorSilent {
            operation,
            subject: format!("container {id}"),
            limit,
        }),
    }
}

/// How a start went.
#[derive(Debug)]
pub struct Begun {
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// Where it was a restore: what there was not before.
    pub restored: Option<Restored>,
}

/// Starts a container's program, or restores it. Plugins are asked before, where there are any, and told
/// after.
///
/// # Errors
/// What the OCI runtime says, for example of a command that is not in the image, or a plugin.
pub async fn start(
    services: &Arc<Services>,
    monitor: &Monitor,
    record: &ContainerRecord,
    trace: &Trace,
    plugins: Option<Subject>,
) -> Result<Begun, PodError> {
    if let Some(plugins) = &plugins {
        plugins.ask(Event::StartContainer).await?;
    }
    fault::point("container.start.begin")?;
    let begun = if record.awaits_restore() {
        restore::start(services, monitor, record, trace).await?
    } else {
        let call = monitor.start(trace, &record.id);
        let started = limited(services, "start", &record.id, call).await?;
        Begun {
            at: started.at,
            restored: None,
        }
    };
    fault::point("container.start.end")?;
    if let Some(plugins) = plugins {
        let running = plugins.started(begun.at);
        running.tell(Event::PostStartContainer).await;
    }
    Ok(begun)
}

/// Stops a container with its stop signal, then SIGKILL after `grace`.
///
/// # Errors
/// When the monitor cannot be asked or the container does not go.
pub async fn stop(
    services: &Services,
    monitor: &Monitor,
    record: &ContainerRecord,
    grace: Duration,
    trace: &Trace,
) -> Result<Exit, PodError> {
    if record.awaits_restore() {
        // It has no process yet, and will have none.
        return Ok(Exit {
            status: ExitStatus::Signal(9),
            at: now(),
            oom_killed: false,
        });
    }
    let signal = u8::try_from(record.stop_signal).unwrap_or(15);
    fault::point("container.stop.begin")?;
    let stopping = monitor.stop(trace, &record.id, signal, grace);
    let limit = grace.saturating_add(services.config.runtime.kill_timeout);
    match tokio::time::timeout(limit, stopping).await {
        Ok(stopped) => {
            fault::point("container.stop.end")?;
            stopped.map_err(monitor_error("stop", &record.id))
        }
        Err(_) => Err(PodError::Unkillable {
            id: record.id.clone(),
            limit: services.config.runtime.kill_timeout,
        }),
    }
}

/// Removes a container and all that belongs to it, killing it first when it runs.
///
/// # Errors
/// All steps that failed; the others are done.
pub async fn remove(
    services: &Arc<Services>,
    monitor: Option<Monitor>,
    record: &ContainerRecord,
    trace: &Trace,
) -> Result<(), PodError> {
    let mut errors: Vec<_> = fault::point("container.remove.begin")
        .err()
        .map(PodError::from)
        .into_iter()
        .collect();
    if let Some(monitor) = monitor {
        let call = monitor.delete(trace, &record.id, true);
        let deleted = limited(services, "removal", &record.id, call).await;
        if deleted.as_ref().is_err_and(PodError::is_disconnected) {
            // It may run on, and another monitor can be asked.
            return deleted;
        }
        errors.extend(deleted.err());
    }
    errors.extend(
        fault::point("container.remove.process")
            .err()
            .map(PodError::from),
    );
    let released = services.images.release(&record.id).await;
    errors.extend(released.err().map(|source| PodError::Rootfs {
        id: record.id.clone(),
        source: Box::new(source),
    }));
    for mount in rootfs::image_mount_ids(record) {
        let released = services.images.release_image_mount(&mount).await;
        errors.extend(released.err().map(|source| PodError::Rootfs {
            id: mount.clone(),
            source: Box::new(source),
        }));
    }
    errors.extend(
        fault::point("container.remove.rootfs")
            .err()
            .map(PodError::from),
    );
    let directory = services.directories.bundle(&record.pod_id, &record.id);
    errors.extend(bundle::remove(&directory).err());
    errors.extend(
        fault::point("container.remove.bundle")
            .err()
            .map(PodError::from),
    );
    if errors.is_empty() {
        let deleted = services.store.delete_container(&record.id).await;
        errors.extend(deleted.err().map(|source| PodError::Store {
            id: record.id.clone(),
            source,
        }));
    }
    PodError::gathered(errors)
}

/// Opens a container's log anew after a rotation.
///
/// # Errors
/// When it does not run, or the file cannot be made; then the old one stays in use.
pub async fn reopen_log(
    services: &Services,
    monitor: &Monitor,
    id: &str,
    trace: &Trace,
) -> Result<(), PodError> {
    fault::point("container.reopen.begin")?;
    limited(services, "log change", id, monitor.reopen_log(trace, id)).await?;
    fault::point("container.reopen.end")?;
    Ok(())
}

/// The OCI spec that a container was made with, as JSON, for verbose statuses.
pub fn spec_json(directory: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read(directory.join(bundle::SPEC)).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_monitor_that_stays_silent_is_given_up_on() {
        let limit = Duration::from_millis(1);
        let error = within::<()>(limit, "start", "c", std::future::pending())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, PodError::MonitorSilent { operation: "start", subject, .. }
                if subject == "container c"),
            "{error:?}"
        );
        let generous = Duration::from_secs(60);
        let answered = within(generous, "start", "c", async { Ok(7) }).await;
        assert_eq!(answered.unwrap(), 7);
        let refused = async { Err(monitors::Error::Disconnected { operation: "start" }) };
        let error = within::<()>(generous, "start", "c", refused)
            .await
            .unwrap_err();
        assert!(matches!(error, PodError::Monitor { .. }), "{error:?}");
    }
}
