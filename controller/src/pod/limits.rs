//! What a whole pod may use: changed by the kubelet, written to the pod's cgroup where that is ours.

use std::sync::Arc;

use husk_cri_api::v1::LinuxContainerResources;
use husk_nri::api::UpdatePodSandboxRequest;

use crate::error::PodError;
use crate::nri::messages;
use crate::services::Services;
use crate::spec;
use crate::store::v1::PodRecord;

/// What a whole pod may use, as far as it is to change.
#[derive(Debug, Clone, Default)]
pub struct PodLimits {
    /// The sum of its containers.
    pub resources: Option<LinuxContainerResources>,
    /// What running it costs beside them.
    pub overhead: Option<LinuxContainerResources>,
}

impl PodLimits {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn validate(&self) -> Result<(), PodError> {
        for asked in self.resources.iter().chain(&self.overhead) {
            spec::resources::validate(asked).map_err(|source| PodError::Spec {
                subject: "the pod's resources".into(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// In the words of plugins, of no pod yet.
    pub(super) fn to_plugins(&self) -> UpdatePodSandboxRequest {
        let words = |of: &Option<_>| of.as_ref().map(messages::resources_from_cri);
        UpdatePodSandboxRequest {
            pod: None,
            overhead_linux_resources: words(&self.overhead),
            linux_resources: words(&self.resources),
        }
    }

    /// Lays the change over what a pod has; what it does not mention stays.
    pub(super) fn apply(&self, record: &mut PodRecord) {
        if let Some(resources) = &self.resources {
            record.resources = Some(Box::new(resources.clone()));
        }
        if let Some(overhead) = &self.overhead {
            record.overhead = Some(Box::new(overhead.clone()));
        }
    }
}

/// Writes a pod's limits to its cgroup. The kernel may reclaim memory first, so this may take time.
pub(super) async fn write(services: Arc<Services>, record: PodRecord) -> Result<(), PodError> {
    let id = record.id.clone();
    let written = tokio::task::spawn_blocking(move || {
        let (resources, overhead) = record.limits();
        let cgroups = &services.cgroups;
        cgroups.limit_pod(&record.cgroup_parent, &resources, &overhead)
    });
    let failed = |_| PodError::Stopping { id };
    match written.await.map_err(failed)? {
        Ok(own) => {
            tracing::debug!(own, "the pod's limits are noted");
            Ok(())
        }
        Err((path, source)) => Err(PodError::io("limiting the pod by", path)(source)),
    }
}
