//! A container's root file system, and the images that are volumes in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use husk_cri_api::v1;
use husk_image::{IdMap, Image, Owner, RootfsError, RootfsOptions};

use super::creation::{Creation, image};
use super::restore::Unpacked;
use crate::error::PodError;
use crate::spec;
use crate::store::v1::ContainerRecord;
use crate::undo::Undo;

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

pub(super) async fn mount_rootfs(
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
pub(super) async fn mount_images(
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
pub(super) fn mounted_images(creation: &Creation) -> Result<Vec<String>, PodError> {
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
