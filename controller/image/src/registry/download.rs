//! Large blobs: to a file, resumed where an earlier attempt ended, and verified.
//!
//! The file is not synchronised to disk: whatever a crash leaves of it is hashed again before it is
//! used. Writing and hashing run on a blocking thread, fed by a short queue.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::{Query, Registry, RegistryError, header, http, retry};
use crate::digest::{Digest, Hasher};
use crate::kind::FileError;
use crate::progress::LayerPhase;

/// Pieces on their way from the connection to the file.
const QUEUE: usize = 32;
/// Bytes between two progress events.
const REPORT_EVERY: u64 = 256 << 10;

/// A blob to be fetched into a file.
pub(crate) struct Download<'a> {
    pub(crate) digest: Digest,
    /// Exact size in bytes.
    pub(crate) size: u64,
    /// Where it goes, and where an earlier attempt may lie.
    pub(crate) path: PathBuf,
    pub(crate) report: &'a (dyn Fn(LayerPhase, u64, u64) + Send + Sync),
}

/// What is in the file, and its hash so far.
struct Draft {
    file: File,
    hasher: Hasher,
    length: u64,
}

impl Registry {
    /// Fetches a blob. On success the file holds exactly what the digest names; on failure it may hold
    /// the beginning.
    pub(crate) async fn download(&self, download: &Download<'_>) -> Result<(), RegistryError> {
        match self.attempt_all(download).await {
            // What an earlier attempt left may have been damaged by a crash: once more from the start.
            Err(RegistryError::Digest { .. }) => remove(&download.path).await?,
            other => return other,
        }
        let outcome = self.attempt_all(download).await;
        if matches!(outcome, Err(RegistryError::Digest { .. })) {
            remove(&download.path).await?;
        }
        outcome
    }

    /// Goes on until all is there or nothing has come for several attempts in a row.
    async fn attempt_all(&self, download: &Download<'_>) -> Result<(), RegistryError> {
        let mut draft = open(download).await?;
        let mut fruitless = 0;
        while draft.length < download.size {
            let before = draft.length;
            let (returned, outcome) = self.attempt(draft, download).await?;
            draft = returned;
            fruitless = if draft.length > before {
                0
            } else {
                fruitless + 1
            };
            let error = match outcome {
                _ if draft.length == download.size => break,
                Ok(()) => self.garbage("with a part of the blob"),
                Err(error) => error,
            };
            let may_pass = matches!(
                error,
                RegistryError::Unreachable { .. } | RegistryError::Garbage { .. }
            );
            if !may_pass || fruitless >= retry::ATTEMPTS {
                return Err(error);
            }
            self.pause(fruitless + 1, None, &error).await;
        }
        let actual = draft.hasher.finish();
        if actual == download.digest {
            return Ok(());
        }
        Err(RegistryError::Digest {
            host: self.host().to_owned(),
            what: "a layer",
            expected: download.digest,
            actual,
        })
    }

    /// One request. The draft comes back longer, or empty if the server cannot continue it.
    async fn attempt(
        &self,
        draft: Draft,
        download: &Download<'_>,
    ) -> Result<(Draft, Result<(), RegistryError>), RegistryError> {
        let path = format!("blobs/{}", download.digest);
        let offset = draft.length;
        let query = Query {
            path: &path,
            accept: None,
            offset,
        };
        let response = match self.ask(query).await {
            // The file is of another blob, or the server thinks so.
            Err(RegistryError::Status { status: 416, .. }) if offset > 0 => {
                return Ok((restart(download).await?, Ok(())));
            }
            other => other?,
        };
        if offset > 0 && !continues(&response, offset) {
            let empty = restart(download).await?;
            return self.receive(response, empty, download).await;
        }
        self.receive(response, draft, download).await
    }

    fn garbage(&self, what: &str) -> RegistryError {
        RegistryError::Garbage {
            host: self.host().to_owned(),
            what: what.to_owned(),
        }
    }

    /// Moves one answer's bytes into the file. The draft comes back whatever the connection did.
    async fn receive(
        &self,
        mut response: Response,
        draft: Draft,
        download: &Download<'_>,
    ) -> Result<(Draft, Result<(), RegistryError>), RegistryError> {
        let (to_file, pieces) = mpsc::channel(QUEUE);
        let mut length = draft.length;
        let mut reported = length;
        (download.report)(LayerPhase::Downloading, length, download.size);
        let path = download.path.clone();
        let writer = tokio::task::spawn_blocking(move || write(draft, pieces, &path));
        let outcome = loop {
            let piece = tokio::time::timeout(self.settings.patience, response.chunk()).await;
            let piece = match piece {
                Err(_) => break Err(self.stalled()),
                Ok(Err(source)) => break Err(http::unreachable(self.host(), source)),
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(piece))) => piece,
            };
            length += piece.len() as u64;
            if length > download.size {
                break Err(RegistryError::TooLarge {
                    host: self.host().to_owned(),
                    what: format!("blob {}", download.digest),
                    limit: download.size,
                });
            }
            if length >= reported + REPORT_EVERY || length == download.size {
                reported = length;
                (download.report)(LayerPhase::Downloading, length, download.size);
            }
            // The writer only goes away with an error of its own, which is taken below.
            if to_file.send(piece).await.is_err() {
                break Ok(());
            }
        };
        drop(to_file);
        let written = writer.await.map_err(|_| RegistryError::Stopped)?;
        Ok((written?, outcome))
    }
}

async fn remove(path: &Path) -> Result<(), RegistryError> {
    let path = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("removing", &path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    });
    Ok(removed.await.map_err(|_| RegistryError::Stopped)??)
}

/// Whether an answer begins where the file ends (RFC 9110, section 14.4).
fn continues(response: &Response, offset: u64) -> bool {
    response.status() == StatusCode::PARTIAL_CONTENT
        && header(response, CONTENT_RANGE)
            .is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

fn write(
    mut draft: Draft,
    mut pieces: mpsc::Receiver<Bytes>,
    path: &Path,
) -> Result<Draft, FileError> {
    while let Some(piece) = pieces.blocking_recv() {
        draft
            .file
            .write_all(&piece)
            .map_err(FileError::new("writing", path))?;
        draft.hasher.update(&piece);
        draft.length += piece.len() as u64;
    }
    Ok(draft)
}

/// Opens the file and hashes what is in it.
async fn open(download: &Download<'_>) -> Result<Draft, RegistryError> {
    let (path, size) = (download.path.clone(), download.size);
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    if length > 0 {
        (download.report)(LayerPhase::Verifying, 0, length);
    }
    let opened = tokio::task::spawn_blocking(move || open_blocking(&path, size));
    Ok(opened.await.map_err(|_| RegistryError::Stopped)??)
}

fn open_blocking(path: &Path, size: u64) -> Result<Draft, FileError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options
        .open(path)
        .map_err(FileError::new("opening", path))?;
    let failed = FileError::new("reading", path);
    let read = || -> io::Result<Draft> {
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Draft {
                    file,
                    hasher,
                    length,
                });
            }
            hasher.update(&buffer[..count]);
            length += count as u64;
        }
    };
    read().map_err(failed)
}

/// An empty file instead of what is there.
async fn restart(download: &Download<'_>) -> Result<Draft, RegistryError> {
    let path = download.path.clone();
    let emptied = tokio::task::spawn_blocking(move || -> Result<Draft, FileError> {
        let empty = || -> io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        Ok(Draft {
            file: empty().map_err(FileError::new("emptying", &path))?,
            hasher: Hasher::default(),
            length: 0,
        })
    });
    Ok(emptied.await.map_err(|_| RegistryError::Stopped)??)
}
