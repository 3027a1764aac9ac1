//! How a container is made: image, root file system, user, spec, bundle, and the monitor's create.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use husk_cri_api::v1::{self, NamespaceMode};
use husk_image::{IdMap, Image, Owner, RootfsError, RootfsOptions};
use husk_nri::Hold;
use oci_spec::runtime::Spec;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ContainerConfig, Created as MonitorCreated, Stdin};

use super::monitored::in_monitor_words;
use super::restore::{self, Origin, Unpacked};
use super::{host_paths, leftovers, limited, lookups, monitored, plugins};
use crate::bundle;
use crate::clock::now;
use crate::error::PodError;
use crate::fault;
use crate::id::new_id;
use crate::monitors::{self, Escrow, Trace};
use crate::services::Services;
use crate::spec::namespace_options;
use crate::spec::{self, ContainerInput, Identity, SpecError, Warning};
use crate::store::v1::{ContainerRecord, ContainerState, Created, PodRecord, pack};
use crate::undo::Undo;
use crate::users;

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

/// What is known once the spec is written.
struct Prepared {
    spec: Spec,
    user: v1::ContainerUser,
    stop_signal: u32,
    log_path: Option<PathBuf>,
}

/// A container, and what keeps plugins from missing it until readers see it.
#[derive(Debug)]
pub struct Made {
    /// The container.
    pub record: ContainerRecord,
    /// What it depends on, should its monitor die.
    pub escrow: Escrow,
    /// To be dropped when the container is published.
    pub hold: Hold,
}

/// Makes a container, or nothing.
///
/// # Errors
/// The first step that failed; what was done before is undone.
pub async fn create(creation: Creation) -> Result<Made, PodError> {
    let hold = creation.services.nri.hold().await;
    let mut undo = Undo::default();
    let creation = Arc::new(creation);
    match build(&creation, &mut undo).await {
        Ok((record, escrow)) => Ok(Made {
            record,
            escrow,
            hold,
        }),
        Err(error) => Err(undo.run(error).await),
    }
}

async fn build(
    creation: &Arc<Creation>,
    undo: &mut Undo,
) -> Result<(ContainerRecord, Escrow), PodError> {
    let Creation { services, pod, .. } = &**creation;
    spec::validate_container(&creation.config, &creation.sandbox, &services.host)
        .map_err(|source| spec_error(creation, source))?;
    let features = services.monitors.handlers.features(&pod.handler);
    spec::validate_runtime(&creation.config, &services.host, features)
        .map_err(|source| spec_error(creation, source))?;
    let Origin { image, checkpoint } = restore::origin(creation).await?;
    let id = new_id()?;
    let from = (&*image, checkpoint.as_ref());
    let rootfs = mount_rootfs(creation, from, &id, undo).await?;
    fault::point("container.create.rootfs")?;
    let image_mounts = mount_images(creation, &id, undo).await?;
    fault::point("container.create.images")?;
    let mounted_images = mounted_images(creation)?;
    let directory = services.directories.bundle(&pod.id, &id);
    {
        let directory = directory.clone();
        undo.push(async move { bundle::remove(&directory) });
    }
    let preparation = Preparation {
        creation: creation.clone(),
        image: image.clone(),
        id: id.clone(),
        rootfs,
        image_mounts,
    };
    let mut prepared = preparation.run().await?;
    let mut record = record(creation, &id, &image, &prepared);
    record.mounted_images = mounted_images;
    plugins::adjust(creation, &record, &mut prepared.spec, undo).await?;
    bundle::write(&directory, &prepared.spec)?;
    fault::point("container.create.bundle")?;
    let restores = checkpoint.is_some();
    let (created, escrow) = match checkpoint {
        None => create_process(creation, &id, &directory, &prepared, undo).await?,
        Some(checkpoint) => {
            checkpoint.fit(&prepared.spec)?;
            checkpoint.keep(services, &id)?;
            (MonitorCreated { pid: 0, at: now() }, Escrow::default())
        }
    };
    record.pipes = monitors::pipes(&escrow);
    record.created_at = created.at;
    record.packed_resources = reported_resources(&prepared.spec).map(|it| pack(&it));
    let pid = created.pid;
    record.state = Some(ContainerState::Created(Created { pid, restores }));
    let kept = services.store.put_container(&record).await;
    kept.map_err(|source| PodError::Store { id, source })?;
    plugins::tell_created(creation, &record).await;
    Ok((record, escrow))
}

/// What the container depends on. Without it the container goes down with its monitor, which is no
/// reason not to have it; but a monitor that is gone by now has taken it along.
async fn hold(creation: &Creation, id: &str) -> Result<Escrow, PodError> {
    let Creation {
        services,
        monitor,
        trace,
        ..
    } = creation;
    match monitored::escrow(services, monitor, id, trace).await {
        Err(error) if !error.is_disconnected() => Ok(Escrow::default()),
        other => other,
    }
}

/// The record of a container that has no process yet.
fn record(creation: &Creation, id: &str, image: &Image, prepared: &Prepared) -> ContainerRecord {
    let log_path = prepared.log_path.as_ref();
    ContainerRecord {
        id: id.to_owned(),
        pod_id: creation.pod.id.clone(),
        packed_config: pack(&creation.config),
        packed_resources: None,
        image_id: image.id.clone(),
        image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
        created_at: now(),
        log_path: log_path.map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
        user: Some(prepared.user.clone()),
        stop_signal: prepared.stop_signal,
        mounted_images: Vec::new(),
        pipes: Vec::new(),
        state: Some(ContainerState::Created(Created::default())),
    }
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

/// In a pod with a user namespace the image's files belong to its users.
fn rootfs_options(creation: &Creation) -> RootfsOptions {
    let Creation { services, pod, .. } = creation;
    let id_map = spec::mapped_root(&creation.sandbox).map(|(uid, gid)| IdMap {
        user_namespace: services.directories.pod(&pod.id).join("ns/user"),
        root: Owner { uid, gid },
    });
    RootfsOptions {
        id_map,
        ..RootfsOptions::default()
    }
}

async fn mount_rootfs(
    creation: &Creation,
    (image, checkpoint): (&Image, Option<&Unpacked>),
    id: &str,
    undo: &mut Undo,
) -> Result<PathBuf, PodError> {
    let (services, released) = (creation.services.clone(), id.to_owned());
    undo.push(async move {
        let done = services.images.release(&released).await;
        done.map_err(|source| PodError::Rootfs {
            id: released,
            source: Box::new(source),
        })
    });
    let options = RootfsOptions {
        changes: checkpoint.and_then(Unpacked::changes),
        ..rootfs_options(creation)
    };
    let rootfs = creation
        .services
        .images
        .rootfs(&image.id, id, options)
        .await;
    rootfs
        .map(|rootfs| rootfs.path)
        .map_err(|source| match (source, checkpoint) {
            (RootfsError::Changes { source, .. }, Some(checkpoint)) => checkpoint.wrong(&source),
            (source, _) => PodError::Rootfs {
                id: id.to_owned(),
                source: Box::new(source),
            },
        })
}

/// Mounts the images that are volumes; answers their host paths by container path.
async fn mount_images(
    creation: &Creation,
    id: &str,
    undo: &mut Undo,
) -> Result<BTreeMap<String, PathBuf>, PodError> {
    let mut mounts = BTreeMap::new();
    for (index, mount) in image_mounts(&creation.config) {
        let reference = mount.image.clone().unwrap_or_default().image;
        let image = image(&creation.services, &reference)?;
        let mount_id = mount_id(id, index);
        let (services, released) = (creation.services.clone(), mount_id.clone());
        undo.push(async move {
            let done = services.images.release_image_mount(&released).await;
            done.map_err(|source| PodError::Rootfs {
                id: released,
                source: Box::new(source),
            })
        });
        let path = creation
            .services
            .images
            .mount_image(&image.id, &mount_id, rootfs_options(creation))
            .await;
        let path = path.map_err(|source| PodError::Rootfs {
            id: mount_id,
            source: Box::new(source),
        })?;
        let path = sub_path(&path, &mount.image_sub_path)?;
        mounts.insert(mount.container_path.clone(), path);
    }
    Ok(mounts)
}

/// The ids of the images that are volumes, in the order of the mounts.
fn mounted_images(creation: &Creation) -> Result<Vec<String>, PodError> {
    let mounts = image_mounts(&creation.config);
    let references = mounts.filter_map(|(_, mount)| mount.image.as_ref());
    references
        .map(|spec| Ok(image(&creation.services, &spec.image)?.id.clone()))
        .collect()
}

/// A directory of an image, without leaving the image through a link.
fn sub_path(image: &Path, sub_path: &str) -> Result<PathBuf, PodError> {
    if sub_path.is_empty() {
        return Ok(image.to_owned());
    }
    let path = image.join(sub_path);
    let resolved = path
        .canonicalize()
        .map_err(PodError::io("finding the image sub path", &path))?;
    if resolved.starts_with(image) {
        return Ok(resolved);
    }
    Err(PodError::Invalid {
        subject: format!("image_sub_path {sub_path:?}"),
        cause: "leads out of the image".into(),
    })
}

fn image_mounts(config: &v1::ContainerConfig) -> impl Iterator<Item = (usize, &v1::Mount)> {
    config.mounts.iter().enumerate().filter(|(_, mount)| {
        mount
            .image
            .as_ref()
            .is_some_and(|image| !image.image.is_empty())
    })
}

fn mount_id(container: &str, index: usize) -> String {
    format!("{container}-{index}")
}

/// The names of a container's image mounts at the image store.
pub(super) fn image_mount_ids(record: &ContainerRecord) -> Vec<String> {
    image_mounts(&record.config())
        .map(|(index, _)| mount_id(&record.id, index))
        .collect()
}

/// What the spec is made from, besides what a look at the host and into the image brings.
struct Preparation {
    creation: Arc<Creation>,
    image: Arc<Image>,
    id: String,
    rootfs: PathBuf,
    image_mounts: BTreeMap<String, PathBuf>,
}

impl Preparation {
    /// Away from the threads that serve calls: files of the image and host paths may lie on disks,
    /// or beyond networks, that take their time.
    async fn run(self) -> Result<Prepared, PodError> {
        let Creation { services, pod, .. } = &*self.creation;
        let directory = services.directories.bundle(&pod.id, &self.id);
        let span = tracing::Span::current();
        let preparing = tokio::task::spawn_blocking(move || span.in_scope(|| self.prepare()));
        let failed =
            |error: tokio::task::JoinError| PodError::io("preparing", directory)(error.into());
        preparing.await.map_err(failed)?
    }

    /// Looks up what the spec depends on, and makes it.
    fn prepare(&self) -> Result<Prepared, PodError> {
        let Self {
            creation,
            image,
            id,
            rootfs,
            image_mounts,
        } = self;
        let Creation { services, pod, .. } = &**creation;
        let refused = |source| spec_error(creation, source);
        let mut config = creation.config.clone();
        host_paths::prepare(&mut config.mounts)?;
        let defaults = lookups::defaults(image);
        let user =
            users::resolve(rootfs, &config, &defaults.user).map_err(|source| PodError::Users {
                id: id.clone(),
                source: Box::new(source),
            })?;
        let host_ipc = namespace_options(&creation.sandbox).ipc() == NamespaceMode::Node;
        let input = ContainerInput {
            config: &config,
            sandbox: &creation.sandbox,
            identity: Identity {
                container_id: id,
                sandbox_id: &pod.id,
            },
            image: &defaults,
            user: &user,
            rootfs,
            namespaces: &lookups::namespaces(creation).map_err(refused)?,
            hostname: lookups::hostname(creation),
            cgroup: &services.cgroups.container(&pod.cgroup_parent, id),
            files: &services.directories.shared_files(&pod.id, host_ipc),
            host: &services.host,
            devices: &lookups::devices(&config)?,
            image_mounts,
            seccomp: &lookups::seccomp(creation)?,
        };
        let mut built = spec::container(&input).map_err(refused)?;
        lookups::apparmor_is_loaded(&built.spec)?;
        let names = config.cdi_devices.iter().map(|device| device.name.as_str());
        lookups::inject(creation, &mut built.spec, names)?;
        log_warnings(id, &built.warnings);
        let signal = spec::signal::StopSignal::choose(&config, &defaults).number();
        Ok(Prepared {
            user: user.to_cri(),
            spec: built.spec,
            stop_signal: u32::try_from(signal).unwrap_or(15),
            log_path: lookups::log_path(&creation.sandbox, &config)?,
        })
    }
}

/// The resources that the spec came to, in the kubelet's words.
fn reported_resources(spec: &Spec) -> Option<v1::LinuxContainerResources> {
    let score = spec.process().as_ref().and_then(|p| p.oom_score_adj());
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    Some(spec::resources::to_cri(resources, score))
}

pub(super) fn log_warnings(id: &str, warnings: &[Warning]) {
    for warning in warnings {
        tracing::debug!(container = %id, %warning, "left out of the spec");
    }
}

async fn create_process(
    creation: &Arc<Creation>,
    id: &str,
    directory: &Path,
    prepared: &Prepared,
    undo: &mut Undo,
) -> Result<(MonitorCreated, Escrow), PodError> {
    let wanted = in_monitor_words(
        &creation.config,
        ContainerConfig {
            id: id.to_owned(),
            bundle: directory.to_owned(),
            terminal: false,
            stdin: Stdin::None,
            log_path: prepared.log_path.clone(),
            memory_events: true,
        },
    );
    let (services, monitor, trace) = (
        creation.services.clone(),
        creation.monitor.clone(),
        creation.trace.clone(),
    );
    let (deleted, pod) = (id.to_owned(), creation.pod.clone());
    undo.push(async move {
        let call = monitor.delete(&trace, &deleted, true);
        let done = limited(&services, "removal", &deleted, call).await;
        // The monitor may have died of it, and an OCI runtime that was killed half-way knows nothing of what it made.
        let cut_off = done.as_ref().is_err_and(PodError::is_disconnected);
        if cut_off {
            leftovers::end_calls(&services, &pod, &monitor).await;
        }
        services.fd_store.remove(&deleted);
        leftovers::sweep(&services, &pod, &deleted).await;
        if cut_off { Ok(()) } else { done }
    });
    let (services, monitor, trace) = (&creation.services, &creation.monitor, &creation.trace);
    let created = limited(services, "creation", id, monitor.create(trace, &wanted)).await?;
    fault::point("container.create.process")?;
    let escrow = hold(creation, id).await?;
    Ok((created, escrow))
}
