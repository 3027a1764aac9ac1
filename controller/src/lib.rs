//! The controller: one slim daemon per node that serves the kubelet over the CRI socket and keeps
//! the state of every pod. What is live (processes, stdio, logs, exits) belongs to the pod-monitors.
//!
//! Modules depend on each other one way only: `serve`, `admin` and `cri` on `recover` and `sessions`, these on `pod`,
//! that on `container`, both on `nri`, `services` and `view`, and all of them on `error`, which names the errors
//! of what knows no pods: `spec`, `store`, `network`, `monitors`, `cgroup`.

pub mod admin;
pub mod apparmor;
mod bundle;
pub mod cdi;
pub mod cgroup;
pub mod chain;
pub mod cli;
mod clock;
pub mod config;
pub mod container;
pub mod cri;
pub mod directories;
pub mod error;
pub mod events;
mod fault;
pub mod host;
mod id;
pub mod logging;
pub mod monitors;
pub mod network;
pub mod nri;
pub mod pod;
pub mod recover;
pub mod serve;
pub mod services;
pub mod sessions;
pub mod spec;
pub mod stats;
pub mod store;
mod undo;
pub mod users;
pub mod view;
