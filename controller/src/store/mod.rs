//! The controller's memory: which pods and containers there are, on disk, crash-safe.
//!
//! One redb file. A single thread writes and puts what queued up meanwhile into one transaction,
//! so that many pods starting at once share their disk flushes. A call returns when its change is
//! durable.
//!
//! The database refuses every write after one that failed for want of space or for a fault of the
//! disk, until it is opened anew; so the writing thread opens it anew. [`Store::fault`] says why the
//! last write failed, for as long as none has succeeded since.
//!
//! Deliberately absent: any rule about states; anything the monitors, the image store or the
//! network's cache already keep.

mod database;
pub mod v1;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use prost::Message;
use redb::Database;
use tokio::sync::{mpsc, oneshot};

use database::{Change, VERSION, failed};
use v1::{ContainerRecord, PodRecord};

use crate::fault;

/// Writes that may wait; more make their callers wait.
const QUEUE: usize = 256;

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
        /// Of the I/O error below, if there is one.
        kind: Option<io::ErrorKind>,
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
    fault: Fault,
}

/// Why the last write failed; nothing when it did not.
type Fault = Arc<RwLock<Option<StoreError>>>;

impl Store {
    /// Opens or makes the database and reads everything in it.
    ///
    /// # Errors
    /// When the file cannot be opened (also: another controller has it), is of another version, or
    /// holds a record that does not decode.
    pub fn open(path: &Path) -> Result<(Self, Loaded), StoreError> {
        let database = database::open(path)?;
        database::prepare(&database, path)?;
        let loaded = database::load(&database, path)?;
        let (writes, queue) = mpsc::channel(QUEUE);
        let fault = Fault::default();
        let writer = Writer {
            database: Some(database),
            path: path.to_owned(),
            fault: fault.clone(),
        };
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| failed("starting the writer", path)(redb::Error::Io(source)))?;
        let store = Self {
            path: path.to_owned(),
            writes,
            fault,
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

    /// Why the last write failed, while nothing has been written since. Asking has something be
    /// written, so that a disk that is well again is noticed; the answer does not wait for it.
    pub fn fault(&self) -> Option<StoreError> {
        let fault = self.fault.read().unwrap_or_else(PoisonError::into_inner);
        let fault = fault.clone()?;
        let (done, _nobody_waits) = oneshot::channel();
        let change = Change::PutMeta("probe", String::new());
        // A full queue is as good: what is in it is written, too.
        let _ = self.writes.try_send(Write { change, done });
        Some(fault)
    }

    async fn write(&self, change: Change) -> Result<(), StoreError> {
        let closed = || StoreError::Closed {
            path: self.path.clone(),
        };
        let refused = |source| failed("writing", &self.path)(redb::Error::Io(source));
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

/// The thread that writes.
struct Writer {
    /// Nothing after a failure, until it is opened anew.
    database: Option<Database>,
    path: PathBuf,
    fault: Fault,
}

impl Writer {
    /// Takes writes until every handle is gone; what has queued up goes into one transaction.
    fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while let Ok(write) = queue.try_recv() {
                batch.push(write);
            }
            let outcome = self.write(batch.iter().map(|write| &write.change));
            let fault = outcome.as_ref().err().cloned();
            *self.fault.write().unwrap_or_else(PoisonError::into_inner) = fault;
            for write in batch {
                // A caller that no longer waits lost only the news.
                let _ = write.done.send(outcome.clone());
            }
        }
    }

    fn write<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => database::open(&self.path)?,
        };
        database::apply(&database, changes).map_err(failed("writing", &self.path))?;
        self.database = Some(database);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
