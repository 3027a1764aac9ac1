//! The Container Device Interface: what a vendor's device brings into a container, by the files in
//! which vendors say so.
//!
//! The kubelet and plugins name devices, `vendor/class=name`. The files are read for each container
//! that has any: they are few, and a device that was just added must be known.
//!
//! Deliberately absent: names from annotations, which anybody who makes a pod could set; putting
//! edits into a spec (`spec/adjust/`).

pub mod file;
mod registry;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

pub use registry::{CdiError, Registry};

use file::{ContainerEdits, DeviceNode};

/// What the named devices bring into a container, in the order in which it is applied.
///
/// # Errors
/// The first device that is not known, or that two files of one directory have; a directory or a
/// device node that cannot be read.
pub fn edits<'a>(
    directories: &[PathBuf],
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ContainerEdits>, CdiError> {
    let mut registry = Registry::default();
    for directory in directories {
        read(directory, &mut registry)?;
    }
    let mut edits = registry.resolve(names)?;
    for edits in &mut edits {
        for node in &mut edits.device_nodes {
            complete(node)?;
        }
    }
    Ok(edits)
}

/// Adds the files of a directory, which go before those of all that were added.
fn read(directory: &Path, registry: &mut Registry) -> Result<(), CdiError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CdiError::Read { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed(directory))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        if file::Format::of(&path).is_some() {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            files.push((path, text));
        }
    }
    files.sort();
    registry.add(files);
    Ok(())
}

/// Looks up what the file leaves to the node on the host.
fn complete(node: &mut DeviceNode) -> Result<(), CdiError> {
    if node.r#type.is_some() && (node.major.is_some() || node.r#type.as_deref() == Some("p")) {
        return Ok(());
    }
    let path = node.host_path.clone().unwrap_or_else(|| node.path.clone());
    let found = fs::metadata(&path).map_err(|source| CdiError::Read {
        path: path.clone().into(),
        source,
    })?;
    let kind = found.file_type();
    let kind = if kind.is_block_device() {
        "b"
    } else if kind.is_char_device() {
        "c"
    } else if kind.is_fifo() {
        "p"
    } else {
        return Err(CdiError::NoDevice { path: path.into() });
    };
    if node.r#type.as_deref().is_some_and(|wanted| wanted != kind) {
        return Err(CdiError::NoDevice { path: path.into() });
    }
    let number = |number: u64| i64::try_from(number).ok();
    node.r#type = Some(kind.to_owned());
    node.major = number(libc::major(found.rdev()).into());
    node.minor = number(libc::minor(found.rdev()).into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_later_directories_win_and_nodes_are_looked_up() {
        let directory = tempfile::tempdir().unwrap();
        let (low, high) = (directory.path().join("low"), directory.path().join("high"));
        for (place, value) in [(&low, "low"), (&high, "high")] {
            fs::create_dir(place).unwrap();
            let text = format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "v.test/c", "devices": [{{"name": "d",
                "containerEdits": {{"env": ["FROM={value}"], "deviceNodes": [
                {{"path": "/dev/mine", "hostPath": "/dev/null"}}]}}}}]}}"#
            );
            fs::write(place.join("v.json"), text).unwrap();
        }
        fs::write(low.join("notes.txt"), "not a specification").unwrap();
        let none = directory.path().join("none");
        let edits = edits(&[low, none, high], ["v.test/c=d"]).unwrap();
        let all: Vec<_> = edits.iter().flat_map(|edits| &edits.env).collect();
        assert_eq!(all, ["FROM=high"]);
        let node = &edits
            .iter()
            .find(|e| !e.device_nodes.is_empty())
            .unwrap()
            .device_nodes[0];
        let numbers = (node.r#type.as_deref(), node.major, node.minor);
        assert_eq!(numbers, (Some("c"), Some(1), Some(3)));
    }

    #[test]
    fn a_node_that_is_none_is_refused() {
        for path in ["/proc/self/status", "/dev/no-such-device"] {
            let mut node = DeviceNode {
                path: path.to_owned(),
                ..DeviceNode::default()
            };
            let error = complete(&mut node).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
    }
}
