//! Containers that go on from a checkpoint: what is in an archive, which image it needs, and the start.
//!
//! An archive is a file on the node, or an image whose manifest says by an annotation that it is one. It
//! is as hostile as any image. It is unpacked by the code that unpacks layers, into a directory that only
//! root enters, and of what is in it only regular files with known names are used. Nothing in it decides
//! about the host: mounts, users, devices, limits and annotations are the kubelet's, as for any container
//! (CVE-2024-8676, CVE-2026-53492), and no image is pulled or tagged by its words (CVE-2026-50195).
//!
//! What CRIU makes of the processes is not looked into: they bring along the privileges that they had.
//! Hence the key `runtime.restore`.
//!
//! Deliberately absent: pulling the image that the container was made from, and its log.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use husk_image::{Image, LayerError};
use oci_spec::runtime::Spec;
use pod_monitor_client::Monitor;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::checkpoint::{CHANGES, CONFIG, IMAGES, SPEC, can, drafts, refused};
use super::creation::{self, Creation};
use super::{Begun, limited, monitored};
use crate::error::PodError;
use crate::id::new_id;
use crate::monitors::{Escrow, Trace};
use crate::services::Services;
use crate::spec;
use crate::store::v1::ContainerRecord;

/// Annotations of manifests by which CRI-O, and the tools that all share, mark a checkpoint.
const ANNOTATIONS: [&str; 2] = [
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
];
/// Files that the container removed, beside its changes: a form that other runtimes write.
const DELETED: &str = "deleted.files";
/// The largest description that is read.
const DESCRIPTION_LIMIT: u64 = 4 << 20;
const WORK: &str = "restore";

/// What a container is made from.
pub(super) struct Origin {
    pub(super) image: Arc<Image>,
    pub(super) checkpoint: Option<Unpacked>,
}

/// Finds the image, and unpacks the checkpoint where the kubelet named one.
pub(super) async fn origin(creation: &Creation) -> Result<Origin, PodError> {
    let services = &creation.services;
    let reference = creation::reference(creation)?;
    let image = if Path::new(reference).is_absolute() {
        None
    } else {
        Some(creation::image(services, reference)?)
    };
    if let Some(image) = image.as_ref().filter(|image| !is_marked(services, image)) {
        return Ok(Origin {
            image: image.clone(),
            checkpoint: None,
        });
    }
    permitted(creation, reference)?;
    let draft = Draft::make(&drafts(&services.directories))?;
    let wrong = wrong(reference);
    match image {
        None => {
            let file = open(Path::new(reference)).map_err(|error| wrong(error.to_string()))?;
            // The cause of a failure may quote the file, which may be any.
            let unpacked = services.images.unpack(file, &draft.0).await;
            unpacked.map_err(|error| wrong(error.to_string()))?;
        }
        Some(image) => {
            let (layers, to) = (services.images.layers(&image), draft.0.clone());
            let copying = tokio::task::spawn_blocking(move || collect(&layers, &to));
            let copied = copying.await.unwrap_or_else(|error| Err(error.into()));
            copied.map_err(PodError::io("copying the checkpoint to", &draft.0))?;
        }
    }
    let unpacked = Unpacked::read(draft, reference)?;
    let image = unpacked.image(services)?;
    Ok(Origin {
        image,
        checkpoint: Some(unpacked),
    })
}

/// Whether an image is a checkpoint. Where none may be restored, one that has a command is run as what it
/// seems to be.
fn is_marked(services: &Services, image: &Image) -> bool {
    let runs = !image.config.entrypoint.is_empty() || !image.config.cmd.is_empty();
    if runs && !services.config.runtime.restore {
        return false;
    }
    let found = services.images.annotations(image);
    ANNOTATIONS.iter().any(|name| found.contains_key(*name))
}

fn permitted(creation: &Creation, reference: &str) -> Result<(), PodError> {
    let wrong = wrong(reference);
    if !creation.services.config.runtime.restore {
        let cause = "is not restored: runtime.restore is false in the configuration";
        return Err(wrong(cause.into()));
    }
    if spec::mapped_root(&creation.sandbox).is_some() {
        let cause = "cannot be restored in a pod with a user namespace of its own";
        return Err(wrong(cause.into()));
    }
    let subject = format!("checkpoint {reference:?}");
    can(
        &creation.services,
        "restoration",
        &creation.pod.handler,
        &subject,
    )
}

fn wrong(reference: &str) -> impl Fn(String) -> PodError {
    let subject = format!("checkpoint {reference:?}");
    move |cause| PodError::Invalid {
        subject: subject.clone(),
        cause,
    }
}

/// A pipe or a device would keep the opener waiting.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Copies the parts from an image's layers, topmost first, which never change.
fn collect(layers: &[PathBuf], to: &Path) -> io::Result<()> {
    let topmost = |name: &str| {
        let mut places = layers.iter().map(|layer| layer.join(name));
        places.find(|place| place.symlink_metadata().is_ok())
    };
    for name in [CONFIG, SPEC, CHANGES, DELETED] {
        if let Some(from) = topmost(name).filter(|from| is_file(from)) {
            fs::copy(from, to.join(name))?;
        }
    }
    let Some(from) = topmost(IMAGES).filter(|from| is_directory(from)) else {
        return Ok(());
    };
    fs::create_dir(to.join(IMAGES))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            return Err(io::Error::other("it has more than files in it"));
        }
        fs::copy(entry.path(), to.join(IMAGES).join(entry.file_name()))?;
    }
    Ok(())
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|it| it.is_file())
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|it| it.is_dir())
}

/// A directory that goes with the value. What cannot be removed goes when the daemon starts.
#[derive(Debug)]
struct Draft(PathBuf);

impl Draft {
    fn make(drafts: &Path) -> Result<Self, PodError> {
        let directory = drafts.join(new_id()?);
        super::checkpoint::make_private(drafts, &directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is read of `config.dump`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Made {
    rootfs_image: String,
    rootfs_image_ref: String,
}

/// A checkpoint whose parts are there.
#[derive(Debug)]
pub(super) struct Unpacked {
    draft: Draft,
    reference: String,
    made: Made,
    /// Where its container had mounts of the host's files.
    mounts: BTreeSet<PathBuf>,
}

impl Unpacked {
    fn read(draft: Draft, reference: &str) -> Result<Self, PodError> {
        let wrong = wrong(reference);
        let made = describe(&draft.0.join(CONFIG)).map_err(&wrong)?;
        let spec: Spec = describe(&draft.0.join(SPEC)).map_err(&wrong)?;
        check(&draft.0).map_err(&wrong)?;
        Ok(Self {
            draft,
            reference: reference.to_owned(),
            made,
            mounts: bind_mounts(&spec),
        })
    }

    /// The image that the container was made from: by what names its content, never by a tag.
    fn image(&self, services: &Services) -> Result<Arc<Image>, PodError> {
        let names = [&self.made.rootfs_image, &self.made.rootfs_image_ref];
        let exact = names.into_iter().filter(|name| name.contains("sha256:"));
        let mut found = exact.filter_map(|name| creation::image(services, name).ok());
        found.next().ok_or_else(|| {
            let names = names.map(String::as_str).join("\" or \"");
            let cause = format!("is of an image that is not on this node: \"{names}\"");
            wrong(&self.reference)(cause)
        })
    }

    /// What is wrong with the changes. The causes below may quote what was read.
    pub(super) fn wrong(&self, error: &LayerError) -> PodError {
        wrong(&self.reference)(error.to_string())
    }

    /// The archive of what the container had changed in its files.
    pub(super) fn changes(&self) -> Option<PathBuf> {
        Some(self.draft.0.join(CHANGES)).filter(|path| path.exists())
    }

    /// Checks that the new container has mounts where the old one had some, since CRIU connects the one
    /// with the other.
    pub(super) fn fit(&self, spec: &Spec) -> Result<(), PodError> {
        let there = bind_mounts(spec);
        let missing: Vec<_> = self.mounts.difference(&there).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = missing.iter().map(|it| it.display().to_string()).collect();
        let missing = missing.join(", ");
        let cause = format!("needs mounts that the container does not have: {missing}");
        Err(wrong(&self.reference)(cause))
    }

    /// Puts the processes where they stay until the container is started, or removed.
    pub(super) fn keep(self, services: &Services, id: &str) -> Result<(), PodError> {
        let to = services.images.directory_of(id).join(IMAGES);
        let from = self.draft.0.join(IMAGES);
        fs::rename(&from, &to).map_err(PodError::io("moving the checkpoint to", &to))
    }
}

/// Checks what is not read here: the processes, and what there is of files.
fn check(directory: &Path) -> Result<(), String> {
    let images = directory.join(IMAGES);
    if !is_directory(&images) {
        return Err(format!("has no directory {IMAGES}"));
    }
    let listed = fs::read_dir(&images).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let listed = listed.map_err(|error| error.to_string())?;
    if listed.is_empty() {
        return Err(format!("has nothing in {IMAGES}"));
    }
    if let Some(odd) = listed.iter().find(|entry| !is_file(&entry.path())) {
        let odd = odd.file_name();
        return Err(format!("has in {IMAGES} what is no file: {odd:?}"));
    }
    let changes = directory.join(CHANGES);
    if changes.symlink_metadata().is_ok() && !is_file(&changes) {
        return Err(format!("has a {CHANGES} that is no file"));
    }
    let deleted = directory.join(DELETED);
    if deleted.symlink_metadata().is_ok()
        && !describe::<Option<Vec<String>>>(&deleted)?.is_none_or(|it| it.is_empty())
    {
        return Err(format!(
            "lists removed files in {DELETED}, which is not supported"
        ));
    }
    Ok(())
}

/// A description in JSON. What is wrong is said without quoting it.
fn describe<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let name = path.file_name().unwrap_or_default().display();
    if !is_file(path) {
        return Err(format!("has no file {name}"));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
    let read = file.take(DESCRIPTION_LIMIT + 1).read_to_end(&mut text);
    read.map_err(|error| format!("{name}: {error}"))?;
    if text.len() as u64 > DESCRIPTION_LIMIT {
        return Err(format!(
            "has a {name} of more than {DESCRIPTION_LIMIT} bytes"
        ));
    }
    serde_json::from_slice(&text).map_err(|_| format!("has a {name} that cannot be read"))
}

fn bind_mounts(spec: &Spec) -> BTreeSet<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    let binds = mounts.filter(|mount| {
        let mut options = mount.options().iter().flatten();
        mount.typ().as_deref() == Some("bind") || options.any(|it| it == "bind" || it == "rbind")
    });
    binds.map(|mount| mount.destination().clone()).collect()
}

/// Restores a container, in place of its start.
pub(super) async fn start(
    services: &Arc<Services>,
    monitor: &Monitor,
    record: &ContainerRecord,
    trace: &Trace,
) -> Result<Begun, PodError> {
    let id = &record.id;
    let directory = services.images.directory_of(id);
    let (images, work) = (directory.join(IMAGES), directory.join(WORK));
    match fs::create_dir(&work) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PodError::io("making", &work)(error));
        }
        _ => {}
    }
    let config = monitored::monitor_config(services, record);
    let call = monitor.restore(trace, &config, (&images, &work));
    let restored = match limited(services, "restoration", id, call).await {
        Err(PodError::Monitor { source, .. }) => {
            return Err(refused(
                ("restoration", id),
                &work.join("restore.log"),
                source,
            ));
        }
        answer => answer?,
    };
    let escrow = match monitored::escrow(services, monitor, id, trace).await {
        Err(error) if !error.is_disconnected() => Escrow::default(),
        answer => answer?,
    };
    // They are as large as the container's memory. What is left goes with the container.
    let gone = [images, work];
    tokio::task::spawn_blocking(move || gone.map(fs::remove_dir_all));
    Ok(Begun {
        at: restored.at,
        restored: Some(Restored {
            pid: restored.pid,
            escrow,
        }),
    })
}

/// What a container has only since it was restored.
#[derive(Debug)]
pub struct Restored {
    /// Its first process.
    pub pid: u32,
    /// What it depends on, should its monitor die.
    pub escrow: Escrow,
}
