//! Garbage collection: what nothing names is moved away under the lock and deleted after it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use super::files::{names, remove_tree};
use super::{Index, Leases, RootKind, Store};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::kind::FileError;

/// How long an interrupted download is kept to be resumed.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Unpacked layers.
    pub layers: usize,
    /// Bytes of file content in those layers.
    pub layer_bytes: u64,
    /// Configurations, manifests and old interrupted downloads.
    pub blobs: usize,
    /// Directories that were never finished.
    pub leftovers: usize,
}

impl Store {
    /// Removes everything that no image, root file system, view or running work needs.
    pub(crate) fn collect_garbage(&self) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let mut condemned = Vec::new();
        // One at a time: what a collection set aside must not be deleted by another one as well.
        let _sweeping = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut index = self.lock_index();
            let leases = self.lock_leases();
            self.condemn_layers(&mut index, &leases, &mut condemned, &mut collected)?;
            self.condemn_blobs(&index, &leases, &mut condemned)?;
            collected.blobs = condemned.len() - collected.layers;
            self.condemn_roots(&index, &mut condemned)?;
            self.unmount_strangers(&index)?;
            self.condemn_temporary(&leases, &mut condemned)?;
            collected.leftovers = condemned.len() - collected.layers - collected.blobs;
            // The name is taken away under the lock; deleting may take long and needs none.
            for path in &mut condemned {
                self.set_aside(path)?;
            }
        }
        for path in &condemned {
            remove_tree(path)?;
        }
        Ok(collected)
    }

    fn condemn_layers(
        &self,
        index: &mut Index,
        leases: &Leases,
        condemned: &mut Vec<PathBuf>,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        let images = index.images.values().flat_map(|image| &image.layers);
        let roots = index.roots.values().flat_map(|root| &root.layers);
        let used: HashSet<Digest> = images
            .chain(roots)
            .chain(leases.digests.keys())
            .copied()
            .collect();
        for name in names(&self.dirs.root.join("layers"))? {
            let path = self.dirs.root.join("layers").join(&name);
            let record = Digest::from_hex(&name)
                .ok()
                .and_then(|id| index.layers.get(&id));
            match record {
                Some(record) if used.contains(&record.diff_id) => continue,
                Some(record) => {
                    collected.layer_bytes += record.bytes;
                    let diff_id = record.diff_id;
                    index.layers.remove(&diff_id);
                }
                None => {}
            }
            collected.layers += 1;
            condemned.push(path);
        }
        Ok(())
    }

    fn condemn_blobs(
        &self,
        index: &Index,
        leases: &Leases,
        condemned: &mut Vec<PathBuf>,
    ) -> Result<(), StoreError> {
        let images = index.images.values();
        let used: HashSet<String> = images
            .flat_map(|image| [Some(image.id), image.manifest])
            .flatten()
            .chain(leases.digests.keys().copied())
            .map(|digest| digest.hex())
            .collect();
        let blobs = self.dirs.root.join("blobs");
        let unused = names(&blobs)?
            .into_iter()
            .filter(|name| !used.contains(name));
        condemned.extend(unused.map(|name| blobs.join(name)));
        let partial = self.dirs.root.join("partial");
        let unused = names(&partial)?
            .into_iter()
            .filter(|name| !used.contains(name));
        condemned.extend(
            unused
                .map(|name| partial.join(name))
                .filter(|path| is_old(path)),
        );
        Ok(())
    }

    /// Directories of root file systems without a record.
    fn condemn_roots(&self, index: &Index, condemned: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        for kind in [RootKind::Container, RootKind::View] {
            let parent = self.dirs.root.join(kind.directory());
            for name in names(&parent)? {
                if !index.roots.contains_key(&(kind, name.clone())) {
                    condemned.push(parent.join(name));
                }
            }
        }
        Ok(())
    }

    /// Mounts without a record, as after the state was lost but the run directory was not.
    fn unmount_strangers(&self, index: &Index) -> Result<(), StoreError> {
        for kind in [RootKind::Container, RootKind::View] {
            for id in self.dirs.ids_of_places(kind)? {
                if index.roots.contains_key(&(kind, id.clone())) {
                    continue;
                }
                for place in self.dirs.places(kind, &id) {
                    if let Err(error) = place.clear() {
                        // It is in nobody's way, so nothing else should fail because of it.
                        tracing::warn!(%id, %error, "a mount point without a record stays");
                    }
                }
            }
        }
        Ok(())
    }

    /// Half-made things, also those beside the image list.
    fn condemn_temporary(
        &self,
        leases: &Leases,
        condemned: &mut Vec<PathBuf>,
    ) -> Result<(), StoreError> {
        let temp = self.dirs.root.join("temp");
        let paths = names(&temp)?.into_iter().map(|name| temp.join(name));
        condemned.extend(paths.filter(|path| !leases.temporary.contains(path)));
        let beside = names(&self.dirs.root)?
            .into_iter()
            .filter(|name| name.starts_with("images.new-"));
        condemned.extend(beside.map(|name| self.dirs.root.join(name)));
        Ok(())
    }

    /// Renames a path into `temp`, and the path with it.
    fn set_aside(&self, path: &mut PathBuf) -> Result<(), StoreError> {
        if path.parent() == Some(&self.dirs.root.join("temp")) {
            return Ok(());
        }
        let target = self.dirs.temporary();
        match std::fs::rename(&*path, &target) {
            Ok(()) => *path = target,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::new("setting aside", &*path)(error).into()),
        }
        Ok(())
    }

    /// Takes a path's name away at once. What it returns is to be given to [`Store::destroy`].
    pub(super) fn take_away(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let target = self.temporary();
        match std::fs::rename(path, &target) {
            Ok(()) => Ok(target),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(target),
            Err(error) => {
                self.forget(&target);
                Err(FileError::new("setting aside", path)(error).into())
            }
        }
    }

    /// Deletes what was taken away; needs no lock, and may take long.
    pub(super) fn destroy(&self, taken: &Path) -> Result<(), StoreError> {
        let removed = remove_tree(taken);
        self.forget(taken);
        Ok(removed?)
    }
}

fn is_old(path: &Path) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    // A clock that jumped back makes a file look new: it is kept a while longer.
    let age = modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
    age.is_ok_and(|age| age > PARTIAL_LIFETIME)
}
