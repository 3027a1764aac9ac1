//! Plugins of the Node Resource Interface, as pods and containers meet them.
//!
//! `husk-nri` knows plugins and no pods; this module tells it of ours, and does what they ask for.
//! Asked before it happens, with an error that undoes it: a pod's making and update, a container's making,
//! start and update. Told when it has happened, where an error is only logged: everything else.
//!
//! Without a plugin nothing here allocates: [`Subject`]s are made only when there is somebody to tell.
//!
//! Deliberately absent: the node as plugins ask about it (`pod/plugins.rs`), and who may change what.
//! Whoever can connect to the socket is root on the node.

pub mod messages;

use std::sync::Arc;

use husk_nri::HookError;
use husk_nri::api::{ContainerState, Event, LinuxResources, UpdatePodSandboxRequest};

use crate::bundle;
use crate::error::PodError;
use crate::services::Services;
use crate::store::v1::{ContainerRecord, PodRecord};

/// A pod and perhaps one of its containers, in the protocol's words.
#[derive(Debug, Clone)]
pub struct Subject {
    services: Arc<Services>,
    pod: husk_nri::api::PodSandbox,
    container: Option<husk_nri::api::Container>,
}

impl Subject {
    /// The pod, if there is anybody to tell.
    pub fn pod(services: &Arc<Services>, pod: &PodRecord) -> Option<Self> {
        services.nri.is_active().then(|| Self {
            services: services.clone(),
            pod: messages::pod(pod),
            container: None,
        })
    }

    /// The container, if there is anybody to tell. Its bundle is looked at, so this has to be asked
    /// for while that is there.
    pub fn container(
        services: &Arc<Services>,
        pod: &PodRecord,
        record: &ContainerRecord,
    ) -> Option<Self> {
        let mut subject = Self::pod(services, pod)?;
        let directory = services.directories.bundle(&pod.id, &record.id);
        let spec = bundle::read_spec(&directory).ok();
        subject.container = Some(messages::container(record, spec.as_ref()));
        Some(subject)
    }

    /// The container once it runs, since `at` in nanoseconds since the epoch.
    #[must_use]
    pub fn started(mut self, at: i64) -> Self {
        if let Some(container) = &mut self.container {
            container.started_at = at;
            container.state = ContainerState::ContainerRunning.into();
        }
        self
    }

    /// The container once it has ended, however that was.
    #[must_use]
    pub fn stopped(mut self) -> Self {
        if let Some(container) = &mut self.container {
            container.pid = 0;
            container.state = ContainerState::ContainerStopped.into();
        }
        self
    }

    /// Asks whether it may happen.
    ///
    /// # Errors
    /// [`PodError::Plugins`]: it may not.
    pub async fn ask(&self, event: Event) -> Result<(), PodError> {
        self.tell_all(event)
            .await
            .map_err(|source| self.refused(source))
    }

    /// Asks whether the container may get these resources; answers what it is to get.
    ///
    /// # Errors
    /// [`PodError::Plugins`]: it may not.
    pub async fn ask_update(&self, resources: LinuxResources) -> Result<LinuxResources, PodError> {
        let (pod, container) = (self.pod.clone(), self.container.clone().unwrap_or_default());
        let asked = self
            .services
            .nri
            .update_container(pod, container, resources)
            .await;
        asked.map_err(|source| self.refused(source))
    }

    /// Asks whether the pod may get the limits in a request; which pod that is, is filled in here.
    ///
    /// # Errors
    /// [`PodError::Plugins`]: it may not.
    pub async fn ask_limits(&self, limits: UpdatePodSandboxRequest) -> Result<(), PodError> {
        let request = UpdatePodSandboxRequest {
            pod: Some(self.pod.clone()),
            ..limits
        };
        let asked = self.services.nri.update_pod(request).await;
        asked.map_err(|source| self.refused(source))
    }

    fn refused(&self, source: HookError) -> PodError {
        let subject = match &self.container {
            Some(container) => format!("container {}", container.id),
            None => format!("pod sandbox {}", self.pod.id),
        };
        PodError::Plugins {
            subject,
            source: Box::new(source),
        }
    }

    async fn tell_all(&self, event: Event) -> Result<(), HookError> {
        let (pod, container) = (self.pod.clone(), self.container.clone());
        self.services.nri.tell(event, pod, container).await
    }

    /// Tells that it has happened.
    pub async fn tell(&self, event: Event) {
        let told = self.tell_all(event).await;
        if let Err(error) = told {
            tracing::warn!(error = %crate::chain::chain(&error), event = event.as_str_name(),
                "an NRI plugin objects to what has happened");
        }
    }
}
