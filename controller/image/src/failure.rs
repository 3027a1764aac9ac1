//! Why a pull or an import failed.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::kind::{ErrorKind, FileError};
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reference::ReferenceError;
use crate::registries::{Blocked, RegistriesError};
use crate::registry::RegistryError;

/// A failed pull. It is shared by all callers that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("pulling image {reference}")]
pub struct PullError {
    /// What was asked for.
    pub reference: String,
    /// What went wrong.
    #[source]
    pub cause: std::sync::Arc<Cause>,
}

impl PullError {
    pub(crate) fn new(reference: impl ToString, cause: impl Into<Cause>) -> Self {
        Self {
            reference: reference.to_string(),
            cause: std::sync::Arc::new(cause.into()),
        }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }
}

/// A failed import.
#[derive(Debug, thiserror::Error)]
#[error("importing {}", path.display())]
pub struct ImportError {
    /// The archive or directory.
    pub path: PathBuf,
    /// What went wrong.
    #[source]
    pub cause: Cause,
}

impl ImportError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }
}

/// What goes wrong on the way from a registry or archive to the store.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The name cannot be used.
    #[error("{text:?} is not an image reference")]
    Reference {
        /// The name.
        text: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// The configuration forbids it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The registry configuration cannot be used.
    #[error("reading the registry configuration")]
    Registries(#[from] RegistriesError),
    /// A registry failed or refused. `earlier` tells what was tried before.
    #[error("fetching from {}{}", endpoint, earlier_text(earlier))]
    Registry {
        /// The server and what it was asked for.
        endpoint: String,
        /// Mirrors that failed before, with the reason.
        earlier: Vec<String>,
        /// The last failure.
        #[source]
        source: Box<RegistryError>,
    },
    /// The manifest cannot be used.
    #[error("manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The index has nothing for this machine.
    #[error("there is no image for platform {wanted}, only for: {offered}")]
    NoPlatform {
        /// This machine's platform.
        wanted: Platform,
        /// What there is.
        offered: String,
    },
    /// The configuration cannot be used.
    #[error("image configuration {digest}: {reason}")]
    Config {
        /// The configuration.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer cannot be used.
    #[error("layer {digest}")]
    Layer {
        /// The layer, by its digest in the manifest or its diffID.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// Something is not what its name says.
    #[error("{what}: expected {expected}, got {actual}")]
    Digest {
        /// What was read.
        what: String,
        /// What it is called by.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Something is larger than allowed.
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A short name, and no registry that it may be in.
    #[error("no registry is configured to search for it")]
    NoCandidate,
    /// An archive that is not as expected.
    #[error("{0}")]
    Archive(String),
    /// Reading an archive failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Writing the store failed.
    #[error("writing to the image store")]
    Store(#[from] StoreError),
}

impl Cause {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } => ErrorKind::InvalidReference,
            Self::Blocked(_) => ErrorKind::Blocked,
            Self::Registries(_) | Self::NoCandidate => ErrorKind::Configuration,
            Self::Registry { source, .. } => source.kind(),
            Self::Manifest { source, .. } => match source {
                ManifestError::Schema(_)
                | ManifestError::NotAnImage(_)
                | ManifestError::Layer { .. } => ErrorKind::Unsupported,
                ManifestError::Json(_)
                | ManifestError::Both
                | ManifestError::Neither
                | ManifestError::TooMany { .. } => ErrorKind::Malformed,
            },
            Self::NoPlatform { .. } => ErrorKind::NoPlatform,
            Self::Config { .. } | Self::Archive(_) => ErrorKind::Malformed,
            Self::Layer { source, .. } => source.kind(),
            Self::Digest { .. } => ErrorKind::DigestMismatch,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::File(source) if source.source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::File(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}

fn earlier_text(earlier: &[String]) -> String {
    if earlier.is_empty() {
        String::new()
    } else {
        format!(" (before: {})", earlier.join("; "))
    }
}
