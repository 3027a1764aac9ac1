//! How a container is made: image, root file system, user, spec, bundle, and the monitor's create.
//!
//! Deliberately absent: how each of the steps is done (`restore.rs`, `rootfs.rs`, `prepare.rs`, `plugins.rs`).

use std::path::Path;
use std::sync::Arc;

use husk_cri_api::v1;
use husk_image::Image;
use husk_nri::Hold;
use oci_spec::runtime::Spec;
use pod_monitor_client::schema::{ContainerConfig, Created as MonitorCreated, Stdin};

use super::creation::{Creation, spec_error};
use super::monitored::in_monitor_words;
use super::prepare::{Preparation, Prepared};
use super::restore::{self, Origin};
use super::rootfs::{mount_images, mount_rootfs, mounted_images};
use super::{leftovers, limited, monitored, plugins};
use crate::bundle;
use crate::clock::now;
use crate::error::PodError;
use crate::fault;
use crate::id::new_id;
use crate::monitors::{self, Escrow};
use crate::spec;
use crate::store::v1::{ContainerRecord, ContainerState, Created, pack};
use crate::undo::Undo;

/// A container, and what keeps plugins from missing it until readers see it.
#[derive(Debug)]
pub struct Made {
    /// The container.
    pub record: ContainerRecord,
    /// What it depends on, should its monitor die.
    pub escrow: Escrow,
    /// To be dropped when the container is published.
    pub hold: Hold,
}

/// Makes a container, or nothing.
///
/// # Errors
/// The first step that failed; what was done before is undone.
pub async fn create(creation: Creation) -> Result<Made, PodError> {
    let hold = creation.services.nri.hold().await;
    let mut undo = Undo::default();
    let creation = Arc::new(creation);
    match build(&creation, &mut undo).await {
        Ok((record, escrow)) => Ok(Made {
            record,
            escrow,
            hold,
        }),
        Err(error) => Err(undo.run(error).await),
    }
}

async fn build(
    creation: &Arc<Creation>,
    undo: &mut Undo,
) -> Result<(ContainerRecord, Escrow), PodError> {
    let Creation { services, pod, .. } = &**creation;
    spec::validate_container(&creation.config, &creation.sandbox, &services.host)
        .map_err(|source| spec_error(creation, source))?;
    let features = services.monitors.handlers.features(&pod.handler);
    spec::validate_runtime(&creation.config, &services.host, features)
        .map_err(|source| spec_error(creation, source))?;
    let Origin { image, checkpoint } = restore::origin(creation).await?;
    let id = new_id()?;
    let from = (&*image, checkpoint.as_ref());
    let rootfs = mount_rootfs(creation, from, &id, undo).await?;
    fault::point("container.create.rootfs")?;
    let image_mounts = mount_images(creation, &id, undo).await?;
    fault::point("container.create.images")?;
    let mounted_images = mounted_images(creation)?;
    let directory = services.directories.bundle(&pod.id, &id);
    {
        let directory = directory.clone();
        undo.push(async move { bundle::remove(&directory) });
    }
    let preparation = Preparation {
        creation: creation.clone(),
        image: image.clone(),
        id: id.clone(),
        rootfs,
        image_mounts,
    };
    let mut prepared = preparation.run().await?;
    let mut record = record(creation, &id, &image, &prepared);
    record.mounted_images = mounted_images;
    plugins::adjust(creation, &record, &mut prepared.spec, undo).await?;
    bundle::write(&directory, &prepared.spec)?;
    fault::point("container.create.bundle")?;
    let restores = checkpoint.is_some();
    let (created, escrow) = match checkpoint {
        None => create_process(creation, &id, &directory, &prepared, undo).await?,
        Some(checkpoint) => {
            checkpoint.fit(&prepared.spec)?;
            checkpoint.keep(services, &id)?;
            (MonitorCreated { pid: 0, at: now() }, Escrow::default())
        }
    };
    record.pipes = monitors::pipes(&escrow);
    record.created_at = created.at;
    record.packed_resources = reported_resources(&prepared.spec).map(|it| pack(&it));
    let pid = created.pid;
    record.state = Some(ContainerState::Created(Created { pid, restores }));
    let kept = services.store.put_container(&record).await;
    kept.map_err(|source| PodError::Store { id, source })?;
    plugins::tell_created(creation, &record).await;
    Ok((record, escrow))
}

/// What the container depends on. Without it the container goes down with its monitor, which is no
/// reason not to have it; but a monitor that is gone by now has taken it along.
async fn hold(creation: &Creation, id: &str) -> Result<Escrow, PodError> {
    let Creation {
        services,
        monitor,
        trace,
        ..
    } = creation;
    match monitored::escrow(services, monitor, id, trace).await {
        Err(error) if !error.is_disconnected() => Ok(Escrow::default()),
        other => other,
    }
}

/// The record of a container that has no process yet.
fn record(creation: &Creation, id: &str, image: &Image, prepared: &Prepared) -> ContainerRecord {
    let log_path = prepared.log_path.as_ref();
    ContainerRecord {
        id: id.to_owned(),
        pod_id: creation.pod.id.clone(),
        packed_config: pack(&creation.config),
        packed_resources: None,
        image_id: image.id.clone(),
        image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
        created_at: now(),
        log_path: log_path.map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
        user: Some(prepared.user.clone()),
        stop_signal: prepared.stop_signal,
        mounted_images: Vec::new(),
        pipes: Vec::new(),
        state: Some(ContainerState::Created(Created::default())),
    }
}

/// The resources that the spec came to, in the kubelet's words.
fn reported_resources(spec: &Spec) -> Option<v1::LinuxContainerResources> {
    let score = spec.process().as_ref().and_then(|p| p.oom_score_adj());
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    Some(spec::resources::to_cri(resources, score))
}

async fn create_process(
    creation: &Arc<Creation>,
    id: &str,
    directory: &Path,
    prepared: &Prepared,
    undo: &mut Undo,
) -> Result<(MonitorCreated, Escrow), PodError> {
    let wanted = in_monitor_words(
        &creation.config,
        ContainerConfig {
            id: id.to_owned(),
            bundle: directory.to_owned(),
            terminal: false,
            stdin: Stdin::None,
            log_path: prepared.log_path.clone(),
            memory_events: true,
        },
    );
    let (services, monitor, trace) = (
        creation.services.clone(),
        creation.monitor.clone(),
        creation.trace.clone(),
    );
    let (deleted, pod) = (id.to_owned(), creation.pod.clone());
    undo.push(async move {
        let call = monitor.delete(&trace, &deleted, true);
        let done = limited(&services, "removal", &deleted, call).await;
        // The monitor may have died of it, and an OCI runtime that was killed half-way knows nothing of what it made.
        let cut_off = done.as_ref().is_err_and(PodError::is_disconnected);
        if cut_off {
            leftovers::end_calls(&services, &pod, &monitor).await;
        }
        services.fd_store.remove(&deleted);
        leftovers::sweep(&services, &pod, &deleted).await;
        if cut_off { Ok(()) } else { done }
    });
    let (services, monitor, trace) = (&creation.services, &creation.monitor, &creation.trace);
    let created = limited(services, "creation", id, monitor.create(trace, &wanted)).await?;
    fault::point("container.create.process")?;
    let escrow = hold(creation, id).await?;
    Ok((created, escrow))
}
