//! What is on disk: layers, configurations, names, and what uses them.
//!
//! ```text
//! root/  lock                       one process at a time
//!        images.json                which images exist and their names: the commit point of every change
//!        blobs/<digest>             configurations and manifests, as received
//!        layers/<diffID>/diff       an unpacked layer in overlay form; complete if it has this name
//!        layers/<diffID>/layer.json its size
//!        partial/<digest>           downloads that may be resumed
//!        containers/<id>/           root.json, upper, work: the writable part of a root file system
//!        views/<id>/                root.json: a read-only view of an image
//!        temp/                      everything half-made; emptied at start
//! run/   rootfs/<id>, views/<id>    mount points
//! ```
//! **Layers are shared by diffID**, not by chainID: a layer is unpacked without its parents (removed
//! names become overlay whiteouts), so its directory means the same in every image.
//!
//! **Crash safety.** A layer is written in `temp`, its file system is synchronised once, and only then
//! is it renamed: a name in `layers` is a promise. An image exists from the moment `images.json` is
//! renamed, and by then all it needs is durable. Everything else is found by garbage collection.
//!
//! **Reference counting** is by recomputation: a layer is used if an image, a root file system, a view
//! or a running pull ([`Lease`]) names it. Nothing is stored that could get out of step.
//!
//! Locks: `index` is held across small file writes and taken from blocking threads only; readers use
//! `published`, which is replaced as a whole. `leases` is inside it.
//! `sweeping` is outermost and lets one garbage collection run at a time.

mod changes;
mod drafts;
pub(crate) mod files;
mod gc;
mod names;
mod places;
mod roots;
mod usage;
pub(crate) mod v1;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;
use crate::error::{OpenError, StoreError};
use crate::fault;
use crate::image::{Image, PinnedPatterns};
use crate::image_config;
use crate::kind::FileError;
use files::{make_private, random_name, replace};
use v1::{ImageList, ImageRecord, LayerRecord, RootRecord};

pub use gc::Collected;
pub(crate) use names::Names;
pub(crate) use roots::RootKind;
pub use usage::DiskUsage;

/// The opened store. All methods may block and belong on a blocking thread, but for
/// [`Store::published`] and what says so.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) dirs: Dirs,
    pinned: PinnedPatterns,
    index: Mutex<Index>,
    published: RwLock<Arc<Names>>,
    leases: Mutex<Leases>,
    sweeping: Mutex<()>,
    _lock: File,
}

/// Where things are.
#[derive(Debug)]
pub(crate) struct Dirs {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
}

#[derive(Debug, Default)]
struct Index {
    images: BTreeMap<Digest, ImageRecord>,
    layers: HashMap<Digest, LayerRecord>,
    roots: BTreeMap<(RootKind, String), RootRecord>,
}

/// What running work needs, by how many users.
#[derive(Debug, Default)]
struct Leases {
    digests: HashMap<Digest, usize>,
    temporary: HashSet<PathBuf>,
}

/// An image to be stored; its layers are in the store already and leased.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
}

impl Dirs {
    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    fn images_file(&self) -> PathBuf {
        self.root.join("images.json")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("temp").join(random_name())
    }
}

const ROOT_DIRECTORIES: [&str; 6] = ["blobs", "layers", "partial", "containers", "views", "temp"];

impl Store {
    /// Opens or makes a store, and removes what an earlier process left half-made.
    pub(crate) fn open(root: &Path, run: &Path, pinned: &[String]) -> Result<Arc<Self>, OpenError> {
        let dirs = Dirs {
            root: root.to_owned(),
            run: run.to_owned(),
        };
        let prepare = || -> Result<(), StoreError> {
            make_private(root)?;
            for name in ROOT_DIRECTORIES {
                make_private(&root.join(name))?;
            }
            make_private(&run.join("rootfs"))?;
            make_private(&run.join("views"))?;
            places::prepare(&dirs)?;
            Ok(())
        };
        prepare()?;
        let lock = lock(&root.join("lock"))?;
        let index = load(&dirs)?;
        let store = Arc::new(Self {
            dirs,
            pinned: PinnedPatterns::new(pinned),
            index: Mutex::new(index),
            published: RwLock::default(),
            leases: Mutex::default(),
            sweeping: Mutex::default(),
            _lock: lock,
        });
        store.publish(&store.lock_index());
        if let Err(error) = store.collect_garbage() {
            // Leftovers cost space; a store that does not open costs the node.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cleaning up at start"
            );
        }
        Ok(store)
    }

    /// The images as of now. Never blocks on I/O.
    pub(crate) fn published(&self) -> Arc<Names> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn lock_index(&self) -> MutexGuard<'_, Index> {
        // A panic while holding the lock leaves the index as it was on disk or one step ahead of it,
        // and every step is repeatable.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, index: &Index) {
        let mut images = Vec::with_capacity(index.images.len());
        for record in index.images.values() {
            match self.describe(index, record) {
                Ok(image) => images.push(Arc::new(image)),
                Err(error) => tracing::warn!(image = %record.id,
                    error = &error as &dyn std::error::Error,
                    "an image is not usable and not listed; pulling it again repairs it"),
            }
        }
        let names = Arc::new(Names::new(images));
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// What the outside sees of a record. Its layers must all be here.
    fn describe(&self, index: &Index, record: &ImageRecord) -> Result<Image, StoreError> {
        if let Some(known) = self.published().by_id(&record.id) {
            return Ok(known.renamed(record, &self.pinned));
        }
        let path = self.dirs.blob(&record.id);
        let wrong = |reason: &str| StoreError::State {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let bytes = std::fs::read(&path).map_err(FileError::new("reading", &path))?;
        if Digest::of(&bytes) != record.id {
            return Err(wrong("its content does not have its digest"));
        }
        let parsed = image_config::parse(&bytes).map_err(|error| wrong(&error.to_string()))?;
        let mut size = bytes.len() as u64;
        for diff_id in &record.layers {
            let layer = index
                .layers
                .get(diff_id)
                .ok_or_else(|| wrong("a layer is missing"))?;
            size += layer.bytes;
        }
        Ok(Image::new(record, parsed.config, size, &self.pinned))
    }

    /// The manifest that an image was made from, as received.
    pub(crate) fn manifest(&self, id: &Digest) -> Option<Vec<u8>> {
        let digest = self.lock_index().images.get(id)?.manifest?;
        std::fs::read(self.dirs.blob(&digest)).ok()
    }

    /// The directories of an image's layers, topmost first.
    pub(crate) fn layers_of(&self, id: &Digest) -> Vec<PathBuf> {
        let index = self.lock_index();
        let layers = index.images.get(id).into_iter().flat_map(|it| &it.layers);
        let directories = layers.map(|layer| self.dirs.layer(layer).join("diff"));
        directories.rev().collect()
    }

    /// Whether a layer is here, complete.
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.lock_index().layers.contains_key(diff_id)
    }

    /// Stores an image whose layers are all here, moves its tags to it and publishes it.
    pub(crate) fn commit(&self, new: NewImage) -> Result<Arc<Image>, StoreError> {
        let id = Digest::of(&new.config);
        let path = self.dirs.blob(&id);
        let parsed = image_config::parse(&new.config).map_err(|error| StoreError::State {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let manifest = new.manifest.as_deref().map(Digest::of);
        let mut index = self.lock_index();
        replace(&path, &new.config)?;
        if let (Some(digest), Some(bytes)) = (manifest, &new.manifest) {
            replace(&self.dirs.blob(&digest), bytes)?;
        }
        fault::point("image.keep.blobs")?;
        let mut images = index.images.clone();
        for other in images.values_mut().filter(|other| other.id != id) {
            other.tags.retain(|tag| !new.tags.contains(tag));
            other.digests.retain(|digest| !new.digests.contains(digest));
        }
        let record = images.entry(id).or_insert_with(|| ImageRecord {
            id,
            manifest,
            layers: parsed.diff_ids.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            stored_at: jiff::Timestamp::now().as_second(),
        });
        record.manifest = manifest.or(record.manifest);
        add_new(&mut record.tags, new.tags);
        add_new(&mut record.digests, new.digests);
        self.save(&mut index, images)?;
        drop(index);
        self.published().by_id(&id).ok_or(StoreError::State {
            path,
            reason: "the image is not usable although it was just stored".to_owned(),
        })
    }

    /// Makes a change of the image list durable, then visible.
    fn save(
        &self,
        index: &mut Index,
        images: BTreeMap<Digest, ImageRecord>,
    ) -> Result<(), StoreError> {
        if images == index.images && self.published().covers(&images) {
            return Ok(());
        }
        let list = ImageList {
            images: images.values().cloned().collect(),
        };
        replace(&self.dirs.images_file(), &v1::encode(&list))?;
        fault::mark("image.keep.listed");
        index.images = images;
        self.publish(index);
        Ok(())
    }

    /// Removes an image and all its names; its layers go once nothing else uses them.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), StoreError> {
        let mut index = self.lock_index();
        let mut images = index.images.clone();
        if images.remove(id).is_none() {
            return Ok(());
        }
        self.save(&mut index, images)?;
        drop(index);
        fault::mark("image.remove.listed");
        self.collect_garbage().map(drop)
    }
}

fn add_new(known: &mut Vec<String>, new: Vec<String>) {
    for name in new {
        if !known.contains(&name) {
            known.push(name);
        }
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let open = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path);
    let file = open
        .map_err(FileError::new("opening", path))
        .map_err(StoreError::from)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked(path.to_owned()))?;
    Ok(file)
}

fn load(dirs: &Dirs) -> Result<Index, StoreError> {
    let mut index = Index::default();
    let path = dirs.images_file();
    if let Some(bytes) = files::read_optional(&path)? {
        let list: ImageList = v1::decode(&path, &bytes)?;
        index.images = list
            .images
            .into_iter()
            .map(|image| (image.id, image))
            .collect();
    }
    for name in files::names(&dirs.root.join("layers"))? {
        let Ok(diff_id) = Digest::from_hex(&name) else {
            continue;
        };
        let layer = dirs.layer(&diff_id);
        match read_record::<LayerRecord>(&layer.join("layer.json")) {
            Ok(Some(record)) if layer.join("diff").is_dir() => {
                index.layers.insert(diff_id, record);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a damaged layer will be removed"
            ),
        }
    }
    roots::load(dirs, &mut index.roots)?;
    Ok(index)
}

fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match files::read_optional(path)? {
        Some(bytes) => v1::decode(path, &bytes).map(Some),
        None => Ok(None),
    }
}
