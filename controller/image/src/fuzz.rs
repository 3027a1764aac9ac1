//! Doors for the fuzzer to what is private. Compiled only for it, by `--cfg fuzzing`.

use std::path::Path;

use crate::digest::Digest;
use crate::layer::{Budget, LayerError, Source, UnpackLimits, unpack};
use crate::manifest::{Document, choose};
use crate::platform::Platform;
use crate::{ManifestError, image_config};

/// Reads a manifest or an index, and picks from the latter as a pull does.
///
/// # Errors
/// What a pull would say.
pub fn document(bytes: &[u8]) -> Result<(), ManifestError> {
    if let Document::Index(entries) = Document::parse(bytes)? {
        let _ = choose(&entries, &Platform::host());
    }
    Ok(())
}

/// Reads an image's configuration.
///
/// # Errors
/// What a pull would say.
pub fn configuration(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let parsed = image_config::parse(bytes)?;
    for volume in &parsed.config.volumes {
        assert!(volume.starts_with('/') && !volume.split('/').any(|part| part == ".."));
    }
    Ok(())
}

/// Unpacks a layer of at most a MiB into a directory.
///
/// # Errors
/// What a pull would say.
pub fn layer(bytes: &[u8], directory: &Path) -> Result<(), LayerError> {
    const MIB: u64 = 1 << 20;
    let source = Source {
        reader: Box::new(std::io::Cursor::new(bytes.to_vec())),
        compressed: bytes.len() as u64,
        diff_id: Some(Digest::of(bytes)),
        limits: UnpackLimits {
            layer: MIB,
            ratio: 100,
            ratio_grace: MIB / 4,
            entries: 100,
        },
        budget: Budget::new(MIB),
        progress: Box::new(|_| {}),
    };
    unpack(source, directory).map(|_| ())
}
