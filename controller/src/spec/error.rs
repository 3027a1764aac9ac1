//! What can be wrong with a configuration, and what is merely left out.

use std::fmt;

use super::seccomp::ProfileError;
use super::user::UserError;

/// Why a configuration cannot become a spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A field that must be there is not.
    #[error("{field} is required")]
    Missing {
        /// The field, as the CRI names it.
        field: &'static str,
    },
    /// A field's value makes no sense.
    #[error("{field} {value:?} is refused: {reason}")]
    Invalid {
        /// The field, as the CRI names it.
        field: &'static str,
        /// The value, shortened where it is long.
        value: String,
        /// What it should have been.
        reason: &'static str,
    },
    /// A field's value makes sense, but not on this host.
    #[error("{field} {value:?} needs {need}, which this host does not have")]
    Unsupported {
        /// The field, as the CRI names it.
        field: &'static str,
        /// The value, shortened where it is long.
        value: String,
        /// What is missing.
        need: &'static str,
    },
    /// Neither the configuration nor the image says what to run.
    #[error("no command: the container has none, and neither has its image")]
    NoCommand,
    /// The user cannot be resolved.
    #[error("cannot resolve the container's user")]
    User(#[from] UserError),
    /// A seccomp profile cannot be used.
    #[error("cannot use seccomp profile {name:?}")]
    Seccomp {
        /// The profile, as the kubelet names it.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ProfileError,
    },
}

impl SpecError {
    pub(super) fn invalid(field: &'static str, value: &str, reason: &'static str) -> Self {
        Self::Invalid {
            field,
            value: shorten(value),
            reason,
        }
    }

    pub(super) fn unsupported(field: &'static str, value: &str, need: &'static str) -> Self {
        Self::Unsupported {
            field,
            value: shorten(value),
            need,
        }
    }
}

/// Values come from outside; an error that repeats a megabyte of them helps nobody.
fn shorten(value: &str) -> String {
    const LONGEST: usize = 120;
    if value.chars().count() <= LONGEST {
        return value.to_owned();
    }
    let mut short: String = value.chars().take(LONGEST).collect();
    short.push('…');
    short
}

/// Something that was asked for and left out, because this host has no such thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Hugepage limits without the hugetlb controller, or of a size that this host lacks.
    Hugepages {
        /// The page sizes that were left out.
        sizes: Vec<String>,
    },
    /// A swap limit without a kernel that counts swap.
    Swap {
        /// Bytes of memory and swap together.
        limit: i64,
    },
    /// cgroup v2 keys on a cgroup v1 host.
    Unified {
        /// The keys that were left out.
        keys: Vec<String>,
    },
    /// Capabilities that the controller itself does not have.
    Capabilities {
        /// Their names, with `CAP_`.
        names: Vec<String>,
    },
    /// The runtime's default seccomp profile on a kernel without seccomp.
    Seccomp,
    /// The runtime's default AppArmor profile, which is not loaded.
    AppArmor,
    /// `oom_score_adj` below what this process may set.
    OomScoreAdj {
        /// What was asked for.
        wanted: i64,
        /// What is used instead.
        used: i32,
    },
    /// Classes of block I/O or RDT for a container that exists.
    Classes {
        /// What they are called.
        names: Vec<String>,
    },
    /// Entries of an image's environment that are no `KEY=value`.
    ImageEnvironment {
        /// How many were left out.
        count: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hugepages { sizes } => {
                write!(
                    f,
                    "hugepage limits skipped, hugetlb lacks {}",
                    sizes.join(", ")
                )
            }
            Self::Swap { limit } => {
                write!(
                    f,
                    "swap limit {limit} skipped, the kernel does not count swap"
                )
            }
            Self::Unified { keys } => {
                write!(
                    f,
                    "cgroup v2 settings skipped on cgroup v1: {}",
                    keys.join(", ")
                )
            }
            Self::Capabilities { names } => {
                write!(
                    f,
                    "capabilities this daemon lacks were left out: {}",
                    names.join(", ")
                )
            }
            Self::Classes { names } => {
                write!(
                    f,
                    "the container keeps its classes of block I/O and RDT, not changed to {}",
                    names.join(", ")
                )
            }
            Self::Seccomp => f.write_str("seccomp default profile skipped, no seccomp here"),
            Self::AppArmor => f.write_str("AppArmor default profile skipped, none is loaded"),
            Self::OomScoreAdj { wanted, used } => {
                write!(
                    f,
                    "oom_score_adj {wanted} is beyond our rights, {used} used instead"
                )
            }
            Self::ImageEnvironment { count } => {
                write!(
                    f,
                    "{count} entries of the image's environment are no KEY=value"
                )
            }
        }
    }
}
