//! System call filters: the runtime's default profile as data, and local profiles as JSON.
//!
//! The default profile lists what is allowed. A known call that needs a capability which the
//! container lacks answers EPERM, as the kernel itself would. Any other call answers ENOSYS, so
//! that a C library which tries a call newer than this list falls back instead of failing.
//!
//! Local profiles come in the format that Docker made common: the OCI fields, and beside them
//! `archMap`, and `includes` and `excludes` per rule.

use std::path::PathBuf;

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp};

use super::facts::KernelVersion;

mod local;
mod runtime_default;

pub use local::ProfileError;

/// A loaded profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompProfile {
    /// No filter.
    Unconfined,
    /// The profile of this module.
    RuntimeDefault,
    /// A profile from a file of the node.
    Localhost {
        /// Its path, for messages.
        name: String,
        /// The file's content.
        json: Vec<u8>,
    },
}

/// What a container asks for, before a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompRequest {
    /// No filter.
    Unconfined,
    /// The profile of this module.
    RuntimeDefault,
    /// A file of the node, by its absolute path.
    Localhost(PathBuf),
}

/// Processor families that the default profile knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86, with its 32-bit and x32 calls.
    X86_64,
    /// 64-bit ARM, with its 32-bit calls.
    Aarch64,
}

impl Architecture {
    /// The family's name in the `archMap` and `includes.arches` of local profiles.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::X86_64 => ["amd64", "x86_64"],
            Self::Aarch64 => ["arm64", "aarch64"],
        }
    }

    fn filters(self) -> Vec<Arch> {
        match self {
            Self::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            Self::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        }
    }
}

/// What the rules of a profile may depend on.
#[derive(Debug, Clone, Copy)]
pub struct ProfileContext<'a> {
    /// The container's bounding set.
    pub capabilities: &'a [Capability],
    /// The processor family.
    pub architecture: Architecture,
    /// The running kernel.
    pub kernel: KernelVersion,
}

/// The runtime's default profile for one container.
#[must_use]
pub fn runtime_default(context: &ProfileContext<'_>) -> LinuxSeccomp {
    runtime_default::build(context)
}

/// Reads a local profile for one container.
///
/// # Errors
/// JSON that is no profile, and profiles that ask for what we do not offer.
pub fn localhost(json: &[u8], context: &ProfileContext<'_>) -> Result<LinuxSeccomp, ProfileError> {
    local::build(json, context)
}
