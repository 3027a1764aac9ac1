//! Where root file systems and views are mounted.
//!
//! Those of the host's users lie where only root gets. The root of a user namespace is nobody special
//! on the host, and the OCI runtime's child becomes it before it enters the root file system: on the
//! way there every directory lets through, and the last one only the group that this root is in. So
//! neither other pods nor users of the host reach what is below (compare CVE-2024-25621).

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use rustix::fs::Mode;

use super::files::{make_private, names};
use super::{Dirs, RootKind};
use crate::error::StoreError;
use crate::idmap::Owner;
use crate::kind::FileError;
use crate::mount::unmount_all;

/// A mount point, and the directory of its own around one that is for a user namespace.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    mapped: Option<Owner>,
    nested: bool,
}

/// Directories that anyone may pass through and nobody else may list.
pub(super) fn prepare(dirs: &Dirs) -> Result<(), FileError> {
    let mapped = dirs.run.join("mapped");
    for kind in [RootKind::Container, RootKind::View] {
        make_private(&mapped.join(kind.mount_directory()))?;
        open_up(&mapped.join(kind.mount_directory()), 0o711)?;
    }
    open_up(&mapped, 0o711)?;
    open_up(&dirs.run, 0o711)
}

fn open_up(path: &std::path::Path, mode: u32) -> Result<(), FileError> {
    let changed = rustix::fs::chmod(path, Mode::from_raw_mode(mode));
    changed.map_err(FileError::new("opening up", path))
}

impl Dirs {
    fn parents(&self, kind: RootKind) -> [PathBuf; 2] {
        let name = kind.mount_directory();
        [self.run.join(name), self.run.join("mapped").join(name)]
    }

    /// The place of one root file system, for the host's users or for a user namespace's.
    pub(super) fn place(&self, kind: RootKind, id: &str, mapped: Option<Owner>) -> Place {
        let [plain, nested] = self.parents(kind);
        let parent = if mapped.is_some() { nested } else { plain };
        Place {
            path: parent.join(id),
            mapped,
            nested: mapped.is_some(),
        }
    }

    /// Both places that an id may have.
    pub(super) fn places(&self, kind: RootKind, id: &str) -> [Place; 2] {
        let mut nested = false;
        self.parents(kind).map(|parent| Place {
            path: parent.join(id),
            mapped: None,
            nested: std::mem::replace(&mut nested, true),
        })
    }

    /// All ids with a place, whether or not something is mounted there.
    pub(super) fn ids_of_places(&self, kind: RootKind) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::new();
        for parent in self.parents(kind) {
            ids.extend(names(&parent)?);
        }
        Ok(ids)
    }
}

impl Place {
    /// What is mounted on.
    pub(super) fn target(&self) -> PathBuf {
        if self.nested {
            self.path.join("root")
        } else {
            self.path.clone()
        }
    }

    /// Makes the directories.
    pub(super) fn make(&self) -> Result<(), FileError> {
        make_private(&self.path)?;
        if let Some(root) = self.mapped {
            make_private(&self.target())?;
            chown(&self.path, None, Some(root.gid))
                .map_err(FileError::new("giving", &self.path))?;
            open_up(&self.path, 0o710)?;
        }
        Ok(())
    }

    /// Unmounts, and removes the directories. What is gone already is fine.
    pub(super) fn clear(&self) -> io::Result<()> {
        let target = self.target();
        unmount_all(&target)?;
        for path in [&target, &self.path] {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}
