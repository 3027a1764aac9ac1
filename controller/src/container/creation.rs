//! Everything a container is made from, as each step of its making needs it.

use std::sync::Arc;

use husk_cri_api::v1;
use husk_image::Image;
use pod_monitor_client::Monitor;

use crate::error::PodError;
use crate::monitors::Trace;
use crate::services::Services;
use crate::spec::{SpecError, Warning};
use crate::store::v1::{ContainerRecord, PodRecord};

/// Everything a container is made from.
#[derive(Debug)]
pub struct Creation {
    /// The node's services.
    pub services: Arc<Services>,
    /// The pod.
    pub pod: Arc<PodRecord>,
    /// What the kubelet wants of the pod.
    pub sandbox: v1::PodSandboxConfig,
    /// The pod's other containers, for a PID namespace shared with one of them.
    pub siblings: Vec<Arc<ContainerRecord>>,
    /// The pod's monitor.
    pub monitor: Monitor,
    /// What the kubelet wants.
    pub config: v1::ContainerConfig,
    /// Whose request it is.
    pub trace: Trace,
}

pub(super) fn spec_error(creation: &Creation, source: SpecError) -> PodError {
    let metadata = creation.config.metadata.clone().unwrap_or_default();
    PodError::Spec {
        subject: format!("container {}", metadata.name),
        source: Box::new(source),
    }
}

/// The image that the kubelet named: by id, since it pulled it before.
pub(super) fn reference(creation: &Creation) -> Result<&str, PodError> {
    let reference = creation
        .config
        .image
        .as_ref()
        .map_or("", |image| image.image.as_str());
    if reference.is_empty() {
        return Err(spec_error(
            creation,
            SpecError::Missing {
                field: "image.image",
            },
        ));
    }
    Ok(reference)
}

pub(super) fn image(services: &Services, reference: &str) -> Result<Arc<Image>, PodError> {
    let found = services.images.find(reference);
    found
        .map_err(|source| PodError::Image {
            reference: reference.to_owned(),
            source: Box::new(source),
        })?
        .ok_or_else(|| PodError::NoImage {
            reference: reference.to_owned(),
        })
}

pub(super) fn log_warnings(id: &str, warnings: &[Warning]) {
    for warning in warnings {
        tracing::debug!(container = %id, %warning, "left out of the spec");
    }
}
