//! The daemon: everything put together, and taken apart again.
//!
//! Order at start: facts of the host, state, images, network, monitors, recovery, and only then the
//! socket: whoever reaches it finds every pod. At the end the pods run on.

mod build;
mod deadline;
mod defaults;
mod socket;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use husk_cri_api::v1::image_service_server::ImageServiceServer;
use husk_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::admin::Admin;
use crate::config::{Config, MonitorUpgrade};
use crate::cri::{ImageServer, RuntimeServer};
use crate::pod::Pods;
use crate::{cgroup, fault, host, monitors, network, recover, spec, store};

/// Calls that are still open when the daemon is told to stop get this long.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Why the daemon could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A directory of ours cannot be made.
    #[error("making {}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host is not as expected.
    #[error("reading the facts of the host")]
    Host(#[from] host::HostError),
    /// The cgroup hierarchies cannot be listed.
    #[error("finding the cgroup hierarchies")]
    Cgroups(#[source] io::Error),
    /// The configured defaults of containers make no sense.
    #[error("defaults of containers in the configuration")]
    Defaults(#[source] spec::SpecError),
    /// The classes of block I/O cannot be used.
    #[error("classes of block I/O, nri.blockio_config_file")]
    BlockIo(#[from] host::BlockIoError),
    /// No OCI runtime.
    #[error("choosing the OCI runtime")]
    Handler(#[from] monitors::HandlerError),
    /// The state cannot be opened.
    #[error("opening the state")]
    Store(#[from] store::StoreError),
    /// The image store cannot be opened.
    #[error("opening the images")]
    Images(#[from] husk_image::OpenError),
    /// The network cannot be watched.
    #[error("opening the pod network")]
    Network(#[from] network::OpenError),
    /// The streaming server cannot be started.
    #[error("starting the streaming server")]
    Streaming(#[from] husk_streaming::StartError),
    /// The streaming server's certificate cannot be used.
    #[error("reading the streaming server's certificate")]
    Tls(#[from] husk_streaming::TlsError),
    /// The streaming server's certificate or key cannot be read.
    #[error("reading {}", path.display())]
    TlsFile {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Plugins cannot be served.
    #[error("serving plugins")]
    Plugins(#[from] husk_nri::ServeError),
    /// Monitors cannot be started.
    #[error("preparing to start monitors")]
    Monitors(#[from] monitors::OpenError),
    /// The socket cannot be had.
    #[error("listening on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("catching signals")]
    Signals(#[source] io::Error),
    /// The server broke off.
    #[error("serving the CRI")]
    Server(#[from] tonic::transport::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// [`ServeError`].
pub async fn run(config: Config) -> Result<(), ServeError> {
    let path = config.socket.clone();
    fault::work_below(&config.run);
    let (fd_store, stored) = monitors::FdStore::open();
    become_subreaper();
    // The state is opened before all else: it is what two controllers of one node would fight for.
    let (services, loaded) = build::services(config, fd_store).await?;
    let pods = Pods::new(services);
    recover::recover(&pods, loaded, stored).await;
    let orphans = tokio::spawn(monitors::reap_orphans());
    // Before the first call: those that are launched see every container from its creation on.
    let nri = pods.services().nri.clone();
    nri.serve(Arc::new(pods.clone())).await?;
    let listener = socket::listen(&path).map_err(|source| ServeError::Listen {
        path: path.clone(),
        source,
    })?;
    tracing::info!(socket = %path.display(), "serving the CRI");
    notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    let upgrade = tokio::spawn(upgrade_monitors(pods.clone()));
    let served = serve(&pods, UnixListenerStream::new(listener)).await;
    watchdog.abort();
    upgrade.abort();
    nri.stop().await;
    orphans.abort();
    socket::remove(&path);
    tracing::info!("stopped; pods run on");
    served
}

/// Gives monitors that an earlier version of the package has started the program of this one, where
/// that is configured. Callers do not wait for it: a pod stands still for the moment of its own.
async fn upgrade_monitors(pods: Pods) {
    if pods.services().config.monitor.upgrade == MonitorUpgrade::OnStart {
        let monitors = pods.upgrade_old_monitors().await;
        tracing::info!(monitors, "had another program");
    }
}

/// Makes the process the one that the children of a dead monitor are given to.
fn become_subreaper() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "exits of containers whose monitor died may be lost");
    }
}

async fn serve(pods: &Pods, connections: UnixListenerStream) -> Result<(), ServeError> {
    let limits = pods.services().config.limits.clone();
    let message = usize::try_from(limits.grpc_message.get()).unwrap_or(usize::MAX);
    // An answer of ExecSync may hold two outputs, each at its own limit.
    let output = usize::try_from(limits.exec_sync_output.get()).unwrap_or(usize::MAX);
    let answer = output.saturating_mul(2).saturating_add(message);
    let runtime = RuntimeServiceServer::new(RuntimeServer::new(pods.clone()))
        .max_decoding_message_size(message)
        .max_encoding_message_size(answer);
    let images = ImageServiceServer::new(ImageServer::new(pods.clone()))
        .max_decoding_message_size(message)
        .max_encoding_message_size(message);
    let monitors = Arc::new(pods.clone());
    let admin = Admin::server(pods.services().images.clone(), monitors);
    let (told, stop) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        .layer(tower::layer::layer_fn(deadline::Deadline))
        .max_concurrent_streams(limits.grpc_streams)
        .add_service(runtime)
        .add_service(images)
        .add_service(admin)
        .serve_with_incoming_shutdown(connections, async {
            let _ = stop.await;
        });
    tokio::pin!(server);
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    tokio::select! {
        served = &mut server => return Ok(served?),
        name = signals.next() => tracing::info!(signal = name, "told to stop"),
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    let _ = told.send(());
    pods.services().events.close();
    // Connections that stay open, such as the kubelet's, are cut off after a while.
    match tokio::time::timeout(LAST_CALLS, server).await {
        Ok(served) => Ok(served?),
        Err(_) => Ok(()),
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells systemd; without it there is nobody to tell.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Feeds systemd's watchdog at half its interval, where it is on (sd_watchdog_enabled(3)).
async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Who makes the cgroups of this host.
fn cgroup_driver(config: &Config) -> cgroup::Driver {
    use crate::config::CgroupDriver;
    let systemd = match config.cgroup.driver {
        CgroupDriver::Systemd => true,
        CgroupDriver::Cgroupfs => false,
        // sd_booted(3).
        CgroupDriver::Auto => std::path::Path::new("/run/systemd/system").is_dir(),
    };
    if systemd {
        cgroup::Driver::Systemd(cgroup::Systemd::default())
    } else {
        cgroup::Driver::Cgroupfs
    }
}
