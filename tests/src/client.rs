//! A CRI client that reads well in tests: one short method for each call that most tests need.
//!
//! The generated clients are public for the calls that have no method here. Errors are tonic's statuses, untouched,
//! because their codes and messages are what many tests are about.

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::config::{image_spec, words};
use crate::cri::image_service_client::ImageServiceClient;
use crate::cri::runtime_service_client::RuntimeServiceClient;
use crate::cri::{self, ContainerState};
use crate::settings;
use crate::wait::{DEADLINE, wait_for};

type Answer<T> = std::result::Result<T, Status>;

/// One connection to a CRI endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    /// For calls that no client makes.
    pub channel: Channel,
}

/// What gRPC allows a kubelet to receive.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Where connections live: apart from the tests' own runtimes, so that a test that blocks still lets go of a
/// connection when the daemon asks for it.
static BACKGROUND: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
});

impl Client {
    /// Connects to the unix socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self> {
        let socket = path.to_path_buf();
        let connector = tower::service_fn(move |_uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let connection = async move {
            Endpoint::from_static("http://cri")
                .connect_with_connector(connector)
                .await
        };
        let channel = BACKGROUND
            .as_ref()
            .context("start the runtime of connections")?
            .spawn(connection)
            .await?;
        let channel = channel.with_context(|| format!("connect to {}", path.display()))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT + (16 << 20)),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            channel,
        })
    }

    pub async fn version(&self) -> Answer<cri::VersionResponse> {
        Ok(self
            .runtime
            .clone()
            .version(cri::VersionRequest::default())
            .await?
            .into_inner())
    }

    pub async fn status(&self) -> Answer<cri::StatusResponse> {
        Ok(self
            .runtime
            .clone()
            .status(cri::StatusRequest { verbose: true })
            .await?
            .into_inner())
    }

    /// Runs a pod with the default handler and returns its id.
    pub async fn run_pod(&self, config: &cri::PodSandboxConfig) -> Answer<String> {
        self.run_pod_with(config, "").await
    }

    pub async fn run_pod_with(
        &self,
        config: &cri::PodSandboxConfig,
        handler: &str,
    ) -> Answer<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        Ok(self
            .runtime
            .clone()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .stop_pod_sandbox(request)
            .await
            .map(|_empty| ())
    }

    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .remove_pod_sandbox(request)
            .await
            .map(|_empty| ())
    }

    /// Stops and removes a pod with everything in it.
    pub async fn delete_pod(&self, id: &str) -> Answer<()> {
        self.stop_pod(id).await?;
        self.remove_pod(id).await
    }

    pub async fn pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(request)
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::internal("PodSandboxStatus answered without a status"))
    }

    pub async fn pods(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Answer<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest { filter };
        Ok(self
            .runtime
            .clone()
            .list_pod_sandbox(request)
            .await?
            .into_inner()
            .items)
    }

    /// Creates a container in `pod` and returns its id.
    pub async fn create(
        &self,
        pod: &str,
        sandbox: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        Ok(self
            .runtime
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .start_container(request)
            .await
            .map(|_empty| ())
    }

    /// Creates and starts a container and returns its id.
    pub async fn launch(
        &self,
        pod: &str,
        sandbox: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> Answer<String> {
        let id = self.create(pod, sandbox, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// Stops a container; `grace` is in seconds.
    pub async fn stop(&self, id: &str, grace: i64) -> Answer<()> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace,
        };
        self.runtime
            .clone()
            .stop_container(request)
            .await
            .map(|_empty| ())
    }

    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .remove_container(request)
            .await
            .map(|_empty| ())
    }

    pub async fn container_status(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(request)
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::internal("ContainerStatus answered without a status"))
    }

    pub async fn containers(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Answer<Vec<cri::Container>> {
        let request = cri::ListContainersRequest { filter };
        Ok(self
            .runtime
            .clone()
            .list_containers(request)
            .await?
            .into_inner()
            .items)
    }

    /// Runs a command in a container; `timeout` is in seconds, 0 for none.
    pub async fn exec(
        &self,
        id: &str,
        cmd: &[&str],
        timeout: i64,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: words(cmd),
            timeout,
        };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// The standard output of a shell script in a container, without the last line end; a failing script is an error.
    pub async fn shell(&self, id: &str, script: &str) -> Result<String> {
        let answer = self.exec(id, &["/bin/sh", "-c", script], 20).await?;
        let (out, err) = (
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr),
        );
        anyhow::ensure!(
            answer.exit_code == 0,
            "{script:?} ended with {}: {out}{err}",
            answer.exit_code
        );
        Ok(out.trim_end_matches('\n').to_owned())
    }

    /// A pod's status with what the runtime adds to it.
    pub async fn verbose_pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatusResponse> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?;
        Ok(answer.into_inner())
    }

    /// A container's status with what the runtime adds to it.
    pub async fn verbose_container_status(&self, id: &str) -> Answer<cri::ContainerStatusResponse> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.runtime.clone().container_status(request).await?;
        Ok(answer.into_inner())
    }

    /// Has the log opened anew after a rotation.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().reopen_container_log(request).await?;
        Ok(())
    }

    /// Waits until the container has exited and returns its status.
    pub async fn wait_exit(&self, id: &str) -> Result<cri::ContainerStatus> {
        wait_for(&format!("exit of container {id}"), DEADLINE, async || {
            let status = self.container_status(id).await.ok()?;
            (status.state() == ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    /// Runs one container to its end: status and what it wrote to standard output are the answer.
    pub async fn run_to_end(
        &self,
        pod: &str,
        sandbox: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> Result<(cri::ContainerStatus, Vec<String>)> {
        let id = self.launch(pod, sandbox, config).await?;
        let status = self.wait_exit(&id).await?;
        let log = crate::logs::read(Path::new(&status.log_path))?;
        self.remove(&id).await?;
        Ok((status, crate::logs::text(&log, "stdout")))
    }

    pub async fn pull(&self, reference: &str, auth: Option<cri::AuthConfig>) -> Answer<String> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(reference)),
            auth,
            sandbox_config: None,
        };
        Ok(self
            .images
            .clone()
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    pub async fn image(&self, reference: &str) -> Answer<Option<cri::Image>> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(reference)),
            verbose: false,
        };
        Ok(self
            .images
            .clone()
            .image_status(request)
            .await?
            .into_inner()
            .image)
    }

    pub async fn list_images(&self) -> Answer<Vec<cri::Image>> {
        Ok(self
            .images
            .clone()
            .list_images(cri::ListImagesRequest::default())
            .await?
            .into_inner()
            .images)
    }

    pub async fn remove_image(&self, reference: &str) -> Answer<()> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(reference)),
        };
        self.images
            .clone()
            .remove_image(request)
            .await
            .map(|_empty| ())
    }
}

/// The codes that a refusal may have: Husk's own, and on another runtime also those of `others`.
pub fn codes(husk: Code, others: &[Code]) -> Vec<Code> {
    let others = others.iter().filter(|_| settings::endpoint().is_some());
    std::iter::once(husk).chain(others.copied()).collect()
}

/// Fails unless `answer` is an error with one of `codes` whose message contains every one of `parts`.
///
/// The CRI leaves words open, and codes other than NOT_FOUND: another runtime may answer a refusal with UNKNOWN.
pub fn expect_error<T: std::fmt::Debug>(
    answer: Answer<T>,
    codes: &[Code],
    parts: &[&str],
) -> Result<()> {
    let status = match answer {
        Ok(value) => anyhow::bail!("expected {codes:?}, but the call succeeded with {value:?}"),
        Err(status) => status,
    };
    let refusals = [
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::Internal,
        Code::AlreadyExists,
    ];
    let is_refusal = codes.iter().any(|code| refusals.contains(code));
    if settings::endpoint().is_some() && is_refusal && status.code() == Code::Unknown {
        return Ok(());
    }
    anyhow::ensure!(
        codes.contains(&status.code()),
        "expected {codes:?}, got {:?}: {}",
        status.code(),
        status.message()
    );
    let parts = match settings::endpoint() {
        Some(_) => &[][..],
        None => parts,
    };
    for part in parts {
        let message = status.message();
        anyhow::ensure!(
            message.contains(part),
            "{:?} lacks {part:?}: {message}",
            status.code()
        );
    }
    Ok(())
}
