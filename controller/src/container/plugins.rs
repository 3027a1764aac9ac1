//! What NRI plugins want of a container in the making.

use std::sync::Arc;

use husk_nri::HookError;
use husk_nri::api::{ContainerAdjustment, Event};
use oci_spec::runtime::Spec;

use super::creation::{Creation, log_warnings, spec_error};
use super::lookups;
use crate::error::PodError;
use crate::nri::{Subject, messages};
use crate::spec;
use crate::store::v1::ContainerRecord;
use crate::undo::Undo;

fn refused(id: &str) -> impl FnOnce(HookError) -> PodError {
    let subject = format!("container {id}");
    move |source| PodError::Plugins {
        subject,
        source: Box::new(source),
    }
}

/// Asks the plugins, and adjusts the spec as they want. Should the container not be made in the end,
/// they are told that it is gone.
pub(super) async fn adjust(
    creation: &Arc<Creation>,
    record: &ContainerRecord,
    spec: &mut Spec,
    undo: &mut Undo,
) -> Result<(), PodError> {
    let Creation { services, pod, .. } = &**creation;
    if !services.nri.is_active() {
        return Ok(());
    }
    let (pod, container) = (messages::pod(pod), messages::container(record, Some(spec)));
    let (nri, gone) = (services.nri.clone(), (pod.clone(), container.clone()));
    undo.push(async move {
        for event in [Event::StopContainer, Event::RemoveContainer] {
            let (pod, container) = gone.clone();
            if let Err(error) = nri.tell(event, pod, Some(container)).await {
                tracing::warn!(error = %crate::chain::chain(&error), "an NRI plugin objects to an undo");
            }
        }
        Ok(())
    });
    let asked = services.nri.create_container(pod, container).await;
    let asked = asked.map_err(refused(&record.id))?;
    inject(creation, spec, &asked).await?;
    apply(creation, &record.id, spec, &asked)
}

/// Brings in the CDI devices that plugins name, but not again those that the kubelet named. Before the
/// rest, so that what plugins say themselves wins.
async fn inject(
    creation: &Arc<Creation>,
    spec: &mut Spec,
    asked: &ContainerAdjustment,
) -> Result<(), PodError> {
    let given = |name: &String| creation.config.cdi_devices.iter().any(|d| d.name == *name);
    let names = asked.cdi_devices.iter().map(|device| device.name.clone());
    let names: Vec<_> = names.filter(|name| !given(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let (creation, mut changed) = (creation.clone(), spec.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let names = names.iter().map(String::as_str);
        lookups::inject(&creation, &mut changed, names)?;
        Ok::<_, PodError>(changed)
    });
    let failed = |error: tokio::task::JoinError| PodError::io("reading", "CDI files")(error.into());
    *spec = reading.await.map_err(failed)??;
    Ok(())
}

fn apply(
    creation: &Creation,
    id: &str,
    spec: &mut Spec,
    asked: &ContainerAdjustment,
) -> Result<(), PodError> {
    let mut warnings = Vec::new();
    spec::adjust::adjust(spec, asked, &creation.services.host, &mut warnings)
        .map_err(|source| spec_error(creation, source))?;
    log_warnings(id, &warnings);
    Ok(())
}

/// Tells the plugins that the container is made.
pub(super) async fn tell_created(creation: &Creation, record: &ContainerRecord) {
    let Creation { services, pod, .. } = creation;
    if let Some(subject) = Subject::container(services, pod, record) {
        subject.tell(Event::PostCreateContainer).await;
    }
}
