//! The one object that callers hold: everything on it may be called from anywhere, at any time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{FindError, OpenError, RemoveError, RootfsError, StoreError};
use crate::failure::{Cause, ImportError};
use crate::idmap::IdMap;
use crate::image::{Image, parse_id};
use crate::image_config;
use crate::locks::KeyedLocks;
use crate::platform::Platform;
use crate::progress::{Progress, ProgressEvent};
use crate::pull::SharedPulls;
use crate::registries::{Registries, RegistriesError};
use crate::store::{Collected, DiskUsage, NewImage, RootKind, Store};
use crate::workers::{Workers, blocking};

/// All images of a node. Cheap to clone; clones are the same store.
#[derive(Debug, Clone)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) platform: Platform,
    pub(crate) workers: Workers,
    registries: RwLock<Arc<Registries>>,
    roots: KeyedLocks<(RootKind, String)>,
    pub(crate) pulls: SharedPulls,
}

/// How a container's root file system is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsOptions {
    /// SELinux context for every file, as in the mount option `context=`.
    pub mount_label: Option<String>,
    /// Whose users own the files, where the container has a user namespace. Processes of no other
    /// user reach the mount then.
    pub id_map: Option<IdMap>,
    /// An archive, as [`Images::write_changes`] makes it, of what the container begins with above its
    /// image.
    pub changes: Option<PathBuf>,
}

/// A mounted root file system.
///
/// It is always writable, in a directory of the container's own: an OCI runtime has to make mount
/// points in it, and makes it read-only afterwards where the specification says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The merged tree.
    pub path: PathBuf,
}

/// What images occupy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// All unpacked layers.
    pub images: DiskUsage,
    /// The directory whose file system holds images and containers' writable parts.
    pub mountpoint: PathBuf,
    /// The directory below it that holds containers' writable parts.
    pub containers: PathBuf,
}

impl Images {
    /// Opens the store, removing what an earlier process left half-made.
    ///
    /// # Errors
    /// Another process has it open, its state is damaged, or the registry configuration is wrong.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let mut config = config;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        config.root = absolute(&config.root);
        config.run = absolute(&config.run);
        let platform = match &config.platform {
            Some(text) => text.parse()?,
            None => Platform::host(),
        };
        let (root, run, pinned) = (
            config.root.clone(),
            config.run.clone(),
            config.pinned.clone(),
        );
        let files = config.registries.clone();
        let opened = blocking(move || -> Result<_, OpenError> {
            let registries = Registries::load(&files)?;
            Ok((Store::open(&root, &run, &pinned)?, registries))
        });
        let (store, registries) = opened.await?;
        Ok(Self(Arc::new(Inner {
            workers: Workers::new(store, config.parallel_layers),
            config,
            platform,
            registries: RwLock::new(Arc::new(registries)),
            roots: KeyedLocks::default(),
            pulls: SharedPulls::default(),
        })))
    }

    /// Reads the registry configuration again. The old one stays if the new one is wrong. Blocks on
    /// small files.
    ///
    /// # Errors
    /// Names the file and what is wrong in it.
    pub fn reload_registries(&self) -> Result<(), RegistriesError> {
        let loaded = Registries::load(&self.0.config.registries)?;
        self.0.replace_registries(Arc::new(loaded));
        Ok(())
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// All images, from memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.store().published().all().to_vec()
    }

    /// Finds an image by id, by the start of its id, by tag or by digest, from memory.
    ///
    /// # Errors
    /// The text is neither, or the start of several ids.
    pub fn find(&self, reference_or_id: &str) -> Result<Option<Arc<Image>>, FindError> {
        let registries = self.0.registries();
        self.0
            .store()
            .published()
            .find(reference_or_id, &registries)
    }

    /// Removes an image with all its tags and digests, whichever of its names is given. An absent one
    /// is removed already. Layers that a root file system uses stay until that is released.
    ///
    /// # Errors
    /// The name is ambiguous or none, or the store cannot be written.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), RemoveError> {
        let Some(image) = self.find(reference_or_id)? else {
            return Ok(());
        };
        let store = Arc::clone(self.0.store());
        let id = image.id.clone();
        let Some(digest) = parse_id(&id) else {
            return Ok(());
        };
        let removed: Result<(), StoreError> = blocking(move || store.remove(&digest)).await;
        removed.map_err(|source| RemoveError::Store { id, source })
    }

    /// Stores the images of an OCI layout (directory or tar) or docker-archive, compressed or not.
    /// `tag` names the image instead of what the archive says.
    ///
    /// # Errors
    /// Says what is wrong with the archive, or with the store.
    pub async fn import(
        &self,
        path: &Path,
        tag: Option<&str>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Image>, ImportError> {
        match self.0.import(path, tag, progress).await {
            Ok(images) => Ok(images),
            Err(cause) => {
                self.0.clean_after(cause.kind()).await;
                Err(ImportError {
                    path: path.to_owned(),
                    cause,
                })
            }
        }
    }

    /// Makes and mounts the root file system of a container. Repeating it mounts what is not mounted.
    ///
    /// # Errors
    /// The image does not exist, the id belongs to another image's container, or the mount fails.
    pub async fn rootfs(
        &self,
        image_id: &str,
        container_id: &str,
        options: RootfsOptions,
    ) -> Result<Rootfs, RootfsError> {
        let key = (RootKind::Container, container_id);
        let path = self.0.provide(key, image_id, options).await?;
        Ok(Rootfs { path })
    }

    /// Mounts an existing container's root file system again, as after a reboot.
    ///
    /// # Errors
    /// There is none of this id, or the mount fails.
    pub async fn remount(&self, container_id: &str) -> Result<Rootfs, RootfsError> {
        let key = (RootKind::Container, container_id);
        let path = self
            .0
            .on_root(key, |store, kind, id| store.mount_root(kind, id, None))
            .await?;
        Ok(Rootfs { path })
    }

    /// Unmounts a container's root file system and deletes what the container wrote. What is gone
    /// already is fine.
    ///
    /// # Errors
    /// The kernel refuses to unmount, or deleting fails.
    pub async fn release(&self, container_id: &str) -> Result<(), RootfsError> {
        let key = (RootKind::Container, container_id);
        self.0
            .on_root(key, |store, kind, id| store.release(kind, id))
            .await
    }

    /// Mounts an image alone, read-only, as image volumes need it.
    ///
    /// # Errors
    /// As for [`Images::rootfs`].
    pub async fn mount_image(
        &self,
        image_id: &str,
        mount_id: &str,
        options: RootfsOptions,
    ) -> Result<PathBuf, RootfsError> {
        self.0
            .provide((RootKind::View, mount_id), image_id, options)
            .await
    }

    /// Unmounts what [`Images::mount_image`] mounted.
    ///
    /// # Errors
    /// The kernel refuses to unmount.
    pub async fn release_image_mount(&self, mount_id: &str) -> Result<(), RootfsError> {
        let key = (RootKind::View, mount_id);
        self.0
            .on_root(key, |store, kind, id| store.release(kind, id))
            .await
    }

    /// Ids of all containers that have a root file system here, mounted or not.
    pub async fn known_rootfs(&self) -> Vec<String> {
        self.0.known(RootKind::Container).await
    }

    /// Ids of all image mounts.
    pub async fn known_image_mounts(&self) -> Vec<String> {
        self.0.known(RootKind::View).await
    }

    /// Removes layers, blobs and leftovers that nothing needs. Runs at open and after removals too.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn collect_garbage(&self) -> Result<Collected, StoreError> {
        let store = Arc::clone(self.0.store());
        blocking(move || store.collect_garbage()).await
    }

    /// What images occupy. No file is looked at.
    ///
    /// # Errors
    /// The program is shutting down.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let store = Arc::clone(self.0.store());
        let images = blocking(move || Ok::<_, StoreError>(store.layers_usage())).await?;
        Ok(Usage {
            images,
            mountpoint: self.0.config.root.clone(),
            containers: self.0.config.root.join("containers"),
        })
    }

    /// What a container wrote to its root file system, found by walking it.
    ///
    /// # Errors
    /// There is no such container, or a directory cannot be read.
    pub async fn container_usage(&self, container_id: &str) -> Result<DiskUsage, RootfsError> {
        let store = Arc::clone(self.0.store());
        let id = container_id.to_owned();
        let measure = tokio::task::spawn_blocking(move || store.container_usage(&id));
        measure.await.unwrap_or_else(|_| Err(stopped(container_id)))
    }
}

pub(crate) fn stopped(id: &str) -> RootfsError {
    RootfsError::Store {
        id: id.to_owned(),
        source: StoreError::Stopped,
    }
}

impl Inner {
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.workers.store
    }

    pub(crate) fn registries(&self) -> Arc<Registries> {
        Arc::clone(
            &self
                .registries
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn replace_registries(&self, new: Arc<Registries>) {
        *self
            .registries
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
    }

    async fn known(&self, kind: RootKind) -> Vec<String> {
        let store = Arc::clone(self.store());
        let known = blocking(move || Ok::<_, StoreError>(store.known_roots(kind))).await;
        known.unwrap_or_default()
    }

    async fn provide(
        &self,
        key: (RootKind, &str),
        image_id: &str,
        options: RootfsOptions,
    ) -> Result<PathBuf, RootfsError> {
        let image = parse_id(image_id).ok_or_else(|| RootfsError::NoImage(image_id.to_owned()))?;
        let limits = self.config.limits.unpack();
        self.on_root(key, move |store, kind, id| {
            store.provide((kind, id), &image, &options, limits)
        })
        .await
    }

    /// Runs work on one root file system, one at a time, to its end.
    async fn on_root<T: Send + 'static>(
        &self,
        (kind, id): (RootKind, &str),
        work: impl FnOnce(&Arc<Store>, RootKind, &str) -> Result<T, RootfsError> + Send + 'static,
    ) -> Result<T, RootfsError> {
        let guard = self.roots.lock((kind, id.to_owned())).await;
        let (store, owned) = (Arc::clone(self.store()), id.to_owned());
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&store, kind, &owned);
            drop(guard);
            result
        });
        task.await.unwrap_or_else(|_| Err(stopped(id)))
    }

    /// Stores a complete image and tells the watcher.
    pub(crate) async fn commit(
        &self,
        new: NewImage,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, Cause> {
        let store = Arc::clone(self.store());
        let image = blocking(move || Ok::<_, Cause>(store.commit(new)?)).await?;
        progress.event(ProgressEvent::Stored {
            id: image.id.clone(),
        });
        Ok(Image::clone(&image))
    }

    /// Parses a configuration and checks that it describes as many layers as the manifest lists, for
    /// this platform. Returns the layers' diffIDs.
    pub(crate) fn check_config(&self, config: &[u8], layers: usize) -> Result<Vec<Digest>, Cause> {
        let digest = Digest::of(config);
        let wrong = |reason: String| Cause::Config { digest, reason };
        let parsed = image_config::parse(config).map_err(|error| wrong(error.to_string()))?;
        if parsed.diff_ids.len() != layers {
            let named = parsed.diff_ids.len();
            return Err(wrong(format!(
                "it names {named} layers, the manifest {layers}"
            )));
        }
        let made_for = parsed.config.platform;
        if !made_for.os.is_empty() && self.platform.fit(&made_for).is_none() {
            return Err(Cause::NoPlatform {
                wanted: self.platform.clone(),
                offered: made_for.to_string(),
            });
        }
        Ok(parsed.diff_ids)
    }
}
