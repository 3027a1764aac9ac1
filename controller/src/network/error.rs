//! What can go wrong in the network, by operation.

use std::error::Error;
use std::fmt;
use std::io;

use super::cache::CacheError;
use super::failure::InvokeError;
use super::loopback::LoopbackError;
use super::request::InvalidPod;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("watch the CNI configuration without a tokio runtime")]
    Runtime(#[source] tokio::runtime::TryCurrentError),
    #[error("watch the CNI configuration")]
    Watch(#[source] io::Error),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error("the pod network is not ready: {reason}")]
    NotReady { reason: String },
    #[error(transparent)]
    Invalid(#[from] InvalidPod),
    #[error(transparent)]
    Missing(InvokeError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("delete what an earlier attempt left")]
    Leftover(#[source] DelError),
    #[error("attach pod {pod_id} to network {network}{}", Aftermath(.cleanup, .forget.as_ref()))]
    Failed {
        pod_id: String,
        network: String,
        #[source]
        cause: Box<AttachError>,
        /// What failed when the attempt was undone.
        cleanup: Failures,
        /// The cache entry that could not be removed afterwards.
        forget: Option<CacheError>,
    },
}

/// Why a pod could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Plugin(InvokeError),
    #[error(transparent)]
    Loopback(LoopbackError),
    #[error(transparent)]
    Cache(CacheError),
    #[error("the plugins gave the pod no address")]
    NoAddress,
}

#[derive(Debug, thiserror::Error)]
pub enum DelError {
    #[error("detach pod {pod_id} from network {network}: {failures}")]
    Plugins {
        pod_id: String,
        network: String,
        failures: Failures,
    },
    #[error(transparent)]
    Cache(#[from] CacheError),
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("pod {pod_id} is not attached to a network")]
    NotAttached { pod_id: String },
    #[error("the attachment of pod {pod_id} to network {network} is not as it should be")]
    Failed {
        pod_id: String,
        network: String,
        #[source]
        source: Box<InvokeError>,
    },
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl CheckError {
    /// Whether something is wrong with the attachment. A plugin that dies of the question, without
    /// an error of the specification's form, says nothing about the network: some releases of
    /// `bandwidth` do where a pod has no limits.
    pub fn is_finding(&self) -> bool {
        match self {
            Self::Failed { source, .. } => source.code().is_some_and(|code| code > 0),
            Self::NotAttached { .. } | Self::Cache(_) => true,
        }
    }
}

/// All that failed while leaks were collected.
#[derive(Debug, Default, thiserror::Error)]
pub struct GcError {
    /// Pods that are gone and could not be detached.
    pub pods: Vec<DelError>,
    /// Plugins that failed GC.
    pub plugins: Failures,
    /// The cache could not be listed.
    pub cache: Option<CacheError>,
}

/// Several failed calls.
#[derive(Debug, Default)]
pub struct Failures(pub Vec<InvokeError>);

/// What an undone attempt left behind, for the end of a message.
struct Aftermath<'a>(&'a Failures, Option<&'a CacheError>);

/// An error and its causes on one line.
struct Causes<'a>(&'a dyn Error);

impl GcError {
    pub(super) fn into_result(self) -> Result<(), GcError> {
        let clean = self.pods.is_empty() && self.plugins.0.is_empty() && self.cache.is_none();
        if clean { Ok(()) } else { Err(self) }
    }
}

impl From<CacheError> for GcError {
    fn from(error: CacheError) -> Self {
        GcError {
            cache: Some(error),
            ..GcError::default()
        }
    }
}

impl fmt::Display for GcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("collect leaks in the network")?;
        let pods = self.pods.iter().map(|error| error as &dyn Error);
        let plugins = self.plugins.0.iter().map(|error| error as &dyn Error);
        let cache = self.cache.iter().map(|error| error as &dyn Error);
        join(f, ": ", pods.chain(plugins).chain(cache))
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, "", self.0.iter().map(|error| error as &dyn Error))
    }
}

impl fmt::Display for Aftermath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cleanup = self.0.0.iter().map(|error| error as &dyn Error);
        join(
            f,
            " (undoing it failed, too: ",
            cleanup.chain(self.1.map(|e| e as &dyn Error)),
        )?;
        if self.0.0.is_empty() && self.1.is_none() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

fn join<'a>(
    f: &mut fmt::Formatter<'_>,
    opening: &str,
    errors: impl Iterator<Item = &'a dyn Error>,
) -> fmt::Result {
    for (index, error) in errors.enumerate() {
        write!(
            f,
            "{}{}",
            if index == 0 { opening } else { "; " },
            Causes(error)
        )?;
    }
    Ok(())
}
