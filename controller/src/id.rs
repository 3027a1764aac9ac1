//! Ids of pods, containers and drafts.

use std::path::PathBuf;

use crate::error::PodError;

/// 64 hexadecimal digits by the kernel's random source.
pub(crate) fn new_id() -> Result<String, PodError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| PodError::Io {
        operation: "reading random numbers for an id from",
        path: PathBuf::from("getrandom(2)"),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(hex::encode(bytes))
}
