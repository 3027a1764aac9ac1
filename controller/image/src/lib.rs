//! OCI images on a node: from a reference to a mounted root file system.
//!
//! ```text
//!  reference ──▶ registries ──▶ registry ──▶ partial/ ──▶ layer (unpack) ──▶ store ──▶ overlay mount
//!   (pure)        (pure)        (network)                    ▲
//!                              import (files) ───────────────┘
//! ```
//! [`Images`] is the door; the modules behind it own one step each. This crate knows nothing of pods,
//! containers' processes or any RPC: a container is an id with a writable directory.
//!
//! Invariants:
//! - Everything that comes from a registry or archive is untrusted until its digest is verified, and
//!   its content is untrusted for good.
//! - What [`Images::list`] shows is complete and durable. A crash at any moment leaves the old list or
//!   the new one.
//! - Callers that ask for the same thing at the same time share the work, and a caller that goes away
//!   does not disturb the others.
//! - No blocking work on async threads.

mod checkpoint;
mod config;
mod credentials;
mod digest;
mod error;
mod failure;
mod fault;
#[cfg(fuzzing)]
pub mod fuzz;
mod idmap;
mod image;
mod image_config;
mod images;
mod import;
mod kind;
mod layer;
mod locks;
mod manifest;
mod mount;
mod platform;
mod progress;
mod pull;
mod reference;
mod registries;
mod registry;
mod store;
mod workers;

pub use config::{Config, Limits};
pub use credentials::{AuthFieldError, AuthFields, Credentials};
pub use digest::{Digest, DigestError};
pub use error::{FindError, OpenError, RemoveError, RootfsError, StoreError};
pub use failure::{Cause, ImportError, PullError};
pub use idmap::{IdMap, Owner};
pub use image::Image;
pub use image_config::ImageConfig;
pub use images::{Images, Rootfs, RootfsOptions, Usage};
pub use kind::{ErrorKind, FileError};
pub use layer::LayerError;
pub use manifest::ManifestError;
pub use platform::{Platform, PlatformError};
pub use progress::{LayerPhase, Progress, ProgressEvent, Silent};
pub use reference::{DEFAULT_REGISTRY, Name, Reference, ReferenceError};
pub use registries::{Blocked, Registries, RegistriesError};
pub use registry::RegistryError;
pub use store::{Collected, DiskUsage};
