//! What things occupy on disk.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::{RootKind, Store};
use crate::error::RootfsError;
use crate::kind::FileError;

/// Space and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

/// Directories nested deeper than this are counted but not entered: a container can nest without end.
const DEPTH_LIMIT: usize = 256;

impl Store {
    /// What all layers occupy, from their records; no file is looked at.
    pub(crate) fn layers_usage(&self) -> DiskUsage {
        let index = self.lock_index();
        index
            .layers
            .values()
            .fold(DiskUsage::default(), |sum, layer| DiskUsage {
                bytes: sum.bytes + layer.bytes,
                inodes: sum.inodes + layer.inodes,
            })
    }

    /// What a container wrote, by walking its upper directory.
    pub(crate) fn container_usage(&self, id: &str) -> Result<DiskUsage, RootfsError> {
        let key = (RootKind::Container, id.to_owned());
        if !self.lock_index().roots.contains_key(&key) {
            return Err(RootfsError::NoRootfs(id.to_owned()));
        }
        let upper = self.dirs.record(RootKind::Container, id).join("upper");
        measure(&upper).map_err(|errno| RootfsError::Store {
            id: id.to_owned(),
            source: FileError::new("measuring", &upper)(errno).into(),
        })
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Sums allocated blocks. The tree may change while it is walked: what disappears is not counted.
fn measure(path: &Path) -> rustix::io::Result<DiskUsage> {
    let mut sum = DiskUsage::default();
    let top = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(sum),
        other => other?,
    };
    let mut stack: Vec<(OwnedFd, Dir)> = Vec::new();
    let listing = Dir::read_from(&top)?;
    stack.push((top, listing));
    while let Some((directory, listing)) = stack.last_mut() {
        let Some(entry) = listing.read() else {
            stack.pop();
            continue;
        };
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = match statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        sum.inodes += 1;
        sum.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(stat.st_mode).is_dir() && stack.len() < DEPTH_LIMIT {
            let (directory, _) = &stack[stack.len() - 1];
            match openat(directory, name, DIRECTORY, Mode::empty()) {
                Ok(inner) => {
                    let listing = Dir::read_from(&inner)?;
                    stack.push((inner, listing));
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("a/link")).unwrap();
        let usage = measure(directory.path()).unwrap();
        assert_eq!(usage.inodes, 4);
        assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
        assert_eq!(
            measure(Path::new("/nonexistent")).unwrap(),
            DiskUsage::default()
        );
    }
}
