//! From a compressed tar stream to a directory that overlayfs can use as a lower layer.
//!
//! ```text
//!   file ──▶ decode thread ──┬──▶ hash thread  ──▶ diffID
//!            (gzip, zstd)    └──▶ this thread  ──▶ tar entries ──▶ files beneath one directory
//! ```
//! Decompression is the slowest stage, so hashing and writing run beside it, joined by short bounded
//! queues. The stages are plain threads: the caller is a blocking worker already.
//!
//! Security: the layer is hostile. [`root::LayerRoot`] is the only code that touches the file system
//! and reaches nothing outside the layer's directory. Sizes are capped here, in [`decode`].
//! Deliberately absent: layers below this one. A layer is unpacked without looking at its parents,
//! so it can be unpacked in parallel and shared by every image that has it.

mod apply;
mod decode;
mod pax;
mod root;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::kind::{ErrorKind, io_kind};

pub(crate) use decode::decompress;

/// Bounds on what one layer, and all layers of one image, may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnpackLimits {
    /// Uncompressed bytes of one layer.
    pub layer: u64,
    /// Uncompressed size divided by compressed size.
    pub ratio: u64,
    /// Uncompressed bytes from which on the ratio is looked at.
    pub ratio_grace: u64,
    /// Entries of one layer.
    pub entries: u64,
}

/// What the layers of one image may still unpack to, shared by its parallel workers.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(bytes)))
    }

    /// Takes bytes off; false when fewer are left.
    fn take(&self, bytes: u64) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }
}

/// One unpack job.
pub(crate) struct Source {
    /// The layer as stored or sent: plain, gzip or zstd.
    pub(crate) reader: Box<dyn Read + Send>,
    /// Its size, for the compression ratio.
    pub(crate) compressed: u64,
    /// What the image's configuration says the uncompressed layer's digest is; nothing where the
    /// archive belongs to no image.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) limits: UnpackLimits,
    pub(crate) budget: Arc<Budget>,
    /// Told about uncompressed bytes as they are written.
    pub(crate) progress: Box<dyn Fn(u64) + Send>,
}

/// What an unpacked layer occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of file content.
    pub(crate) bytes: u64,
    /// Files, directories, links and nodes.
    pub(crate) inodes: u64,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer breaks a rule of its format, or tries to leave its directory.
    #[error("layer entry {path:?}: {reason}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The tar or compression stream is damaged.
    #[error("reading the layer's archive")]
    Archive(#[source] io::Error),
    /// A limit was reached.
    #[error("layer is larger than allowed: {0}")]
    TooLarge(String),
    /// The content is not what the image's configuration names.
    #[error("layer unpacks to {actual}, but the image's configuration says {expected}")]
    DiffId {
        /// From the configuration.
        expected: Digest,
        /// Of the content.
        actual: Digest,
    },
    /// The host's file system refused something.
    #[error("{operation} {path:?} of the layer")]
    Write {
        /// What was done.
        operation: &'static str,
        /// The entry's name.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl LayerError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Entry { .. } | Self::Archive(_) => ErrorKind::Malformed,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::DiffId { .. } => ErrorKind::DigestMismatch,
            Self::Write { source, .. } => io_kind(source),
        }
    }
}

/// Unpacks an archive that belongs to no image, under the rules of layers, into an existing empty
/// directory.
pub(crate) fn unpack_foreign(
    file: File,
    limits: UnpackLimits,
    directory: &Path,
) -> Result<Unpacked, LayerError> {
    let metadata = file.metadata().map_err(LayerError::Archive)?;
    let source = Source {
        reader: Box::new(file),
        compressed: metadata.len(),
        diff_id: None,
        limits,
        budget: Budget::new(limits.layer),
        progress: Box::new(|_| {}),
    };
    unpack(source, directory)
}

/// Unpacks a layer into an existing empty directory and verifies its diffID.
///
/// Nothing is synchronised to disk here: the store does that once per layer, before the layer gets
/// its final name.
pub(crate) fn unpack(source: Source, directory: &Path) -> Result<Unpacked, LayerError> {
    let root = File::open(directory).map_err(|source| LayerError::Write {
        operation: "opening",
        path: directory.display().to_string(),
        source,
    })?;
    let expected = source.diff_id;
    let limits = source.limits;
    std::thread::scope(|scope| {
        let stream = decode::start(scope, source)?;
        let applied = apply::apply(stream.reader, root::LayerRoot::new(root.into()), limits);
        stream.abandoned.store(applied.is_err(), Ordering::Relaxed);
        let decoded = stream.outcome.join().unwrap_or_else(|_| Err(stopped()));
        // The stream's own failure explains the damaged archive that the reader saw.
        let actual = decoded?;
        let unpacked = applied?;
        match expected {
            Some(expected) if actual != expected => Err(LayerError::DiffId { expected, actual }),
            Some(_) | None => Ok(unpacked),
        }
    })
}

fn stopped() -> LayerError {
    LayerError::Archive(io::Error::other("a worker thread of the unpacker failed"))
}

#[cfg(test)]
mod tests;
