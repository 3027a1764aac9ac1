//! Root file systems of containers and read-only views of images: records, directories and mounts.
//!
//! A record is made before its mount and removed after it, so whatever is mounted has a record and a
//! restarted process knows it. A reboot leaves records without mounts; [`Store::remount`] makes them
//! again, with the same upper directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Temporary, make_private, names};
use super::v1::{self, RootRecord};
use super::{Dirs, Store, read_record};
use crate::digest::Digest;
use crate::error::{RootfsError, StoreError};
use crate::fault;
use crate::idmap::Owner;
use crate::images::RootfsOptions;
use crate::kind::FileError;
use crate::layer::{LayerError, UnpackLimits, unpack_foreign};
use crate::mount::Overlay;

/// What a mount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RootKind {
    /// A container's root file system: an upper directory above the image.
    Container,
    /// An image volume: the image alone.
    View,
}

impl RootKind {
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::View => "views",
        }
    }

    pub(super) fn mount_directory(self) -> &'static str {
        match self {
            Self::Container => "rootfs",
            Self::View => "views",
        }
    }
}

/// Reads all records; directories without a usable one are left to garbage collection.
pub(super) fn load(
    dirs: &Dirs,
    roots: &mut BTreeMap<(RootKind, String), RootRecord>,
) -> Result<(), StoreError> {
    for kind in [RootKind::Container, RootKind::View] {
        for id in names(&dirs.root.join(kind.directory()))? {
            match read_record::<RootRecord>(&dirs.record(kind, &id).join("root.json")) {
                Ok(Some(record)) => {
                    roots.insert((kind, id), record);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a damaged root file system will be removed"
                ),
            }
        }
    }
    Ok(())
}

impl Dirs {
    pub(super) fn record(&self, kind: RootKind, id: &str) -> PathBuf {
        self.root.join(kind.directory()).join(id)
    }
}

impl Store {
    /// Makes and mounts a root file system or view. Repeating it with the same image does nothing more.
    pub(crate) fn provide(
        self: &Arc<Self>,
        (kind, id): (RootKind, &str),
        image: &Digest,
        options: &RootfsOptions,
        limits: UnpackLimits,
    ) -> Result<PathBuf, RootfsError> {
        check_id(id)?;
        check_label(options.mount_label.as_deref())?;
        let made = self.record_root((kind, id), image, options)?;
        let failed = |error: FileError| RootfsError::Store {
            id: id.to_owned(),
            source: error.into(),
        };
        let namespace = options.id_map.as_ref().map(|map| &*map.user_namespace);
        let mounted = fault::point("rootfs.recorded").map_err(failed);
        let mounted = mounted.and_then(|()| match &options.changes {
            Some(changes) if made => self.begin_with(id, changes, limits),
            Some(_) | None => Ok(()),
        });
        let mounted = mounted.and_then(|()| self.mount_root(kind, id, namespace));
        let mounted = mounted.and_then(|path| {
            fault::point("rootfs.mounted").map_err(failed)?;
            Ok(path)
        });
        mounted.inspect_err(|_| {
            if made {
                // The caller gets the mount's error; a leftover record is released with the container.
                let _ = self.release(kind, id);
            }
        })
    }

    /// Fills the upper directory, before anything is mounted.
    fn begin_with(
        &self,
        id: &str,
        changes: &Path,
        limits: UnpackLimits,
    ) -> Result<(), RootfsError> {
        let wrong = |source: LayerError| RootfsError::Changes {
            path: changes.to_owned(),
            source,
        };
        let file = File::open(changes).map_err(|error| wrong(LayerError::Archive(error)))?;
        let upper = self.directory_of(id).join("upper");
        unpack_foreign(file, limits, &upper)
            .map(drop)
            .map_err(wrong)
    }

    /// The directory of a container's own.
    pub(crate) fn directory_of(&self, id: &str) -> PathBuf {
        self.dirs.record(RootKind::Container, id)
    }

    /// Mounts an existing root file system or view if it is not mounted.
    pub(crate) fn mount_root(
        self: &Arc<Self>,
        kind: RootKind,
        id: &str,
        user_namespace: Option<&Path>,
    ) -> Result<PathBuf, RootfsError> {
        check_id(id)?;
        let record = self.lock_index().roots.get(&(kind, id.to_owned())).cloned();
        let record = record.ok_or_else(|| RootfsError::NoRootfs(id.to_owned()))?;
        let place = self.dirs.place(kind, id, record.mapped_root);
        let target = place.target();
        let failed = |source: StoreError| RootfsError::Store {
            id: id.to_owned(),
            source,
        };
        if crate::mount::is_mounted(&target).unwrap_or(false) {
            return Ok(target);
        }
        if record.mapped_root.is_some() != user_namespace.is_some() {
            return Err(RootfsError::NoUserNamespace(id.to_owned()));
        }
        place.make().map_err(|e| failed(e.into()))?;
        let scratch = self.temporary();
        let private = Temporary::new(scratch.clone());
        let mounted = make_private(&scratch)
            .map_err(|e| failed(e.into()))
            .and_then(|()| {
                let mut overlay = self.overlay(kind, id, &record, &scratch).map_err(failed)?;
                overlay.user_namespace = user_namespace.map(Path::to_owned);
                overlay.mount().map_err(|source| RootfsError::Mount {
                    operation: "mounting",
                    path: target.clone(),
                    source,
                })
            });
        drop(private);
        self.forget(&scratch);
        mounted.map(|()| target)
    }

    fn overlay(
        &self,
        kind: RootKind,
        id: &str,
        record: &RootRecord,
        scratch: &Path,
    ) -> Result<Overlay, StoreError> {
        let layers = record.layers.iter().rev();
        let mut lower: Vec<PathBuf> = layers.map(|id| self.dirs.layer(id).join("diff")).collect();
        let least = match kind {
            RootKind::Container => 1,
            RootKind::View => 2,
        };
        // The kernel wants that many; empty directories below all layers change nothing.
        for spare in 0..least {
            if lower.len() < least {
                lower.push(self.spare(spare)?);
            }
        }
        let directory = self.dirs.record(kind, id);
        Ok(Overlay {
            lower,
            upper: (kind == RootKind::Container)
                .then(|| (directory.join("upper"), directory.join("work"))),
            label: record.mount_label.clone(),
            target: self.dirs.place(kind, id, record.mapped_root).target(),
            scratch: scratch.to_owned(),
            user_namespace: None,
        })
    }

    /// An empty directory to stack where there are too few layers.
    fn spare(&self, number: usize) -> Result<PathBuf, StoreError> {
        let path = self.dirs.root.join(format!("empty-{number}"));
        if !path.is_dir() {
            std::fs::create_dir(&path).map_err(FileError::new("creating", &path))?;
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::chmod(&path, mode).map_err(FileError::new("opening up", &path))?;
        Ok(path)
    }

    /// Whether the record was made now, as opposed to found.
    fn record_root(
        &self,
        (kind, id): (RootKind, &str),
        image: &Digest,
        options: &RootfsOptions,
    ) -> Result<bool, RootfsError> {
        let key = (kind, id.to_owned());
        let mut index = self.lock_index();
        if let Some(known) = index.roots.get(&key) {
            if known.image == *image {
                return Ok(false);
            }
            return Err(RootfsError::InUse {
                id: id.to_owned(),
                image: known.image.to_string(),
            });
        }
        let stored = index.images.get(image);
        let stored = stored.ok_or_else(|| RootfsError::NoImage(image.to_string()))?;
        let record = RootRecord {
            image: *image,
            layers: stored.layers.clone(),
            mount_label: options.mount_label.clone(),
            mapped_root: options.id_map.as_ref().map(|map| map.root),
        };
        self.write_root(kind, id, &record)
            .map_err(|source| RootfsError::Store {
                id: id.to_owned(),
                source,
            })?;
        index.roots.insert(key, record);
        Ok(true)
    }

    /// Not synchronised to disk: after a power failure a container that had just been made is lost,
    /// which is what happened to its processes as well.
    fn write_root(&self, kind: RootKind, id: &str, record: &RootRecord) -> Result<(), StoreError> {
        let draft = Temporary::new(self.dirs.temporary());
        make_private(draft.path())?;
        if kind == RootKind::Container {
            let upper = draft.path().join("upper");
            make_private(&upper)?;
            make_private(&draft.path().join("work"))?;
            // The upper directory stands for the root directory itself, so it must look like the image's.
            if let Some(top) = record.layers.last() {
                copy_owner_and_mode(&self.dirs.layer(top).join("diff"), &upper, record)?;
            } else {
                copy_owner_and_mode(&self.spare(0)?, &upper, record)?;
            }
        }
        let file = draft.path().join("root.json");
        std::fs::write(&file, v1::encode(record)).map_err(FileError::new("writing", &file))?;
        let target = self.dirs.record(kind, id);
        // A directory without a record is left from a crash.
        self.destroy(&self.take_away(&target)?)?;
        Ok(draft.keep_as(&target)?)
    }

    /// Unmounts and removes a root file system or view with everything written to it. What does not
    /// exist is released already.
    pub(crate) fn release(&self, kind: RootKind, id: &str) -> Result<(), RootfsError> {
        check_id(id)?;
        let failed = |source: StoreError| RootfsError::Store {
            id: id.to_owned(),
            source,
        };
        for place in self.dirs.places(kind, id) {
            place.clear().map_err(|source| RootfsError::Mount {
                operation: "unmounting",
                path: place.target(),
                source,
            })?;
        }
        fault::point("rootfs.unmounted").map_err(|error| failed(error.into()))?;
        let (taken, record) = {
            let mut index = self.lock_index();
            let taken = self
                .take_away(&self.dirs.record(kind, id))
                .map_err(failed)?;
            (taken, index.roots.remove(&(kind, id.to_owned())))
        };
        fault::mark("rootfs.taken");
        self.destroy(&taken).map_err(failed)?;
        let orphaned =
            record.is_some_and(|record| !self.lock_index().images.contains_key(&record.image));
        if orphaned {
            self.collect_garbage().map_err(failed)?;
        }
        Ok(())
    }

    /// The ids of all containers that have a root file system here.
    pub(crate) fn known_roots(&self, kind: RootKind) -> Vec<String> {
        let index = self.lock_index();
        let of_kind = index.roots.keys().filter(|(known, _)| *known == kind);
        of_kind.map(|(_, id)| id.clone()).collect()
    }
}

/// The upper layer itself is not mapped: it keeps the owners that the host sees.
fn copy_owner_and_mode(from: &Path, to: &Path, record: &RootRecord) -> Result<(), FileError> {
    let metadata = from.metadata().map_err(FileError::new("reading", from))?;
    let owner = Owner {
        uid: metadata.uid(),
        gid: metadata.gid(),
    };
    let owner = record.mapped_root.map_or(owner, |root| root.shift(owner));
    chown(to, Some(owner.uid), Some(owner.gid)).map_err(FileError::new("giving", to))?;
    std::fs::set_permissions(to, metadata.permissions()).map_err(FileError::new("opening up", to))
}

/// An id becomes the name of a directory.
fn check_id(id: &str) -> Result<(), RootfsError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.bytes().all(fits) {
        return Err(RootfsError::InvalidId(id.to_owned()));
    }
    Ok(())
}

/// A label is quoted in mount data.
fn check_label(label: Option<&str>) -> Result<(), RootfsError> {
    match label {
        Some(label) if label.is_empty() || label.contains(['"', '\\', '\0', '\n']) => {
            Err(RootfsError::InvalidId(label.to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}
