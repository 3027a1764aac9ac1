//! Resources of a container that exists, changed.

use std::sync::Arc;

use husk_cri_api::v1;
use husk_nri::api;
use oci_spec::runtime::LinuxResources;
use pod_monitor_client::Monitor;

use super::creation::log_warnings;
use super::limited;
use crate::bundle;
use crate::error::PodError;
use crate::fault;
use crate::monitors::Trace;
use crate::services::Services;
use crate::spec::{self, SpecError, Warning};
use crate::store::v1::ContainerRecord;

/// Whose words a change is in.
#[derive(Debug, Clone)]
pub enum Change {
    /// The kubelet's.
    Kubelet(Box<v1::LinuxContainerResources>),
    /// Plugins'.
    Plugins(Box<api::LinuxResources>),
}

impl Change {
    fn apply(
        &self,
        existing: &LinuxResources,
        services: &Services,
        warnings: &mut Vec<Warning>,
    ) -> Result<LinuxResources, SpecError> {
        match self {
            Self::Kubelet(change) => {
                spec::resources::update(existing, change, &services.host, warnings)
            }
            Self::Plugins(change) => {
                spec::adjust::change_resources(existing, change, &services.host, warnings)
            }
        }
    }
}

/// Changes the resources of a container; answers those now in force.
///
/// # Errors
/// What is wrong with the wish, or what the OCI runtime says.
pub async fn update(
    services: &Arc<Services>,
    monitor: &Monitor,
    record: &ContainerRecord,
    change: &Change,
    trace: &Trace,
) -> Result<v1::LinuxContainerResources, PodError> {
    let directory = services.directories.bundle(&record.pod_id, &record.id);
    let mut spec = bundle::read_spec(&directory)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let existing = linux.resources().clone().unwrap_or_default();
    let mut warnings = Vec::new();
    let resources = change
        .apply(&existing, services, &mut warnings)
        .map_err(|source| PodError::Spec {
            subject: format!("container {}", record.id),
            source: Box::new(source),
        })?;
    log_warnings(&record.id, &warnings);
    fault::point("container.update.begin")?;
    let json = bundle::to_json(&spec::resources::for_update(&resources), &directory)?;
    let call = monitor.update(trace, &record.id, &json);
    limited(services, "update", &record.id, call).await?;
    let score = spec.process().as_ref().and_then(|p| p.oom_score_adj());
    let reported = spec::resources::to_cri(&resources, score);
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    fault::point("container.update.end")?;
    bundle::write_spec(&directory, &spec)?;
    Ok(reported)
}
