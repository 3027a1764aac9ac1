//! Device nodes of the host: all of them for privileged containers, named ones for the others.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use husk_cri_api::v1;
use oci_spec::runtime::LinuxDeviceType;

use super::HostError;
use crate::spec::ResolvedDevice;

/// Directories and nodes that a container has of its own, or that other runtimes leave behind.
const SKIPPED: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "hugepages",
    ".udev",
    "console",
    "ptmx",
];

/// The device nodes under `dev`, for containers that may use every device. Nodes come and go: a
/// caller that creates a privileged container asks again.
///
/// # Errors
/// `dev` itself cannot be read; what vanishes below it while it is walked is skipped.
pub fn host_devices(dev: &Path) -> Result<Vec<ResolvedDevice>, HostError> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dev).map_err(|source| HostError::Read {
        path: dev.into(),
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        collect(
            &entry.path(),
            &Path::new("/dev").join(&name),
            "rwm",
            &mut found,
        );
    }
    found.sort_by(|left, right| left.container_path.cmp(&right.container_path));
    Ok(found)
}

/// Looks up one requested device; a directory stands for every node below it.
///
/// # Errors
/// The host path does not exist, or is neither a device nor a directory.
pub fn resolve_device(device: &v1::Device) -> Result<Vec<ResolvedDevice>, HostError> {
    let path = PathBuf::from(&device.host_path);
    let metadata = std::fs::metadata(&path).map_err(|source| HostError::Read {
        path: path.clone(),
        source,
    })?;
    let permissions = if device.permissions.is_empty() {
        "rwm"
    } else {
        device.permissions.as_str()
    };
    let to = Path::new(&device.container_path);
    if metadata.is_dir() {
        let mut found = Vec::new();
        collect(&path, to, permissions, &mut found);
        found.sort_by(|left, right| left.container_path.cmp(&right.container_path));
        return Ok(found);
    }
    match resolved(&metadata, to, permissions) {
        Some(device) => Ok(vec![device]),
        None => Err(HostError::NotADevice { path }),
    }
}

/// Symbolic links are not followed: they lead to nodes that are found anyway, or out of /dev.
fn collect(from: &Path, to: &Path, permissions: &str, found: &mut Vec<ResolvedDevice>) {
    let Ok(metadata) = std::fs::symlink_metadata(from) else {
        return;
    };
    found.extend(resolved(&metadata, to, permissions));
    if !metadata.is_dir() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(from) else {
        return;
    };
    for entry in entries.flatten() {
        collect(
            &entry.path(),
            &to.join(entry.file_name()),
            permissions,
            found,
        );
    }
}

fn resolved(metadata: &Metadata, to: &Path, permissions: &str) -> Option<ResolvedDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    Some(ResolvedDevice {
        container_path: to.to_path_buf(),
        kind,
        major: rustix::fs::major(metadata.rdev()).into(),
        minor: rustix::fs::minor(metadata.rdev()).into(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: permissions.to_owned(),
    })
}
