//! The bundle of a container: what the OCI runtime is given.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::PodError;

pub(crate) const SPEC: &str = "config.json";
/// The process part alone: an exec starts from it and need not parse a seccomp profile.
const PROCESS: &str = "process.json";

/// Writes a new bundle.
pub(crate) fn write(directory: &Path, spec: &Spec) -> Result<(), PodError> {
    fs::create_dir_all(directory).map_err(PodError::io("making", directory))?;
    if let Some(process) = spec.process() {
        write_json(&directory.join(PROCESS), process)?;
    }
    write_spec(directory, spec)
}

/// Replaces the spec.
pub(crate) fn write_spec(directory: &Path, spec: &Spec) -> Result<(), PodError> {
    write_json(&directory.join(SPEC), spec)
}

pub(crate) fn read_spec(directory: &Path) -> Result<Spec, PodError> {
    read_json(&directory.join(SPEC))
}

pub(crate) fn read_process(directory: &Path) -> Result<Process, PodError> {
    read_json(&directory.join(PROCESS))
}

/// Removes a bundle; one that is gone is fine.
pub(crate) fn remove(directory: &Path) -> Result<(), PodError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PodError::io("removing", directory)(error))
        }
        _ => Ok(()),
    }
}

/// JSON for the OCI runtime; `subject` is what an error names.
pub(crate) fn to_json(value: &impl Serialize, subject: &Path) -> Result<Vec<u8>, PodError> {
    serde_json::to_vec(value).map_err(|error| PodError::io("encoding", subject)(error.into()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), PodError> {
    let json = to_json(value, path)?;
    let new = path.with_extension("new");
    fs::write(&new, json).map_err(PodError::io("writing", &new))?;
    fs::rename(&new, path).map_err(PodError::io("replacing", path))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, PodError> {
    let json = fs::read(path).map_err(PodError::io("reading", path))?;
    serde_json::from_slice(&json).map_err(|error| PodError::io("decoding", path)(error.into()))
}
