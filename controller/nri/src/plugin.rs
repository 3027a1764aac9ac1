//! One plugin: what it subscribed to, and calls to it.

use std::time::Duration;

use prost::Message;
use tokio::process::Child;

use crate::api::{self, Event};
use crate::connection::Connection;
use crate::discover::Identity;
use crate::error::{CallError, HookError, Refusal};
use crate::ttrpc::{self, Request, code};

pub(crate) const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
pub(crate) const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// How much of the state goes into one message: what is around it fits into the rest.
const PART: usize = ttrpc::LARGEST - 64 * 1024;

/// A plugin that registered and was configured.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) identity: Identity,
    /// Bit N-1 is event N.
    pub(crate) events: i32,
    pub(crate) policy: api::FailurePolicy,
    /// How long it may take to answer.
    pub(crate) limit: Duration,
    /// How long it may take for each part of the state.
    pub(crate) state_limit: Duration,
    pub(crate) connection: Connection,
    /// The process, where we started it.
    pub(crate) child: Option<Child>,
}

/// The pod and the container of a hook. Every hook that only tells has this very request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Subject {
    #[prost(message, optional, tag = "1")]
    pub(crate) pod: Option<api::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    pub(crate) container: Option<api::Container>,
}

impl Plugin {
    pub(crate) fn name(&self) -> String {
        self.identity.full()
    }

    /// Ends it: its connection, and its process where we started it.
    pub(crate) async fn end(self) {
        if let Some(mut child) = self.child
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "an NRI plugin cannot be killed");
        }
    }

    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events & (1 << (event as i32 - 1)) != 0
    }

    /// Asks the plugin; none where it did not subscribe, or failed to answer and may.
    pub(crate) async fn hook<R: Message + Default>(
        &self,
        event: Event,
        request: &impl Message,
    ) -> Result<Option<R>, HookError> {
        if !self.wants(event) || self.connection.is_closed() {
            return Ok(None);
        }
        let answer = self.call(method(event), request).await;
        self.judge(event, answer)
    }

    /// Asks the plugin, and takes its failing to answer for a refusal.
    pub(crate) async fn insist<R: Message + Default>(
        &self,
        event: Event,
        request: &impl Message,
    ) -> Result<R, HookError> {
        let failed = |source| HookError::Plugin {
            plugin: self.name(),
            event: method(event),
            source,
        };
        let answer = self.call(method(event), request).await;
        if let Err(error) = &answer {
            self.drop_if_lost(error);
        }
        answer.map_err(failed)
    }

    /// Tells the plugin; answers the changes of containers that it wants.
    pub(crate) async fn tell(
        &self,
        event: Event,
        subject: &Subject,
    ) -> Result<Vec<api::ContainerUpdate>, HookError> {
        if !self.wants(event) || self.connection.is_closed() {
            return Ok(Vec::new());
        }
        // Only the answer to StopContainer has a field; those of the others are empty.
        let mut answer = self.call(method(event), subject).await;
        if matches!(&answer, Err(CallError::Refused { code, .. }) if *code == code::UNIMPLEMENTED) {
            answer = self.state_change(event, subject).await;
        }
        let answer: Option<api::StopContainerResponse> = self.judge(event, answer)?;
        Ok(answer.unwrap_or_default().update)
    }

    /// How plugins from before v0.10 are told.
    async fn state_change<R: Message + Default>(
        &self,
        event: Event,
        subject: &Subject,
    ) -> Result<R, CallError> {
        let told = api::StateChangeEvent {
            event: event.into(),
            pod: subject.pod.clone(),
            container: subject.container.clone(),
        };
        self.call::<api::Empty>("StateChange", &told).await?;
        Ok(R::default())
    }

    pub(crate) async fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, CallError> {
        self.call_within(self.limit, method, request).await
    }

    async fn call_within<R: Message + Default>(
        &self,
        limit: Duration,
        method: &str,
        request: &impl Message,
    ) -> Result<R, CallError> {
        let request = Request::new(PLUGIN_SERVICE, method, request, limit);
        let answer = self.connection.call(request, limit).await?;
        Ok(R::decode(answer)?)
    }

    /// What a failed call means, by the plugin's own wish.
    fn judge<R>(&self, event: Event, answer: Result<R, CallError>) -> Result<Option<R>, HookError> {
        let source = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(source) => source,
        };
        self.drop_if_lost(&source);
        if source.is_failure() && !self.policy.fail_request {
            tracing::warn!(plugin = %self.name(), event = method(event), error = %source,
                "an NRI plugin did not answer; going on without it");
            return Ok(None);
        }
        Err(HookError::Plugin {
            plugin: self.name(),
            event: method(event),
            source,
        })
    }

    fn drop_if_lost(&self, error: &CallError) {
        let kept = matches!(error, CallError::Timeout(_)) && self.policy.keep_connected;
        if error.is_failure() && !kept {
            self.connection.close();
        }
    }

    /// Tells the plugin the state, in parts where it is large; answers the changes that it wants.
    pub(crate) async fn synchronize(
        &self,
        pods: Vec<api::PodSandbox>,
        containers: Vec<api::Container>,
    ) -> Result<Vec<api::ContainerUpdate>, Refusal> {
        let mut answer = api::SynchronizeResponse::default();
        for part in parts(pods, containers, PART)? {
            let call = self.call_within(self.state_limit, "Synchronize", &part);
            answer = call.await.map_err(|source| Refusal::Call {
                call: "Synchronize",
                source,
            })?;
            if part.more && (!answer.more || !answer.update.is_empty()) {
                return Err(Refusal::Parts);
            }
        }
        Ok(answer.update)
    }
}

/// The state in messages of at most `limit` bytes; one, possibly empty, at least.
fn parts(
    pods: Vec<api::PodSandbox>,
    containers: Vec<api::Container>,
    limit: usize,
) -> Result<Vec<api::SynchronizeRequest>, Refusal> {
    // A field's tag and length, with room to spare.
    const AROUND: usize = 8;
    let mut parts = vec![api::SynchronizeRequest::default()];
    let mut filled = 0;
    let mut room = |parts: &mut Vec<api::SynchronizeRequest>, length: usize| {
        let length = length + AROUND;
        if length > limit {
            return Err(Refusal::TooLarge(length));
        }
        if filled + length > limit {
            parts.push(api::SynchronizeRequest::default());
            filled = 0;
        }
        filled += length;
        Ok(parts.len() - 1)
    };
    for pod in pods {
        let part = room(&mut parts, pod.encoded_len())?;
        parts[part].pods.push(pod);
    }
    for container in containers {
        let part = room(&mut parts, container.encoded_len())?;
        parts[part].containers.push(container);
    }
    let last = parts.len() - 1;
    for part in &mut parts[..last] {
        part.more = true;
    }
    Ok(parts)
}

/// The name of a hook's call.
pub(crate) fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_goes_in_parts_that_fit() {
        let pods: Vec<_> = (0..50)
            .map(|n| api::PodSandbox {
                id: format!("{n:064}"),
                ..Default::default()
            })
            .collect();
        let containers: Vec<_> = (0..100)
            .map(|n| api::Container {
                id: format!("{n:064}"),
                ..Default::default()
            })
            .collect();
        let cut = parts(pods.clone(), containers.clone(), 1000).unwrap();
        assert!(cut.len() > 10);
        assert!(cut.iter().all(|part| part.encoded_len() <= 1000));
        let more: Vec<bool> = cut.iter().map(|part| part.more).collect();
        assert!(!more[cut.len() - 1] && more[..cut.len() - 1].iter().all(|more| *more));
        let all_pods: Vec<_> = cut.iter().flat_map(|part| part.pods.clone()).collect();
        let all: Vec<_> = cut
            .iter()
            .flat_map(|part| part.containers.clone())
            .collect();
        assert_eq!((all_pods, all), (pods, containers));
        let whole = parts(Vec::new(), Vec::new(), 1000).unwrap();
        assert_eq!(whole, [api::SynchronizeRequest::default()]);
        let huge = api::Container {
            id: "x".repeat(2000),
            ..Default::default()
        };
        assert!(matches!(
            parts(Vec::new(), vec![huge], 1000),
            Err(Refusal::TooLarge(_))
        ));
    }
}
