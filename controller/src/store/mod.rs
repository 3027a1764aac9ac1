//! The controller's memory: which pods and containers there are, on disk, crash-safe.
//!
//! One redb file. A single thread writes and puts what queued up meanwhile into one transaction,
//! so that many pods starting at once share their disk flushes. A call returns when its change is
//! durable.
//!
//! Deliberately absent: any rule about states; anything the monitors, the image store or the
//! network's cache already keep.

pub mod v1;

use std::path::{Path, PathBuf};

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use v1::{ContainerRecord, PodRecord};

use crate::fault;

/// The version of the layout and of the records.
const VERSION: &str = "1";
/// redb's own default cache is a gigabyte; the records of a full node fit into this.
const CACHE_BYTES: usize = 256 * 1024;
/// Writes that may wait; more make their callers wait.
const QUEUE: usize = 256;

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const PODS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pods");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// Why the state could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refused; its words are in `cause`, for it has no errors that can be shared.
    #[error("{operation} of {path}: {cause}")]
    Database {
        /// What was attempted.
        operation: &'static str,
        /// The database file.
        path: PathBuf,
        /// The database's own words.
        cause: String,
    },
    /// Another process has the file open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A record does not decode.
    #[error("record {key} in {path} is damaged: {cause}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The record's id.
        key: String,
        /// What does not decode.
        cause: String,
    },
    /// Written by another version.
    #[error("{path} has layout version {found}; this program reads version {VERSION}")]
    Version {
        /// The database file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The writing thread is gone.
    #[error("{path} is closed")]
    Closed {
        /// The database file.
        path: PathBuf,
    },
}

/// One change.
#[derive(Debug)]
enum Change {
    PutPod(String, Vec<u8>),
    PutContainer(String, Vec<u8>),
    DeletePod(String),
    DeleteContainer(String),
    PutMeta(&'static str, String),
}

#[derive(Debug)]
struct Write {
    change: Change,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Everything that was kept.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All pods, by id.
    pub pods: Vec<PodRecord>,
    /// All containers, by id.
    pub containers: Vec<ContainerRecord>,
    /// The kernel's boot id when the state was last in use.
    pub boot_id: Option<String>,
}

/// A handle to the database; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    writes: mpsc::Sender<Write>,
}

impl Store {
    /// Opens or makes the database and reads everything in it.
    ///
    /// # Errors
    /// When the file cannot be opened (also: another controller has it), is of another version, or
    /// holds a record that does not decode.
    pub fn open(path: &Path) -> Result<(Self, Loaded), StoreError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|source| {
                if matches!(source, redb::DatabaseError::DatabaseAlreadyOpen) {
                    return StoreError::InUse(path.to_owned());
                }
                database_error("opening", path, &source)
            })?;
        prepare(&database, path)?;
        let loaded = load(&database, path)?;
        let (writes, queue) = mpsc::channel(QUEUE);
        let thread_path = path.to_owned();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write_loop(&database, &thread_path, queue))
            .map_err(|source| database_error("starting the writer", path, &source))?;
        let store = Self {
            path: path.to_owned(),
            writes,
        };
        Ok((store, loaded))
    }

    /// Keeps a pod.
    ///
    /// # Errors
    /// When the write does not reach the disk.
    pub async fn put_pod(&self, record: &PodRecord) -> Result<(), StoreError> {
        self.write(Change::PutPod(record.id.clone(), record.encode_to_vec()))
            .await
    }

    /// Keeps a container.
    ///
    /// # Errors
    /// When the write does not reach the disk.
    pub async fn put_container(&self, record: &ContainerRecord) -> Result<(), StoreError> {
        self.write(Change::PutContainer(
            record.id.clone(),
            record.encode_to_vec(),
        ))
        .await
    }

    /// Forgets a pod; an unknown one is fine.
    ///
    /// # Errors
    /// When the write does not reach the disk.
    pub async fn delete_pod(&self, id: &str) -> Result<(), StoreError> {
        self.write(Change::DeletePod(id.to_owned())).await
    }

    /// Forgets a container; an unknown one is fine.
    ///
    /// # Errors
    /// When the write does not reach the disk.
    pub async fn delete_container(&self, id: &str) -> Result<(), StoreError> {
        self.write(Change::DeleteContainer(id.to_owned())).await
    }

    /// Notes which boot of the kernel the state belongs to.
    ///
    /// # Errors
    /// When the write does not reach the disk.
    pub async fn put_boot_id(&self, boot_id: &str) -> Result<(), StoreError> {
        self.write(Change::PutMeta("boot_id", boot_id.to_owned()))
            .await
    }

    async fn write(&self, change: Change) -> Result<(), StoreError> {
        let closed = || StoreError::Closed {
            path: self.path.clone(),
        };
        let refused = |source| database_error("writing", &self.path, &source);
        fault::io("store.write").map_err(refused)?;
        let (done, written) = oneshot::channel();
        self.writes
            .send(Write { change, done })
            .await
            .map_err(|_| closed())?;
        written.await.map_err(|_| closed())??;
        fault::mark("store.written");
        Ok(())
    }
}

fn database_error(
    operation: &'static str,
    path: &Path,
    source: &dyn std::error::Error,
) -> StoreError {
    StoreError::Database {
        operation,
        path: path.to_owned(),
        cause: source.to_string(),
    }
}

/// Makes the tables and checks the version.
fn prepare(database: &Database, path: &Path) -> Result<(), StoreError> {
    let fail = |source: &dyn std::error::Error| database_error("preparing", path, source);
    let transaction = database.begin_write().map_err(|e| fail(&e))?;
    {
        let mut meta = transaction.open_table(META).map_err(|e| fail(&e))?;
        let found = meta
            .get("version")
            .map_err(|e| fail(&e))?
            .map(|value| value.value().to_owned());
        match found {
            Some(version) if version != VERSION => {
                return Err(StoreError::Version {
                    path: path.to_owned(),
                    found: version,
                });
            }
            Some(_) => {}
            None => {
                meta.insert("version", VERSION).map_err(|e| fail(&e))?;
            }
        }
        transaction.open_table(PODS).map_err(|e| fail(&e))?;
        transaction.open_table(CONTAINERS).map_err(|e| fail(&e))?;
    }
    transaction.commit().map_err(|e| fail(&e))
}

fn load(database: &Database, path: &Path) -> Result<Loaded, StoreError> {
    let fail = |source: &dyn std::error::Error| database_error("reading", path, source);
    let transaction = database.begin_read().map_err(|e| fail(&e))?;
    let meta = transaction.open_table(META).map_err(|e| fail(&e))?;
    let boot_id = meta
        .get("boot_id")
        .map_err(|e| fail(&e))?
        .map(|value| value.value().to_owned());
    let pods = transaction.open_table(PODS).map_err(|e| fail(&e))?;
    let containers = transaction.open_table(CONTAINERS).map_err(|e| fail(&e))?;
    Ok(Loaded {
        pods: decode_all(&pods, path)?,
        containers: decode_all(&containers, path)?,
        boot_id,
    })
}

fn decode_all<R: Message + Default>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    path: &Path,
) -> Result<Vec<R>, StoreError> {
    let fail = |source: &dyn std::error::Error| database_error("reading", path, source);
    let mut records = Vec::new();
    for entry in table.iter().map_err(|e| fail(&e))? {
        let (key, value) = entry.map_err(|e| fail(&e))?;
        let record = R::decode(value.value()).map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            key: key.value().to_owned(),
            cause: source.to_string(),
        })?;
        records.push(record);
    }
    Ok(records)
}

/// Takes writes until every handle is gone; what has queued up goes into one transaction.
fn write_loop(database: &Database, path: &Path, mut queue: mpsc::Receiver<Write>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while let Ok(write) = queue.try_recv() {
            batch.push(write);
        }
        let outcome = apply(database, batch.iter().map(|write| &write.change))
            .map_err(|source| database_error("writing", path, source.as_ref()));
        for write in batch {
            // A caller that no longer waits lost only the news.
            let _ = write.done.send(outcome.clone());
        }
    }
}

fn apply<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), Box<dyn std::error::Error>> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let mut pods = transaction.open_table(PODS)?;
        let mut containers = transaction.open_table(CONTAINERS)?;
        for change in changes {
            match change {
                Change::PutPod(id, bytes) => {
                    pods.insert(id.as_str(), bytes.as_slice())?;
                }
                Change::PutContainer(id, bytes) => {
                    containers.insert(id.as_str(), bytes.as_slice())?;
                }
                Change::DeletePod(id) => {
                    pods.remove(id.as_str())?;
                }
                Change::DeleteContainer(id) => {
                    containers.remove(id.as_str())?;
                }
                Change::PutMeta(key, value) => {
                    meta.insert(*key, value.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
