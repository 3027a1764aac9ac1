//! RuntimeService.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use husk_cri_api::v1;
use husk_cri_api::v1::runtime_service_server::RuntimeService;
use pod_monitor_client::Monitor;
use tonic::{Request, Response, Status, async_trait};

use super::stream::{Messages, pieces};
use super::{
    conditions, filters, later, measure, metrics, serve, serve_list, status, verbose, views,
};
use crate::cgroup;
use crate::container;
use crate::pod::{PodLimits, Pods};
use crate::sessions;
use crate::view::Found;

/// The version of the CRI, and of the kubelet's old runtime API that some clients still read.
const API_VERSION: &str = "v1";
const KUBE_API_VERSION: &str = "0.1.0";

/// Serves the runtime's half of the CRI.
#[derive(Debug, Clone)]
pub struct RuntimeServer {
    pods: Pods,
}

impl RuntimeServer {
    /// A server for these pods.
    pub fn new(pods: Pods) -> Self {
        Self { pods }
    }

    fn pods_of(&self, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let pods = self.pods.list();
        let wanted = pods.iter().filter(|pod| filters::pod(filter, pod));
        wanted.map(|pod| views::pod(pod)).collect()
    }

    fn containers_of(&self, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
        let pods = self.pods.list();
        let containers = pods.iter().flat_map(|pod| &pod.containers);
        containers
            .filter(|container| filters::container(filter, container))
            .map(|container| views::container(container))
            .collect()
    }

    fn found(&self, id: &str) -> Result<Found, Status> {
        self.pods.container(id).map_err(|error| status::of(&error))
    }

    /// The container, and its pod's monitor to ask about it, while it runs.
    async fn running(&self, operation: &'static str, id: &str) -> Result<(Found, Monitor), Status> {
        let running = self.pods.monitored(operation, id).await;
        running.map_err(|error| status::of(&error))
    }
}

/// A grace period; the kubelet means "at once" by what is not positive.
fn seconds(timeout: i64) -> Duration {
    Duration::from_secs(u64::try_from(timeout).unwrap_or_default())
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, Status> {
    field.ok_or_else(|| status::missing(name))
}

#[async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        serve("Version", request, async |_, _| {
            Ok(v1::VersionResponse {
                version: KUBE_API_VERSION.into(),
                runtime_name: verbose::NAME.into(),
                runtime_version: env!("CARGO_PKG_VERSION").into(),
                runtime_api_version: API_VERSION.into(),
            })
        })
        .await
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        serve("Status", request, async |asked, _| {
            Ok(v1::StatusResponse {
                status: Some(conditions::all(self.pods.services())),
                info: verbose::info(asked.verbose, || verbose::status(&self.pods)),
                runtime_handlers: {
                    let services = self.pods.services();
                    conditions::handlers(&services.monitors.handlers, &services.host)
                },
                features: Some(v1::RuntimeFeatures {
                    supplemental_groups_policy: true,
                    user_namespaces_host_network: false,
                    mount_options: true,
                }),
            })
        })
        .await
    }

    async fn runtime_config(
        &self,
        request: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        serve("RuntimeConfig", request, async |_, _| {
            let driver = match self.pods.services().cgroups.driver() {
                cgroup::Driver::Systemd(_) => v1::CgroupDriver::Systemd,
                cgroup::Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            };
            Ok(v1::RuntimeConfigResponse {
                linux: Some(v1::LinuxRuntimeConfiguration {
                    cgroup_driver: driver.into(),
                }),
            })
        })
        .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        serve("UpdateRuntimeConfig", request, async |asked, _| {
            // CNI plugins get their addresses from their own configuration, so the pod CIDR has no
            // use here; the kubelet wants to hear that it arrived.
            let network = asked.runtime_config.and_then(|c| c.network_config);
            tracing::info!(pod_cidr = ?network.map(|n| n.pod_cidr), "pod CIDR noted");
            Ok(v1::UpdateRuntimeConfigResponse {})
        })
        .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        serve("RunPodSandbox", request, async |asked, trace| {
            let config = required(asked.config, "config")?;
            let made = self.pods.run(config, asked.runtime_handler, trace).await;
            let pod_sandbox_id = made.map_err(status::of_shared)?;
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        serve("StopPodSandbox", request, async |asked, trace| {
            let stopped = self.pods.stop_pod(&asked.pod_sandbox_id, trace).await;
            stopped.map_err(status::of_shared)?;
            Ok(v1::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        serve("RemovePodSandbox", request, async |asked, trace| {
            let removed = self.pods.remove_pod(&asked.pod_sandbox_id, trace).await;
            removed.map_err(status::of_shared)?;
            Ok(v1::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        serve("PodSandboxStatus", request, async |asked, _| {
            let pod = self.pods.pod(&asked.pod_sandbox_id);
            let pod = pod.map_err(|error| status::of(&error))?;
            let containers = pod.containers.iter();
            Ok(v1::PodSandboxStatusResponse {
                status: Some(views::pod_status(&pod)),
                info: verbose::info(asked.verbose, || verbose::pod(&pod, &self.pods)),
                containers_statuses: containers.map(|c| views::container_status(c)).collect(),
                // With a time here, kubelet v1.37 with EventedPLEG takes the statuses above and forgets
                // which of them are of the pod's present sandbox (`GetPodStatus` in its
                // kuberuntime_manager.go): init containers then run again and again. Without one it asks
                // for the containers, as it does without that gate.
                timestamp: 0,
            })
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        serve_list("ListPodSandbox", &self.pods, request, async |asked| {
            let (pods, filter) = (self.pods.list(), asked.filter.as_ref());
            let wanted = pods.iter().filter(|pod| filters::pod(filter, pod));
            Ok(wanted.map(|pod| views::listed(pod).pod.clone()).collect())
        })
        .await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Messages<v1::StreamPodSandboxesResponse>>, Status> {
        serve("StreamPodSandboxes", request, async |asked, _| {
            let pods = self.pods_of(asked.filter.as_ref());
            Ok(pieces(pods, |pod_sandboxes| {
                v1::StreamPodSandboxesResponse { pod_sandboxes }
            }))
        })
        .await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        serve("CreateContainer", request, async |asked, trace| {
            let config = required(asked.config, "config")?;
            let pod = &asked.pod_sandbox_id;
            let made = self.pods.create_container(pod, config, trace).await;
            let container_id = made.map_err(status::of_shared)?;
            Ok(v1::CreateContainerResponse { container_id })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        serve("StartContainer", request, async |asked, trace| {
            let started = self.pods.start_container(&asked.container_id, trace).await;
            started.map_err(status::of_shared)?;
            Ok(v1::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        serve("StopContainer", request, async |asked, trace| {
            let (id, grace) = (&asked.container_id, seconds(asked.timeout));
            let stopped = self.pods.stop_container(id, grace, trace).await;
            stopped.map_err(status::of_shared)?;
            Ok(v1::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        serve("RemoveContainer", request, async |asked, trace| {
            let removed = self.pods.remove_container(&asked.container_id, trace).await;
            removed.map_err(status::of_shared)?;
            Ok(v1::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        serve_list("ListContainers", &self.pods, request, async |asked| {
            let (pods, filter) = (self.pods.list(), asked.filter.as_ref());
            let entries = pods
                .iter()
                .flat_map(|pod| pod.containers.iter().zip(&views::listed(pod).containers));
            let wanted = entries.filter(|(container, _)| filters::container(filter, container));
            Ok(wanted.map(|(_, entry)| entry.clone()).collect())
        })
        .await
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Messages<v1::StreamContainersResponse>>, Status> {
        serve("StreamContainers", request, async |asked, _| {
            let containers = self.containers_of(asked.filter.as_ref());
            Ok(pieces(containers, |containers| {
                v1::StreamContainersResponse { containers }
            }))
        })
        .await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        serve("ContainerStatus", request, async |asked, _| {
            let found = self.found(&asked.container_id)?;
            Ok(v1::ContainerStatusResponse {
                status: Some(views::container_status(&found.container)),
                info: verbose::info(asked.verbose, || verbose::container(&found, &self.pods)),
            })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        serve("UpdateContainerResources", request, async |asked, trace| {
            let resources = required(asked.linux, "linux")?;
            let id = &asked.container_id;
            let updated = self.pods.update_container(id, resources, trace).await;
            updated.map_err(status::of_shared)?;
            Ok(v1::UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        serve("ReopenContainerLog", request, async |asked, trace| {
            let (found, monitor) = self
                .running("reopen the log of", &asked.container_id)
                .await?;
            let (services, id) = (self.pods.services(), &found.container.id);
            let reopened = container::reopen_log(services, &monitor, id, &trace).await;
            reopened.map_err(|error| status::of(&error))?;
            Ok(v1::ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        serve("ExecSync", request, async |asked, trace| {
            let (found, monitor) = self.running("exec in", &asked.container_id).await?;
            let command = container::Command {
                arguments: &asked.cmd,
                timeout: asked.timeout,
            };
            let services = self.pods.services();
            let output = container::exec_sync(services, &monitor, &found, &command, &trace).await;
            let output = output.map_err(|error| status::of(&error))?;
            Ok(v1::ExecSyncResponse {
                stdout: output.stdout,
                stderr: output.stderr,
                exit_code: output.exit_code,
            })
        })
        .await
    }

    async fn exec(
        &self,
        request: Request<v1::ExecRequest>,
    ) -> Result<Response<v1::ExecResponse>, Status> {
        serve("Exec", request, async |asked, trace| {
            let (found, _) = self.running("exec in", &asked.container_id).await?;
            let url = sessions::offer_exec(&self.pods, &found, &asked, trace);
            let url = url.map_err(|error| status::of_offer(&error))?;
            Ok(v1::ExecResponse { url })
        })
        .await
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        serve("Attach", request, async |asked, trace| {
            let (found, _) = self.running("attach to", &asked.container_id).await?;
            let url = sessions::offer_attach(&self.pods, &found, &asked, trace);
            let url = url.map_err(|error| status::of_offer(&error))?;
            Ok(v1::AttachResponse { url })
        })
        .await
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        serve("PortForward", request, async |asked, _| {
            let pod = self.pods.ready(&asked.pod_sandbox_id);
            let pod = pod.map_err(|error| status::of(&error))?;
            let services = self.pods.services();
            let url = sessions::offer_port_forward(services, &pod, &asked.port);
            let url = url.map_err(|error| status::of_offer(&error))?;
            Ok(v1::PortForwardResponse { url })
        })
        .await
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        serve("ContainerStats", request, async |asked, _| {
            let found = self.found(&asked.container_id)?;
            let stats = measure::container(&self.pods, found).await?;
            Ok(v1::ContainerStatsResponse { stats })
        })
        .await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        serve_list("ListContainerStats", &self.pods, request, async |asked| {
            let stats = measure::containers(&self.pods, asked.filter.as_ref()).await?;
            Ok(v1::ListContainerStatsResponse { stats })
        })
        .await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        serve("PodSandboxStats", request, async |asked, _| {
            let pod = self.pods.pod(&asked.pod_sandbox_id);
            let pod = pod.map_err(|error| status::of(&error))?;
            let stats = measure::pod(&self.pods, pod).await?;
            Ok(v1::PodSandboxStatsResponse { stats })
        })
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        serve_list("ListPodSandboxStats", &self.pods, request, async |asked| {
            let stats = measure::all(&self.pods, asked.filter.as_ref()).await?;
            Ok(v1::ListPodSandboxStatsResponse { stats })
        })
        .await
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        serve("CheckpointContainer", request, async |asked, trace| {
            let (found, monitor) = self.running("checkpoint", &asked.container_id).await?;
            let checkpoint = container::Checkpoint {
                location: Path::new(&asked.location),
                limit: (asked.timeout > 0).then(|| seconds(asked.timeout)),
            };
            let services = self.pods.services();
            let made = container::checkpoint(services, monitor, found, checkpoint, &trace).await;
            made.map_err(|error| status::of(&error))?;
            Ok(v1::CheckpointContainerResponse {})
        })
        .await
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<v1::CheckpointPodRequest>,
    ) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        Err(later("CheckpointPod"))
    }

    async fn restore_pod(
        &self,
        _request: Request<v1::RestorePodRequest>,
    ) -> Result<Response<v1::RestorePodResponse>, Status> {
        Err(later("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        serve("ListMetricDescriptors", request, async |_, _| {
            Ok(v1::ListMetricDescriptorsResponse {
                descriptors: metrics::descriptors(),
            })
        })
        .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        serve_list("ListPodSandboxMetrics", &self.pods, request, async |_| {
            let metrics = measure::pod_metrics(&self.pods).await?;
            Ok(metrics.into_iter().collect())
        })
        .await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        serve("UpdatePodSandboxResources", request, async |asked, _| {
            let (resources, overhead) = (asked.resources, asked.overhead);
            let limits = PodLimits {
                resources,
                overhead,
            };
            let updated = self.pods.update_pod(&asked.pod_sandbox_id, limits).await;
            updated.map_err(status::of_shared)?;
            Ok(v1::UpdatePodSandboxResourcesResponse {})
        })
        .await
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Messages<v1::StreamContainerStatsResponse>>, Status> {
        serve("StreamContainerStats", request, async |asked, _| {
            let stats = measure::containers(&self.pods, asked.filter.as_ref()).await?;
            Ok(pieces(stats, |container_stats| {
                v1::StreamContainerStatsResponse { container_stats }
            }))
        })
        .await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Messages<v1::StreamPodSandboxStatsResponse>>, Status> {
        serve("StreamPodSandboxStats", request, async |asked, _| {
            let stats = measure::all(&self.pods, asked.filter.as_ref()).await?;
            Ok(pieces(stats, |pod_sandbox_stats| {
                v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
            }))
        })
        .await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Messages<v1::StreamPodSandboxMetricsResponse>>, Status> {
        serve("StreamPodSandboxMetrics", request, async |_, _| {
            let metrics = measure::pod_metrics(&self.pods).await?;
            Ok(pieces(metrics, |piece| piece.into_iter().collect()))
        })
        .await
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Messages<v1::ContainerEventResponse>>, Status> {
        serve("GetContainerEvents", request, async |_, _| {
            let events = self.pods.services().events.subscribe();
            let messages = events.map(|event| match event {
                Ok(event) => Ok(views::event(&event)),
                Err(ended) => Err(status::of_ended(ended)),
            });
            Ok(Box::pin(messages) as Messages<_>)
        })
        .await
    }
}
