//! What a pull or import tells whoever watches it.

use crate::digest::Digest;

/// Watches a pull or import. Called from worker threads, often: it must not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: ProgressEvent);
}

/// One step of a pull or import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// The manifest is known.
    Resolved {
        /// The complete reference, or the archive's name for the image.
        reference: String,
        /// The layers in order: digest as in the manifest (diffID where there is none) and bytes.
        layers: Vec<(Digest, u64)>,
    },
    /// A layer has come to a phase, or further in it.
    Layer {
        /// As in [`ProgressEvent::Resolved`].
        digest: Digest,
        /// What is done with it.
        phase: LayerPhase,
        /// Bytes done in this phase.
        done: u64,
        /// Bytes to do in this phase; 0 where that is unknown.
        total: u64,
    },
    /// A request failed and is tried again.
    Retrying {
        /// The server.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The image is stored and has its names.
    Stored {
        /// The image's id.
        id: String,
    },
}

/// Where a layer is between registry and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerPhase {
    /// For a free worker, or for another pull of the same layer.
    Waiting,
    /// Bytes are compressed ones.
    Downloading,
    /// An interrupted download's bytes are hashed again.
    Verifying,
    /// Bytes are uncompressed ones; their total is unknown.
    Unpacking,
    /// It was in the store already.
    Exists,
    /// It is in the store now.
    Done,
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: ProgressEvent) {}
}
