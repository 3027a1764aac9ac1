//! The services, from the configuration and the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_image::Images;

use super::{ServeError, cgroup_driver, defaults};
use crate::apparmor;
use crate::cgroup::{self, Cgroups};
use crate::config::{Config, MonitorCgroup};
use crate::container;
use crate::directories::Directories;
use crate::events;
use crate::host;
use crate::monitors::{FdStore, Handlers, Monitors};
use crate::network::{self, Network};
use crate::services::Services;
use crate::spec::HostFacts;
use crate::stats::{self, Stats};
use crate::store::{Loaded, Store, StoreError};

/// Where the kernel's cgroups are mounted.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// Where this program is, when the kernel does not say.
const PACKAGED: &str = "/usr/bin/husk";

/// How long the state's lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens the state, once it is free: a child that a killed daemon had forked, and that had not yet
/// executed its program, holds the file's lock for a moment longer than the daemon itself.
async fn open_store(path: &Path) -> Result<(Store, Loaded), StoreError> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match Store::open(path) {
            Err(StoreError::InUse(_)) if Instant::now() < end => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Opens everything that a controller works with.
pub(super) async fn services(
    config: Config,
    fd_store: FdStore,
) -> Result<(Arc<Services>, Loaded), ServeError> {
    let directories = Directories {
        root: config.root.clone(),
        run: config.run.clone(),
    };
    for directory in [
        directories.root.clone(),
        directories.run.clone(),
        directories.pods(),
    ] {
        private(&directory)?;
    }
    // Root file systems of user namespaces are below it, so their root must get through. What
    // nobody else may reach is closed by itself.
    closed(&directories.run, 0o711)?;
    let (store, loaded) = open_store(&directories.root.join("state.redb")).await?;
    // A draft that a killed daemon left is of no use to anybody.
    let _ = fs::remove_dir_all(container::drafts(&directories));
    let host = facts(&config).await?;
    let handlers = Handlers::new(&config, &host)?;
    let husk = std::env::current_exe().unwrap_or_else(|_| PACKAGED.into());
    let mut monitors = Monitors::open(&config, handlers, &husk)?;
    monitors.handlers.ask(&directories.run).await;
    let cgroups = Cgroups::new(
        Path::new(CGROUP_MOUNT),
        &host.cgroups,
        cgroup_driver(&config),
        monitor_cgroups(&config),
    )
    .map_err(ServeError::Cgroups)?;
    let network = Network::open(network::Config {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        cache_dir: directories.root.join("network"),
        timeout: config.network.timeout,
    })?;
    let images = Images::open(image_config(&config)).await?;
    let streaming = streaming(&config).await?;
    let nri = nri(&config);
    let stats = Stats::new(stats::Sources {
        cgroups: cgroups.clone(),
        hugepage_sizes: host.cgroups.hugepage_sizes.clone(),
        directories: directories.clone(),
        images: images.clone(),
    });
    let services = Services {
        config,
        directories,
        host,
        store,
        images,
        network,
        monitors,
        fd_store,
        cgroups,
        events: events::Hub::default(),
        streaming,
        nri,
        stats,
    };
    Ok((Arc::new(services), loaded))
}

/// What this host can do, and what the configuration makes of it.
async fn facts(config: &Config) -> Result<HostFacts, ServeError> {
    let mut facts = defaults::apply(host::facts()?, config).map_err(ServeError::Defaults)?;
    if let Some(file) = (config.nri.blockio_config_file.as_ref()).filter(|_| config.nri.enable) {
        facts.block_io_classes = host::block_io_classes(file)?;
    }
    Ok(with_apparmor(facts).await)
}

/// Loads the default profile where AppArmor is on. A node without it still runs pods, unconfined, as
/// a host without AppArmor does.
async fn with_apparmor(mut host: HostFacts) -> HostFacts {
    let Some(facts) = &mut host.apparmor else {
        return host;
    };
    match apparmor::load().await {
        Ok(()) => facts.default_profile = Some(apparmor::DEFAULT.to_owned()),
        Err(error) => {
            let error = crate::chain::chain(&error);
            tracing::warn!(%error, "containers with AppArmor's RuntimeDefault are not confined");
        }
    }
    host
}

fn monitor_cgroups(config: &Config) -> cgroup::Monitors {
    cgroup::Monitors {
        parent: match &config.monitor.cgroup {
            MonitorCgroup::Pod => None,
            MonitorCgroup::Path(path) => Some(path.to_string_lossy().into_owned()),
        },
        memory_limit: config.monitor.memory_limit.get(),
    }
}

async fn streaming(config: &Config) -> Result<husk_streaming::Server, ServeError> {
    let section = &config.streaming;
    let tls = match (&section.tls_cert, &section.tls_key) {
        (Some(cert), Some(key)) => Some(husk_streaming::server_tls(&read(cert)?, &read(key)?)?),
        (Some(_), None) | (None, Some(_)) | (None, None) => None,
    };
    let config = husk_streaming::Config {
        tls,
        idle_timeout: section.idle_timeout,
        token_timeout: section.token_timeout,
        ..husk_streaming::Config::new(section.address)
    };
    Ok(husk_streaming::Server::start(config).await?)
}

/// The plugins, of which there are none before they are served.
fn nri(config: &Config) -> husk_nri::Nri {
    let section = &config.nri;
    if !section.enable {
        return husk_nri::Nri::disabled();
    }
    husk_nri::Nri::new(husk_nri::Config {
        runtime_name: "husk".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        socket: Some(section.socket.clone()),
        plugin_dir: section.plugin_dir.clone(),
        plugin_config_dir: section.plugin_config_dir.clone(),
        registration_timeout: section.registration_timeout,
        request_timeout: section.request_timeout,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ServeError> {
    fs::read(path).map_err(|source| ServeError::TlsFile {
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory that only root may enter.
fn private(path: &Path) -> Result<(), ServeError> {
    fs::create_dir_all(path).map_err(|source| ServeError::Directory {
        path: path.to_owned(),
        source,
    })?;
    closed(path, 0o700)
}

fn closed(path: &Path, mode: u32) -> Result<(), ServeError> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(|source| ServeError::Directory {
        path: path.to_owned(),
        source,
    })
}

fn image_config(config: &Config) -> husk_image::Config {
    let image = &config.image;
    husk_image::Config {
        registries: vec![image.registries_conf.clone()],
        certs_dirs: image.certs_dirs.clone(),
        auth_file: image.auth_file.clone(),
        pinned: image.pinned.clone(),
        parallel_layers: usize::try_from(image.parallel_layers).unwrap_or(1),
        limits: image.limits(),
        pull_progress_timeout: image.pull_progress_timeout,
        ..husk_image::Config::new(images_root(config), config.run.join("images"))
    }
}

fn images_root(config: &Config) -> PathBuf {
    config.root.join("images")
}
