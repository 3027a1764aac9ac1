//! Runtime handlers: which OCI runtime a pod's containers run in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod_monitor_client::schema::RuntimeConfig;

use super::features;
use crate::config::{self, AUTO, Config, HandlerKind};
use crate::host::{PROGRAM_DIRECTORIES, find_program};
use crate::spec::{HostFacts, RuntimeFeatures as Features};

/// An OCI runtime, ready to be given to a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// What pods ask for.
    pub name: String,
    /// Which runtime it is like, where it does not tell what it can do.
    pub kind: HandlerKind,
    /// The program; absolute where it was found.
    pub path: PathBuf,
    /// Its state directory.
    pub root: PathBuf,
    /// Global options.
    pub options: Vec<String>,
    /// How long one call may take.
    pub timeout: Duration,
    /// What it can do, once it was asked.
    pub features: Features,
}

impl Handler {
    /// In the monitor's words.
    pub fn runtime_config(&self, systemd_cgroup: bool) -> RuntimeConfig {
        RuntimeConfig {
            path: self.path.clone(),
            root: self.root.clone(),
            options: self.options.clone(),
            systemd_cgroup,
            timeout: self.timeout,
        }
    }
}

/// Why a handler cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// Not configured.
    #[error("runtime handler {name:?} is not configured; there is: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// `auto`, and neither crun nor runc is installed.
    #[error("no OCI runtime is installed: neither crun nor runc is in {directories}")]
    NoneInstalled {
        /// Where was looked.
        directories: String,
    },
    /// `auto`, and there is only crun, which does not work here.
    #[error(
        "crun is the only OCI runtime here, and it refuses hosts with cgroup v2 controllers beside cgroup v1: install runc"
    )]
    OnlyCrun,
}

/// All runtime handlers.
#[derive(Debug, Clone)]
pub struct Handlers {
    by_name: BTreeMap<String, Handler>,
    default: String,
}

impl Handlers {
    /// The configured handlers, with the default one chosen.
    ///
    /// # Errors
    /// When the default handler is not configured, or `auto` finds no OCI runtime.
    pub fn new(config: &Config, host: &HostFacts) -> Result<Self, HandlerError> {
        let by_name: BTreeMap<String, Handler> = config
            .runtime
            .handlers
            .0
            .iter()
            .map(|(name, handler)| (name.clone(), build(config, name, handler)))
            .collect();
        let default = if config.runtime.default == AUTO {
            let is_there = |name: &str| by_name.get(name).is_some_and(|it| it.path.exists());
            choose(is_there, host.cgroups.hybrid)?.to_owned()
        } else {
            config.runtime.default.clone()
        };
        let handlers = Self { by_name, default };
        handlers.find("")?;
        Ok(handlers)
    }

    /// The handler of a name; the empty one is the default.
    ///
    /// # Errors
    /// When it is not configured.
    pub fn find(&self, name: &str) -> Result<&Handler, HandlerError> {
        let wanted = if name.is_empty() { &self.default } else { name };
        self.by_name
            .get(wanted)
            .ok_or_else(|| HandlerError::Unknown {
                name: wanted.to_owned(),
                known: self.names().collect::<Vec<_>>().join(", "),
            })
    }

    /// Asks all runtimes at once what they can do. `scratch` is for what they make to be run.
    pub async fn ask(&mut self, scratch: &Path) {
        let asked = self.by_name.values_mut().map(|handler| async {
            handler.features = features::ask(&handler.path, handler.kind, scratch).await;
        });
        futures::future::join_all(asked).await;
    }

    /// What a handler's runtime can do; nothing where there is no such handler.
    pub fn features(&self, name: &str) -> Features {
        let found = self.find(name);
        found.map_or_else(|_| Features::default(), |handler| handler.features)
    }

    /// The name of the default handler.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

fn build(config: &Config, name: &str, handler: &config::Handler) -> Handler {
    Handler {
        name: name.to_owned(),
        kind: handler.resolved_kind(),
        path: find_program(&handler.path).unwrap_or_else(|| handler.path.clone()),
        root: handler
            .root
            .clone()
            .unwrap_or_else(|| config.run.join("runtime").join(name)),
        options: handler.options.clone(),
        timeout: config.runtime.start_timeout,
        features: Features::default(),
    }
}

/// crun where it works, else runc: crun starts a container in a third of runc's time, but refuses a
/// host with cgroup v2 controllers beside v1.
fn choose(is_there: impl Fn(&str) -> bool, hybrid: bool) -> Result<&'static str, HandlerError> {
    match (is_there("crun"), is_there("runc")) {
        (true, _) if !hybrid => Ok("crun"),
        (_, true) => Ok("runc"),
        (true, false) => Err(HandlerError::OnlyCrun),
        (false, false) => Err(HandlerError::NoneInstalled {
            directories: PROGRAM_DIRECTORIES.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_crun_where_it_works() {
        for (installed, hybrid, expect) in [
            (&["crun", "runc"][..], false, Ok("crun")),
            (&["crun", "runc"], true, Ok("runc")),
            (&["crun"], false, Ok("crun")),
            (&["crun"], true, Err("install runc")),
            (&["runc"], false, Ok("runc")),
            (&["runc"], true, Ok("runc")),
            (&[], false, Err("neither crun nor runc")),
        ] {
            let chosen = choose(|name| installed.contains(&name), hybrid);
            match (chosen, expect) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                other => panic!("{installed:?} {hybrid}: {other:?}"),
            }
        }
    }
}
