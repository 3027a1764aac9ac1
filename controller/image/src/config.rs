//! What the store is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::layer::UnpackLimits;

/// A small layer may compress arbitrarily well: a few megabytes of zeros harm nobody.
const RATIO_GRACE: u64 = 64 << 20;

/// Where things are and how much is allowed.
#[derive(Debug, Clone)]
pub struct Config {
    /// State that outlives a reboot. One process at a time may use it.
    pub root: PathBuf,
    /// Mount points; on a file system that a reboot empties.
    pub run: PathBuf,
    /// `registries.conf` files in order; `<file>.d/*.conf` is read after each.
    pub registries: Vec<PathBuf>,
    /// Directories with `<host[:port]>/` directories of certificates; the first that has one wins.
    pub certs_dirs: Vec<PathBuf>,
    /// `auth.json` (or Docker's `config.json`), used where the caller has no credentials.
    pub auth_file: Option<PathBuf>,
    /// Images that must stay: references, or starts of references with `*` at the end.
    pub pinned: Vec<String>,
    /// Layers that are fetched and unpacked at the same time, over all pulls.
    pub parallel_layers: usize,
    /// What images may cost.
    pub limits: Limits,
    /// A registry that sends nothing for so long is given up.
    pub pull_progress_timeout: Duration,
    /// `os/architecture[/variant]`; this machine's where it is absent.
    pub platform: Option<String>,
}

/// Bounds on untrusted content, all in bytes but for the ratio and the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A manifest or index.
    pub manifest: u64,
    /// An image configuration.
    pub config: u64,
    /// One layer, compressed.
    pub layer_compressed: u64,
    /// One layer, uncompressed.
    pub layer_unpacked: u64,
    /// Uncompressed divided by compressed size of a layer.
    pub ratio: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// All layers of one image that are not in the store yet, uncompressed.
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The distribution specification asks registries to accept manifests up to 4 MiB.
            manifest: 4 << 20,
            config: 4 << 20,
            layer_compressed: 32 << 30,
            layer_unpacked: 64 << 30,
            // gzip reaches 1,032 at most; honest layers stay below 100.
            ratio: 500,
            layer_entries: 4_000_000,
            total: 128 << 30,
        }
    }
}

impl Limits {
    pub(crate) fn unpack(&self) -> UnpackLimits {
        UnpackLimits {
            layer: self.layer_unpacked,
            ratio: self.ratio,
            ratio_grace: RATIO_GRACE,
            entries: self.layer_entries,
        }
    }
}

impl Config {
    /// A configuration with the usual limits: four layers at a time, two minutes without progress.
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            registries: Vec::new(),
            certs_dirs: Vec::new(),
            auth_file: None,
            pinned: Vec::new(),
            parallel_layers: 4,
            limits: Limits::default(),
            pull_progress_timeout: Duration::from_secs(120),
            platform: None,
        }
    }
}
