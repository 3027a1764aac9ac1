//! The harness behind Husk's tests: everything a test needs to drive a CRI runtime from outside and to see
//! what it did to the machine.
//!
//! - [`node`] starts a private `husk serve` in its own mount and network namespace, or stands for a runtime
//!   that runs already (`HUSK_TEST_ENDPOINT`), so that the same suites are proven on other runtimes.
//! - [`kubelet`] starts a real kubelet on such a node.
//! - [`client`] speaks CRI; [`config`] makes pod and container configurations with short defaults.
//! - [`streaming`] speaks to the streaming server as kubectl does.
//! - [`image`] makes images on the spot; [`registry`] and [`proxy`] serve them, well or badly; [`token`] lets clients in.
//! - [`checkpoint`] makes checkpoints, with an OCI runtime that stands in for one with CRIU.
//! - [`points`] finds the fault points in the sources.
//! - [`soak`] does everything at random while processes are killed; [`volume`] mounts small or broken file systems for a node.
//! - [`websocket`] opens what exec and attach answer with, for the benchmark: bytes as they come.
//! - [`service`] plays systemd's part: the socket that a service notifies, and its store of descriptors.
//! - [`process`], [`snapshot`] and [`logs`] look at the result: processes, mounts, cgroups, files, log lines.
//!
//! Invariant: a test waits for a state with a deadline ([`wait`]), never for a time; nothing a node made outlives it.
//! Deliberately absent: any part of the product. The harness knows Husk only by its command line and sockets.

pub mod cgroup;
pub mod checkpoint;
pub mod client;
pub mod command;
pub mod config;
pub mod fixture;
pub mod image;
pub mod kubelet;
pub mod logs;
pub mod netns;
pub mod node;
pub mod points;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod service;
pub mod settings;
mod shared;
pub mod snapshot;
pub mod soak;
pub mod streaming;
pub mod token;
pub mod volume;
pub mod wait;
pub mod websocket;

pub use client::Client;
pub use config::container;
pub use fixture::Pod;
pub use husk_cri_api::v1 as cri;
pub use image::{Image, Layer};
pub use node::{Node, NodeOptions};
pub use snapshot::Snapshot;
pub use wait::wait_for;

/// The image most tests run: a static busybox with its applets in `/bin`.
pub const BUSYBOX: &str = "husk.test/busybox:1";

/// What other runtimes have for a pod's first process, where their configuration names it: the same busybox.
pub const PAUSE: &str = "husk.test/pause:1";
