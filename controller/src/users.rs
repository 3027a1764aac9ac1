//! Reads the user and group files of an image beneath its root filesystem.
//!
//! The image is untrusted: /etc may be a symbolic link to anywhere, /etc/passwd a FIFO, a device or
//! a gigabyte. Paths are resolved by the kernel with the root filesystem as their root, nothing but
//! a regular file is opened for reading, and reading stops at a cap (CVE-2026-47262, CVE-2024-5154).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_cri_api::v1;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use crate::spec::user::{self, ResolvedUser, UserError};

/// More than this is no user file: a line is some 60 bytes, so these are 170,000 users.
pub const LARGEST_FILE: u64 = 10 << 20;

/// Why a container's user could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file exists but could not be read.
    #[error("cannot read {file} of the image under {}", rootfs.display())]
    Read {
        /// The file's path in the image.
        file: &'static str,
        /// Where the image is mounted.
        rootfs: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is a directory, a FIFO, a device or a socket.
    #[error("{file} of the image is not a regular file")]
    NotRegular {
        /// The file's path in the image.
        file: &'static str,
    },
    /// The file is larger than [`LARGEST_FILE`].
    #[error("{file} of the image is larger than 10 MiB")]
    TooLarge {
        /// The file's path in the image.
        file: &'static str,
    },
    /// The request and the files do not go together.
    #[error("cannot resolve the container's user")]
    Resolve(#[from] UserError),
}

/// Finds the ids that a container runs with. Blocks on the file system.
///
/// # Errors
/// As [`UsersError`]; a file that the image does not have is empty.
pub fn resolve(
    rootfs: &Path,
    config: &v1::ContainerConfig,
    image_user: &str,
) -> Result<ResolvedUser, UsersError> {
    let request = user::request(config, image_user)?;
    let passwd = read(rootfs, "etc/passwd")?;
    let group = read(rootfs, "etc/group")?;
    Ok(user::resolve(&request, &passwd, &group)?)
}

fn read(rootfs: &Path, file: &'static str) -> Result<Vec<u8>, UsersError> {
    let failed = |source: Errno| UsersError::Read {
        file,
        rootfs: rootfs.to_path_buf(),
        source: source.into(),
    };
    let root = open_root(rootfs).map_err(failed)?;
    let found = match locate(&root, file) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mode = fstat(&found).map_err(failed)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(UsersError::NotRegular { file });
    }
    let opened = reopen(&found).map_err(failed)?;
    let mut content = Vec::new();
    File::from(opened)
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|source| UsersError::Read {
            file,
            rootfs: rootfs.to_path_buf(),
            source,
        })?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(UsersError::TooLarge { file });
    }
    Ok(content)
}

fn open_root(rootfs: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(rootfs, flags, Mode::empty())
}

/// Only a reference: opening a FIFO or a device for real could block or have an effect.
fn locate(root: &OwnedFd, file: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, file, flags, Mode::empty(), beneath)
}

fn reopen(reference: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", reference.as_raw_fd());
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        root
    }

    fn read_passwd(root: &tempfile::TempDir) -> Result<String, UsersError> {
        read(root.path(), "etc/passwd").map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_user_is_found_in_the_image() {
        let root = root();
        fs::write(root.path().join("etc/passwd"), "app:x:7:8::/srv:/bin/sh\n").unwrap();
        fs::write(root.path().join("etc/group"), "extra:x:9:app\n").unwrap();
        let user = resolve(root.path(), &v1::ContainerConfig::default(), "app").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.additional_gids),
            (7, 8, vec![8, 9])
        );
        assert_eq!(user.home, "/srv");
    }

    #[test]
    fn absent_files_are_empty() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read_passwd(&empty).unwrap(), "");
        fs::write(empty.path().join("etc"), "a file").unwrap();
        assert_eq!(read_passwd(&empty).unwrap(), "");
    }

    #[test]
    fn an_absent_root_filesystem_is_an_error() {
        let error = resolve(
            Path::new("/absent/rootfs"),
            &v1::ContainerConfig::default(),
            "app",
        );
        assert!(matches!(error, Err(UsersError::Read { .. })));
    }

    #[test]
    fn links_end_at_the_root_of_the_image() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("etc")).unwrap();
        fs::write(outside.path().join("etc/passwd"), "host").unwrap();
        let absolute = tempfile::tempdir().unwrap();
        symlink(outside.path().join("etc"), absolute.path().join("etc")).unwrap();
        assert_eq!(read_passwd(&absolute).unwrap(), "");
        let climbing = root();
        let target = format!("../../../../../..{}/etc/passwd", outside.path().display());
        symlink(target, climbing.path().join("etc/passwd")).unwrap();
        assert_eq!(read_passwd(&climbing).unwrap(), "");
        let inside = root();
        fs::write(inside.path().join("users"), "mine").unwrap();
        symlink("/users", inside.path().join("etc/passwd")).unwrap();
        assert_eq!(read_passwd(&inside).unwrap(), "mine");
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = root();
        fs::create_dir(directory.path().join("etc/passwd")).unwrap();
        assert!(matches!(
            read_passwd(&directory),
            Err(UsersError::NotRegular { .. })
        ));
        let fifo = root();
        let path = fifo.path().join("etc/passwd");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(
            read_passwd(&fifo),
            Err(UsersError::NotRegular { .. })
        ));
    }

    #[test]
    fn a_huge_file_is_refused() {
        let root = root();
        let file = File::create(root.path().join("etc/passwd")).unwrap();
        file.set_len(LARGEST_FILE + 1).unwrap();
        assert!(matches!(
            read_passwd(&root),
            Err(UsersError::TooLarge { .. })
        ));
        file.set_len(LARGEST_FILE).unwrap();
        assert!(read_passwd(&root).is_ok());
    }
}
