//! What checkpoints of containers need of the store: a container's changes as an archive, archives of
//! others unpacked, and how an image says that it is one.
//!
//! Deliberately absent: what is in such an archive, and what the annotations mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::RootfsError;
use crate::image::{Image, parse_id};
use crate::images::{Images, stopped};
use crate::layer::{LayerError, unpack_foreign};
use crate::manifest;

impl Images {
    /// Writes what a container changed in its root file system to a file, as a layer.
    ///
    /// # Errors
    /// There is no such container, or a file cannot be read or written.
    pub async fn write_changes(
        &self,
        container_id: &str,
        file: std::fs::File,
    ) -> Result<(), RootfsError> {
        let store = Arc::clone(self.inner().store());
        let id = container_id.to_owned();
        let write = tokio::task::spawn_blocking(move || store.write_changes(&id, file));
        write.await.unwrap_or_else(|_| Err(stopped(container_id)))
    }

    /// Unpacks an archive from anywhere into an existing empty directory, as carefully as a layer.
    ///
    /// # Errors
    /// It is damaged, hostile or too large, or the directory cannot be written.
    pub async fn unpack(&self, file: std::fs::File, directory: &Path) -> Result<(), LayerError> {
        let (limits, directory) = (self.inner().config.limits.unpack(), directory.to_owned());
        let unpack = move || unpack_foreign(file, limits, &directory).map(drop);
        let stopped =
            |_| LayerError::Archive(std::io::Error::other("the program is shutting down"));
        tokio::task::spawn_blocking(unpack)
            .await
            .unwrap_or_else(|error| Err(stopped(error)))
    }

    /// The annotations of the manifest that an image was made from; none where it had no manifest.
    /// Blocks on a small file.
    pub fn annotations(&self, image: &Image) -> BTreeMap<String, String> {
        let manifest = parse_id(&image.id).and_then(|id| self.inner().store().manifest(&id));
        manifest.map_or_else(BTreeMap::new, |bytes| manifest::annotations(&bytes))
    }

    /// The directories of an image's layers, topmost first. What is in them never changes; they may go
    /// with the image.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        parse_id(&image.id).map_or_else(Vec::new, |id| self.inner().store().layers_of(&id))
    }

    /// The directory of a container's own in the store: what is put there goes with its root file
    /// system. There is none before [`Self::rootfs`].
    pub fn directory_of(&self, container_id: &str) -> PathBuf {
        self.inner().store().directory_of(container_id)
    }
}
