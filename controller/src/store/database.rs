//! The database's file: its tables, what is in them, and changes.
//!
//! Deliberately absent: who waits for a change, and which changes share a transaction (`mod.rs`).

use std::path::Path;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::v1::Packed;
use super::{Loaded, StoreError};

/// The version of the layout and of the records.
pub(super) const VERSION: &str = "1";
/// redb's own default cache is a gigabyte. A write needs few pages, which the kernel has anyway, and
/// nothing else is read once the daemon runs.
const CACHE_BYTES: usize = 16 * 1024;

pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const PODS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pods");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    PutPod(String, Vec<u8>),
    PutContainer(String, Vec<u8>),
    DeletePod(String),
    DeleteContainer(String),
    PutMeta(&'static str, String),
}

/// Opens or makes the file.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    let opened = builder.set_cache_size(CACHE_BYTES).create(path);
    opened.map_err(|source| {
        if matches!(source, redb::DatabaseError::DatabaseAlreadyOpen) {
            return StoreError::InUse(path.to_owned());
        }
        failed("opening", path)(source)
    })
}

/// Makes the tables that are missing, and refuses those of another version.
pub(super) fn prepare(database: &Database, path: &Path) -> Result<(), StoreError> {
    match make_tables(database).map_err(failed("preparing", path))? {
        None => Ok(()),
        Some(found) => Err(StoreError::Version {
            path: path.to_owned(),
            found,
        }),
    }
}

/// Answers the version that is there, if it is not ours; nothing is changed then.
fn make_tables(database: &Database) -> Result<Option<String>, redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("version")?.map(|value| value.value().to_owned());
        match found {
            Some(version) if version != VERSION => return Ok(Some(version)),
            Some(_) => {}
            None => {
                meta.insert("version", VERSION)?;
            }
        }
        transaction.open_table(PODS)?;
        transaction.open_table(CONTAINERS)?;
    }
    transaction.commit()?;
    Ok(None)
}

/// Everything in it.
pub(super) fn load(database: &Database, path: &Path) -> Result<Loaded, StoreError> {
    let transaction = database.begin_read().map_err(failed("reading", path))?;
    let meta = transaction
        .open_table(META)
        .map_err(failed("reading", path))?;
    let boot_id = meta
        .get("boot_id")
        .map_err(failed("reading", path))?
        .map(|value| value.value().to_owned());
    let pods = transaction
        .open_table(PODS)
        .map_err(failed("reading", path))?;
    let containers = transaction
        .open_table(CONTAINERS)
        .map_err(failed("reading", path))?;
    Ok(Loaded {
        pods: decode_all(&pods, path)?,
        containers: decode_all(&containers, path)?,
        boot_id,
    })
}

fn decode_all<R: Message + Default + Packed>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    path: &Path,
) -> Result<Vec<R>, StoreError> {
    let mut records = Vec::new();
    for entry in table.iter().map_err(failed("reading", path))? {
        let (key, value) = entry.map_err(failed("reading", path))?;
        let record = R::decode(value.value());
        let whole = record.and_then(|record: R| record.check().map(|()| record));
        records.push(whole.map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            key: key.value().to_owned(),
            cause: source.to_string(),
        })?);
    }
    Ok(records)
}

/// Makes the changes, all or none.
pub(super) fn apply<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), redb::Error> {
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

/// The database's errors, of whichever type, as ours.
pub(super) fn failed<E: Into<redb::Error>>(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |source| {
        let source = source.into();
        let kind = if let redb::Error::Io(source) = &source {
            Some(source.kind())
        } else {
            None
        };
        StoreError::Database {
            operation,
            path,
            cause: source.to_string(),
            kind,
        }
    }
}
