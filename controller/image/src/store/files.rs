//! Small files that must be whole after a crash, and the removal of trees that somebody else filled.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::kind::FileError;

/// Replaces a file so that a crash leaves the old content or the new, and nothing between.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = path.with_extension(format!("new-{}", random_name()));
    let written = write_synced(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| path.parent().map_or(Ok(()), sync_directory));
    written.map_err(|error| {
        // The first failure is the one to report; the leftover is also found by garbage collection.
        let _ = fs::remove_file(&temporary);
        FileError::new("writing", path)(error)
    })
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes renames in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and its parents, closed to everybody else.
pub(crate) fn make_private(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(FileError::new("creating", path))?;
    let closed = rustix::fs::chmod(path, Mode::RWXU);
    closed.map_err(FileError::new("closing", path))
}

/// Sixteen hexadecimal digits that nothing else uses.
pub(crate) fn random_name() -> String {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Early boot without entropy: a name need only be unused, and its creation is exclusive.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = now
            .map_or(0, |now| u64::from(now.subsec_nanos()))
            .to_be_bytes();
    }
    hex::encode(bytes)
}

/// Reads a file that may be missing.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("reading", path)(error)),
    }
}

/// The names in a directory; none if it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::new("listing", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::new("listing", path))?;
        // Everything here was named by this program, in ASCII.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Removes a file or a tree of any depth; what is gone already counts as removed.
///
/// A container or layer can nest directories deeper than recursion and open files would carry, so
/// nested directories are first moved up beside their parent, level by level.
pub(crate) fn remove_tree(path: &Path) -> Result<(), FileError> {
    remove(path).map_err(FileError::new("removing", path))
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn remove(path: &Path) -> rustix::io::Result<()> {
    let top = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return absent_ok(unlinkat(CWD, path, AtFlags::empty()));
        }
        Err(error) => return Err(error),
    };
    let mut moved: u64 = 0;
    loop {
        let nested = empty(&top)?;
        if nested.is_empty() {
            break;
        }
        for name in nested {
            let inner = openat(&top, &*name, DIRECTORY, Mode::empty())?;
            for deeper in empty(&inner)? {
                moved += 1;
                renameat(
                    &inner,
                    &*deeper,
                    &top,
                    format!(".removing-{moved}-{}", random_name()),
                )?;
            }
            unlinkat(&top, &*name, AtFlags::REMOVEDIR)?;
        }
    }
    absent_ok(unlinkat(CWD, path, AtFlags::REMOVEDIR))
}

/// Unlinks all that is no directory, and returns the names of the directories.
fn empty(directory: &OwnedFd) -> rustix::io::Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut nested = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        if kind.is_dir() {
            nested.push(name.to_owned());
        } else {
            absent_ok(unlinkat(directory, name, AtFlags::empty()))?;
        }
    }
    Ok(nested)
}

fn absent_ok(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// A file or directory that goes away with the value, unless it is kept.
#[derive(Debug)]
pub(crate) struct Temporary(Option<PathBuf>);

impl Temporary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Moves it to its final place.
    pub(crate) fn keep_as(mut self, target: &Path) -> Result<(), FileError> {
        fs::rename(self.path(), target).map_err(FileError::new("moving into place", target))?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = remove_tree(&path)
        {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error,
                "a temporary file stays until the next garbage collection");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_no_sibling() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(directory.path()).unwrap(), ["state.json"]);
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut fd = openat(CWD, &top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        std::os::unix::fs::symlink("/etc", top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && Path::new("/etc").exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_link_is_removed_and_not_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("t"), directory.path().join("l"));
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(target.exists() && link.symlink_metadata().is_err());
    }
}
