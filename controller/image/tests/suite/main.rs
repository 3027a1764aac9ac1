//! The crate as its callers use it, against real files, mounts and registries. One program, because
//! each one would be linked for itself.

#[cfg(test)]
mod common;
#[cfg(test)]
mod pull;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod store;
