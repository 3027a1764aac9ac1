//! The kernel, and the only place of the monitor with `unsafe`.
//!
//! Owns: the process's own attributes, the signal descriptor, starting programs, making and
//! pinning namespaces, passing descriptors. Every function takes and gives owned or borrowed
//! descriptors; a raw number never leaves a function of this module.
//!
//! Deliberately absent: anything that waits (that is tokio's), and any knowledge of containers.

pub(crate) mod buffer;
pub(crate) mod clock;
pub(crate) mod fdpass;
pub(crate) mod init;
pub(crate) mod memfd;
pub(crate) mod ns;
pub(crate) mod own;
pub(crate) mod pidfd;
pub(crate) mod pipe;
pub(crate) mod reexec;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod watched;
