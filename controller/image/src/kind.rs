//! The classes of failures, and the failure of a file, which every part of the crate may have.
//!
//! Every error of this crate has a `kind()`. Callers that translate errors, such as an RPC layer,
//! decide on that alone and print the source chain for people.

use std::io;
use std::path::{Path, PathBuf};

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text is no image reference, id or usable name.
    InvalidReference,
    /// The image, manifest, layer or mount does not exist.
    NotFound,
    /// The registry wants other credentials than it got, or any.
    Unauthorized,
    /// The registry cannot be reached, fails by itself or stalls.
    Unreachable,
    /// The registry asks to come back later.
    Throttled,
    /// The configuration forbids this registry.
    Blocked,
    /// Content does not have the digest it was asked by.
    DigestMismatch,
    /// The image has nothing for this platform.
    NoPlatform,
    /// A limit of size, count or ratio was reached.
    TooLarge,
    /// Manifest, configuration, archive or layer break their format's rules.
    Malformed,
    /// Correct content of a sort that this crate does not handle.
    Unsupported,
    /// The disk or its quota is full.
    NoSpace,
    /// An abbreviated id stands for several images.
    Ambiguous,
    /// The id is in use for something else.
    InUse,
    /// A file of the configuration cannot be used.
    Configuration,
    /// The host failed in a way that has no class of its own.
    Internal,
}

/// A failed operation on a file of this host.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    /// What was done, as a verb in its -ing form.
    pub operation: &'static str,
    /// What it was done to.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: adds operation and path to an I/O error.
    pub(crate) fn new<E: Into<io::Error>>(
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self {
            operation,
            path: path.as_ref().to_owned(),
            source: source.into(),
        }
    }

    /// [`ErrorKind::NoSpace`] for a full disk, else [`ErrorKind::Internal`].
    pub fn kind(&self) -> ErrorKind {
        io_kind(&self.source)
    }
}

/// A full disk or quota is the one I/O error that users must be told apart.
pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&error.kind()) {
        ErrorKind::NoSpace
    } else {
        ErrorKind::Internal
    }
}
