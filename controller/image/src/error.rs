//! What goes wrong with the store, and with images and root file systems in it. What goes wrong with
//! bringing an image there is in `failure`.

use std::io;
use std::path::PathBuf;

use crate::kind::{ErrorKind, FileError, io_kind};
use crate::layer::LayerError;

/// Why the state of the store could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A state file is damaged or of a version that this program does not know.
    #[error("state file {} cannot be used: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The blocking worker was cancelled because the program ends.
    #[error("the program is shutting down")]
    Stopped,
}

impl StoreError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::State { .. } | Self::Stopped => ErrorKind::Internal,
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state could not be read.
    #[error("opening the image store")]
    Store(#[from] StoreError),
    /// Another process has the store open.
    #[error("image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The registry configuration cannot be used.
    #[error("reading the registry configuration")]
    Registries(#[from] crate::registries::RegistriesError),
    /// The configured platform is none.
    #[error("the configured platform cannot be used")]
    Platform(#[from] crate::platform::PlatformError),
}

impl OpenError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Locked(_) => ErrorKind::InUse,
            Self::Registries(_) | Self::Platform(_) => ErrorKind::Configuration,
        }
    }
}

/// Why an image was not found by name.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The text is neither an id nor a reference.
    #[error("{reference:?} is neither an image id nor a reference")]
    InvalidReference {
        /// The text.
        reference: String,
        /// What is wrong with it as a reference.
        #[source]
        source: crate::reference::ReferenceError,
    },
    /// An abbreviated id that fits several images.
    #[error("image id {prefix:?} is ambiguous: {count} images begin with it")]
    Ambiguous {
        /// The abbreviated id.
        prefix: String,
        /// How many images have such an id.
        count: usize,
    },
}

impl FindError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } => ErrorKind::InvalidReference,
            Self::Ambiguous { .. } => ErrorKind::Ambiguous,
        }
    }
}

/// Why an image could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The name says nothing or too much.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The state could not be written.
    #[error("removing image {id}")]
    Store {
        /// The image.
        id: String,
        /// The cause.
        #[source]
        source: StoreError,
    },
}

impl RemoveError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Store { source, .. } => source.kind(),
        }
    }
}

/// Why a root file system or image view could not be provided or taken away.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// No image has this id.
    #[error("image {0} does not exist")]
    NoImage(String),
    /// No root file system or view has this id.
    #[error("{0} has no root file system here")]
    NoRootfs(String),
    /// The id cannot be the name of a directory.
    #[error("{0:?} cannot be used as an id: letters, digits, '-', '_' and '.' only")]
    InvalidId(String),
    /// The id already stands for the root file system of another image.
    #[error("{id} already has a root file system, of image {image}")]
    InUse {
        /// The container's or mount's id.
        id: String,
        /// The image it was made from.
        image: String,
    },
    /// The user namespace that it is for is not given, or ended with a reboot.
    #[error("the root file system of {0} is for a user namespace that is gone")]
    NoUserNamespace(String),
    /// The kernel refused the mount, or the unmount.
    #[error("{operation} {}", path.display())]
    Mount {
        /// What was done.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The changes that it was to begin with cannot be unpacked.
    #[error("unpacking the changes in {}", path.display())]
    Changes {
        /// Their archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// A file or the state could not be changed.
    #[error("preparing the root file system of {id}")]
    Store {
        /// The container's or mount's id.
        id: String,
        /// The cause.
        #[source]
        source: StoreError,
    },
}

impl RootfsError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoImage(_) | Self::NoRootfs(_) | Self::NoUserNamespace(_) => ErrorKind::NotFound,
            Self::InvalidId(_) => ErrorKind::InvalidReference,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::Mount { source, .. } => io_kind(source),
            Self::Changes { source, .. } => source.kind(),
            Self::Store { source, .. } => source.kind(),
        }
    }
}
