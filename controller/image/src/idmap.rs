//! Directories as a user namespace is to see them: owned by its users instead of the host's.
//!
//! The kernel maps owners per mount, and overlayfs takes mapped mounts as lower layers since
//! Linux 5.19 (kernel documentation, `filesystems/overlayfs.rst`). A layer is shared by containers
//! with different mappings, so each gets mounts of its own. They only have to be there while the
//! overlay is made, which keeps copies of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use composefs_ioctls::mount::mount_setattr_idmap;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

/// How the users of a container map to those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// A file that stands for the user namespace, such as a pin or `/proc/PID/ns/user`.
    pub user_namespace: PathBuf,
    /// Who the namespace's root is on the host.
    pub root: Owner,
}

/// A user and a group of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl Owner {
    /// Who `other`, an owner in the image, is on the host. What is beyond the last id stays.
    pub(crate) fn shift(self, other: Owner) -> Owner {
        Owner {
            uid: self.uid.checked_add(other.uid).unwrap_or(other.uid),
            gid: self.gid.checked_add(other.gid).unwrap_or(other.gid),
        }
    }
}

/// Mapped mounts of directories, which go with the value.
#[derive(Debug)]
pub(crate) struct Mapped {
    mounts: Vec<PathBuf>,
}

impl Mapped {
    /// Mounts each directory once more, mapped, below `scratch`.
    pub(crate) fn mount(
        directories: &[PathBuf],
        user_namespace: &Path,
        scratch: &Path,
    ) -> io::Result<Self> {
        let namespace = File::open(user_namespace)?;
        let mut mapped = Self { mounts: Vec::new() };
        for (at, directory) in directories.iter().enumerate() {
            let target = scratch.join(format!("mapped-{at}"));
            fs::create_dir(&target)?;
            mapped.add(directory, &namespace, target)?;
        }
        Ok(mapped)
    }

    fn add(&mut self, directory: &Path, namespace: &File, target: PathBuf) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, directory, flags)?;
        mount_setattr_idmap(&tree, namespace)?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, &target, empty)?;
        self.mounts.push(target);
        Ok(())
    }

    /// Where the directories are, in the order in which they were given.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.mounts
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for target in &self.mounts {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(error) = unmount(target, flags) {
                tracing::warn!(path = %target.display(), %error, "a mapped layer stays mounted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_the_image_become_those_of_the_mapping() {
        let owner = |uid, gid| Owner { uid, gid };
        let root = owner(100_000, 200_000);
        for (image, host) in [
            (owner(0, 0), root),
            (owner(33, 44), owner(100_033, 200_044)),
            (owner(u32::MAX, 1), owner(u32::MAX, 200_001)),
        ] {
            assert_eq!(root.shift(image), host);
        }
    }
}
