//! What is being made: leases that garbage collection respects, and layers before they are complete.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::syncfs;

use super::Store;
use super::files::{Temporary, make_private, remove_tree, replace, sync_directory};
use super::v1::{self, LayerRecord};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::kind::FileError;
use crate::layer::Unpacked;

/// Keeps layers and blobs from being collected while they are worked with.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<Store>,
    digests: Vec<Digest>,
}

/// Keeps a path in `temp` while it is worked with.
#[derive(Debug)]
pub(crate) struct PathLease {
    store: Arc<Store>,
    path: PathBuf,
}

/// A layer in the making.
#[derive(Debug)]
pub(crate) struct LayerDraft {
    store: Arc<Store>,
    directory: Option<Temporary>,
}

impl Store {
    /// Keeps digests (of layers and of blobs) from being collected until the lease is dropped.
    /// Does not block on I/O, but waits for a collection to decide.
    pub(crate) fn lease(self: &Arc<Self>, digests: Vec<Digest>) -> Lease {
        let mut leases = self.lock_leases();
        for digest in &digests {
            *leases.digests.entry(*digest).or_default() += 1;
        }
        Lease {
            store: Arc::clone(self),
            digests,
        }
    }

    /// Keeps a path in `temp` from being collected until the result is dropped.
    pub(crate) fn lease_path(self: &Arc<Self>, path: &Path) -> PathLease {
        self.lock_leases().temporary.insert(path.to_owned());
        PathLease {
            store: Arc::clone(self),
            path: path.to_owned(),
        }
    }

    /// A new empty path that garbage collection leaves alone until [`Store::forget`].
    pub(super) fn temporary(&self) -> PathBuf {
        let path = self.dirs.temporary();
        self.lock_leases().temporary.insert(path.clone());
        path
    }

    pub(super) fn forget(&self, path: &Path) {
        self.lock_leases().temporary.remove(path);
    }

    /// An empty directory to unpack a layer into.
    pub(crate) fn draft_layer(self: &Arc<Self>) -> Result<LayerDraft, StoreError> {
        let path = self.temporary();
        let draft = LayerDraft {
            store: Arc::clone(self),
            directory: Some(Temporary::new(path)),
        };
        make_private(draft.path())?;
        let diff = draft.content();
        std::fs::create_dir(&diff).map_err(FileError::new("creating", &diff))?;
        // What the topmost layer does not say about the root directory is this.
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::chmod(&diff, mode).map_err(FileError::new("opening up", &diff))?;
        Ok(draft)
    }
}

impl LayerDraft {
    fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or(Path::new(""), Temporary::path)
    }

    /// Where the layer's files go.
    pub(crate) fn content(&self) -> PathBuf {
        self.path().join("diff")
    }

    /// Makes the layer durable and part of the store.
    pub(crate) fn commit(mut self, diff_id: Digest, unpacked: Unpacked) -> Result<(), StoreError> {
        let record = LayerRecord {
            diff_id,
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
        };
        replace(&self.path().join("layer.json"), &v1::encode(&record))?;
        let sync = || -> std::io::Result<()> { Ok(syncfs(File::open(self.path())?)?) };
        sync().map_err(FileError::new("synchronising", self.path()))?;
        let store = Arc::clone(&self.store);
        let mut index = store.lock_index();
        let target = store.dirs.layer(&diff_id);
        let Some(directory) = self.directory.take() else {
            return Ok(());
        };
        store.forget(directory.path());
        if index.layers.contains_key(&diff_id) {
            return Ok(());
        }
        // A directory of that name that is not in the index is damaged.
        remove_tree(&target)?;
        directory.keep_as(&target)?;
        let layers = store.dirs.root.join("layers");
        sync_directory(&layers).map_err(FileError::new("synchronising", &layers))?;
        index.layers.insert(diff_id, record);
        Ok(())
    }
}

impl Drop for LayerDraft {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            let path = directory.path().to_owned();
            drop(directory);
            self.store.forget(&path);
        }
    }
}

impl Drop for PathLease {
    fn drop(&mut self) {
        self.store.forget(&self.path);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.store.lock_leases();
        for digest in &self.digests {
            if let Some(count) = leases.digests.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    leases.digests.remove(digest);
                }
            }
        }
    }
}
