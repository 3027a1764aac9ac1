//! The runtime's side of the Node Resource Interface: plugins, their hooks, and what they ask for.
//!
//! ```text
//!   plugin ══ one unix socket ══ mux ─┬─ plugin service:  we ask    (hooks, Configure, Synchronize)
//!                                     └─ runtime service: it asks   (RegisterPlugin, UpdateContainers)
//!
//!   listen ┐                                       ┌─ hooks, one at a time, plugins by index
//!   launch ┴▶ handshake ▶ synchronise ▶ [plugins] ─┤
//!                                                  └─ merge: adjustments of all, conflicts refused
//! ```
//!
//! A plugin sees every container: whoever makes one holds a [`Hold`] from before its first hook until
//! the container is part of the [`Node`]'s state, and a plugin is synchronised only while nobody
//! holds one. From the moment that its state is read, hooks wait until it is one of the plugins.
//!
//! Deliberately absent: what a container is (the caller fills in the protocol's messages and applies
//! the adjustment), plugins in WebAssembly, policies of our own about what a plugin may change.

mod connection;
mod discover;
mod error;
mod handshake;
mod launch;
mod life;
mod merge;
mod mux;
mod plugin;
mod plugins;
mod serve;
mod ttrpc;

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;

pub use error::{CallError, HookError, Refusal, ServeError};
pub use merge::{Conflict, removed};
pub use plugins::{Hold, Nri};

/// The messages and enums of the protobuf package `nri.pkg.api.v1alpha1`.
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

/// The version of the protocol that plugins are told.
pub const NRI_VERSION: &str = "v0.12.0";

/// How plugins are found and how long they may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that plugins are told.
    pub runtime_name: String,
    /// The version that plugins are told.
    pub runtime_version: String,
    /// Where plugins connect to; none are accepted without.
    pub socket: Option<PathBuf>,
    /// Programs to launch, named `NN-name`.
    pub plugin_dir: PathBuf,
    /// Their configurations, `NN-name.conf` or `name.conf`.
    pub plugin_config_dir: PathBuf,
    /// How long a connected plugin may take to register, and again to take in what there is.
    pub registration_timeout: Duration,
    /// How long a plugin may take to answer a request.
    pub request_timeout: Duration,
}

/// What plugins are told of, and what they may change without being asked.
pub trait Node: Send + Sync + 'static {
    /// The pods and containers there are, as of a moment after the call.
    fn state(&self) -> BoxFuture<'static, (Vec<api::PodSandbox>, Vec<api::Container>)>;

    /// Changes containers; answers the changes that could not be made.
    fn update(
        &self,
        updates: Vec<api::ContainerUpdate>,
    ) -> BoxFuture<'static, Vec<api::ContainerUpdate>>;

    /// Stops containers, each with the name of the plugin that wants it.
    fn evict(
        &self,
        plugin: String,
        evictions: Vec<api::ContainerEviction>,
    ) -> BoxFuture<'static, ()>;
}
