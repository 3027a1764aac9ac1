//! A daemon made of canned answers, on a socket of its own.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use clap::Parser;
use futures::Stream;
use husk::admin::v1 as admin;
use husk::cli::{self, Cli, Extent, Failure, Stage};
use husk_cri_api::v1 as cri;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The one pod.
pub(crate) const POD: &str = "0123456789abcdef0123456789abcdef";

/// What was asked of the daemon that a test wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Canned {
    pub(crate) removed: Arc<Mutex<Vec<String>>>,
    pub(crate) pulled: Arc<Mutex<Vec<admin::PullImageRequest>>>,
    pub(crate) imported: Arc<Mutex<Vec<admin::ImportImageRequest>>>,
}

#[tonic::async_trait]
impl cri::runtime_service_server::RuntimeService for Canned {
    async fn list_pod_sandbox(
        &self,
        _: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let metadata = cri::PodSandboxMetadata {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            ..Default::default()
        };
        let pod = cri::PodSandbox {
            id: POD.to_owned(),
            metadata: Some(metadata),
            ..Default::default()
        };
        Ok(Response::new(vec![pod].into()))
    }

    async fn list_containers(
        &self,
        _: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let container = cri::Container {
            id: "fedcba9876543210".to_owned(),
            pod_sandbox_id: POD.to_owned(),
            metadata: Some(cri::ContainerMetadata {
                name: "nginx".to_owned(),
                attempt: 0,
            }),
            state: cri::ContainerState::ContainerExited.into(),
            ..Default::default()
        };
        Ok(Response::new(vec![container].into()))
    }
}

#[tonic::async_trait]
impl cri::image_service_server::ImageService for Canned {
    async fn list_images(
        &self,
        _: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let image = cri::Image {
            id: "sha256:aaaaaaaaaaaaaaaa".to_owned(),
            repo_tags: vec!["docker.io/library/busybox:1".to_owned()],
            size: 1 << 20,
            ..Default::default()
        };
        let images = vec![image];
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let spec = request.into_inner().image.unwrap_or_default();
        let known = spec.image.starts_with("known");
        Ok(Response::new(cri::ImageStatusResponse {
            image: known.then(cri::Image::default),
            ..Default::default()
        }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let spec = request.into_inner().image.unwrap_or_default();
        self.removed.lock().expect("not poisoned").push(spec.image);
        Ok(Response::new(cri::RemoveImageResponse {}))
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<admin::Progress, Status>> + Send>>;

fn layer(phase: admin::Phase, bytes: u64) -> Result<admin::Progress, Status> {
    let layer = admin::Layer {
        digest: "sha256:cccccccccccccccc".to_owned(),
        phase: phase.into(),
        bytes,
        total: 1 << 20,
    };
    Ok(admin::Progress {
        event: Some(admin::progress::Event::Layer(layer)),
    })
}

fn stored() -> Result<admin::Progress, Status> {
    let image = admin::StoredImage {
        id: "sha256:aaaaaaaaaaaaaaaa".to_owned(),
        names: vec!["docker.io/library/busybox:1".to_owned()],
        size: 1 << 20,
    };
    Ok(admin::Progress {
        event: Some(admin::progress::Event::Image(image)),
    })
}

#[tonic::async_trait]
impl admin::admin_server::Admin for Canned {
    type PullImageStream = Events;
    type ImportImageStream = Events;

    async fn pull_image(
        &self,
        request: Request<admin::PullImageRequest>,
    ) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let last = match request.reference.as_str() {
            "private" => Err(Status::unauthenticated(
                "the registry wants another password",
            )),
            _ => stored(),
        };
        self.pulled.lock().expect("not poisoned").push(request);
        let events = vec![
            layer(admin::Phase::Fetching, 0),
            layer(admin::Phase::Fetching, 1 << 19),
            layer(admin::Phase::Done, 0),
            last,
        ];
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn import_image(
        &self,
        request: Request<admin::ImportImageRequest>,
    ) -> Result<Response<Events>, Status> {
        self.imported
            .lock()
            .expect("not poisoned")
            .push(request.into_inner());
        Ok(Response::new(Box::pin(tokio_stream::iter(vec![stored()]))))
    }

    async fn monitors(
        &self,
        _: Request<admin::MonitorsRequest>,
    ) -> Result<Response<admin::MonitorsResponse>, Status> {
        let monitor = admin::Monitor {
            pod_id: POD.to_owned(),
            pid: std::process::id(),
            ..Default::default()
        };
        let monitors = vec![monitor];
        Ok(Response::new(admin::MonitorsResponse { monitors }))
    }

    async fn upgrade_monitors(
        &self,
        _: Request<admin::UpgradeMonitorsRequest>,
    ) -> Result<Response<admin::UpgradeMonitorsResponse>, Status> {
        let upgrades = Vec::new();
        Ok(Response::new(admin::UpgradeMonitorsResponse { upgrades }))
    }
}

/// A served socket, and a configuration that is valid on any machine.
#[derive(Debug)]
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    pub(crate) canned: Canned,
    /// Serves until it is dropped.
    _threads: tokio::runtime::Runtime,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let canned = Canned::default();
        let socket = directory.path().join("husk.sock");
        let listener = threads.block_on(async { UnixListener::bind(socket) });
        let server = tonic::transport::Server::builder()
            .add_service(cri::runtime_service_server::RuntimeServiceServer::new(
                canned.clone(),
            ))
            .add_service(cri::image_service_server::ImageServiceServer::new(
                canned.clone(),
            ))
            .add_service(admin::admin_server::AdminServer::new(canned.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener.expect("bound")));
        threads.spawn(server);
        std::fs::write(directory.path().join("husk.toml"), "").expect("written");
        Self {
            directory,
            canned,
            _threads: threads,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The output of `husk LINE`, as to a file.
    pub(crate) fn husk(&self, line: &str) -> (Result<(), Failure>, String) {
        self.husk_on(line, None)
    }

    pub(crate) fn husk_on(
        &self,
        line: &str,
        extent: Option<Extent>,
    ) -> (Result<(), Failure>, String) {
        run(
            line,
            &self.path("husk.toml"),
            &self.path("husk.sock"),
            extent,
        )
    }
}

/// The outcome of `husk LINE` and its output.
pub(crate) fn run(
    line: &str,
    config: &Path,
    socket: &Path,
    extent: Option<Extent>,
) -> (Result<(), Failure>, String) {
    let config = format!("--config={}", config.display());
    let socket = format!("--socket={}", socket.display());
    let words = ["husk", &config, &socket]
        .into_iter()
        .chain(line.split(' '));
    let cli = Cli::try_parse_from(words).expect("a command line");
    let mut out = Vec::new();
    let stage = Stage {
        out: &mut out,
        extent,
    };
    let done = cli::run(cli, stage);
    (done, String::from_utf8(out).expect("UTF-8"))
}
