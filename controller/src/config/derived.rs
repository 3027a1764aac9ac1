//! What follows from the keys: the same values in the form that their users want.

use std::path::{Path, PathBuf};

use super::rule::log_levels;
use super::{Handler, HandlerKind, Image, Log, Monitor};

impl Log {
    /// The same log with other levels, unless they are not permitted.
    ///
    /// # Errors
    /// What is permitted.
    pub fn with_level(self, level: &str) -> Result<Self, String> {
        let (rule, level) = (log_levels(), level.to_owned());
        if rule.accepts(&level) {
            Ok(Self { level, ..self })
        } else {
            Err(rule.permitted)
        }
    }
}

impl Handler {
    /// The kind as set, or else by the name of the program.
    pub fn resolved_kind(&self) -> HandlerKind {
        let by_name = || match self.path.file_name().and_then(|name| name.to_str()) {
            Some("crun") => HandlerKind::Crun,
            Some("runc") => HandlerKind::Runc,
            Some(_) | None => HandlerKind::Other,
        };
        self.kind.unwrap_or_else(by_name)
    }
}

/// Where a packaged monitor is installed.
const PACKAGED_MONITOR: &str = "/usr/libexec/husk/pod-monitor";

impl Monitor {
    /// The places to look for the monitor's program, best first, for the husk program `husk`.
    pub fn candidates(&self, husk: &Path) -> Vec<PathBuf> {
        match &self.path {
            Some(path) => vec![path.clone()],
            None => vec![husk.with_file_name("pod-monitor"), PACKAGED_MONITOR.into()],
        }
    }
}

impl Image {
    /// The limits as the image store takes them.
    pub fn limits(&self) -> husk_image::Limits {
        husk_image::Limits {
            manifest: self.manifest_limit.get(),
            config: self.manifest_limit.get(),
            layer_compressed: self.layer_fetch_limit.get(),
            layer_unpacked: self.layer_limit.get(),
            ratio: self.layer_ratio_limit,
            layer_entries: self.layer_files_limit,
            total: self.image_limit.get(),
        }
    }
}
