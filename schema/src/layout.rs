//! The file descriptors that a monitor is started with and the files under its run directory.
//!
//! Whoever starts a monitor binds both sockets before it executes the program, with mode 0600 in
//! a directory that only root enters. So a client can connect from the moment that the program
//! was executed, and waits in the listen queue until the monitor accepts.

use std::os::fd::RawFd;

/// A sealed memfd with one [`crate::StartConfig`] message.
pub const CONFIG_FD: RawFd = 3;

/// The listening unix stream socket on which Cap'n Proto is spoken.
pub const RPC_LISTENER_FD: RawFd = 4;

/// The listening unix stream socket of [`crate::streams`].
pub const STREAMS_LISTENER_FD: RawFd = 5;

/// A sealed memfd with one [`crate::Resume`] message, for a monitor that goes on with a pod. One that
/// begins a pod has nothing here, or at least no sealed memfd.
pub const RESUME_FD: RawFd = 6;

/// The first number that descriptors named by a [`crate::Resume`] can have.
pub const FIRST_RESUMED_FD: RawFd = 7;

/// The name that a monitor's process has in `ps`; its only argument is the pod's id.
pub const PROGRAM_NAME: &str = "pod-monitor";

/// Where [`RPC_LISTENER_FD`] is bound, under the run directory.
pub const RPC_SOCKET: &str = "monitor.sock";

/// Where [`STREAMS_LISTENER_FD`] is bound, under the run directory.
pub const STREAMS_SOCKET: &str = "streams.sock";

/// The directory of pinned namespaces, under the run directory.
pub const NAMESPACE_DIRECTORY: &str = "ns";

/// Namespaces pinned as bind mounts, under the run directory.
pub mod namespace {
    /// The pod's network namespace.
    pub const NET: &str = "ns/net";
    /// The pod's IPC namespace.
    pub const IPC: &str = "ns/ipc";
    /// The pod's UTS namespace.
    pub const UTS: &str = "ns/uts";
    /// The pod's user namespace.
    pub const USER: &str = "ns/user";
    /// The PID namespace that all containers share.
    pub const PID: &str = "ns/pid";
}
