//! The overlay mounts. Besides `idmap`, the only code of this crate that asks the kernel to mount or
//! unmount.
//!
//! Kernels from 6.8 on take lower directories one by one (`lowerdir+`, kernel documentation,
//! `filesystems/overlayfs.rst`), so there is no limit but the kernel's own. Older ones take all of
//! them in one page of text; short relative names keep that far away.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use crate::idmap::Mapped;

/// Longest value that `fsconfig` takes (`strndup_user(_value, 256)` in the kernel's `fs/fsopen.c`).
const VALUE_LIMIT: usize = 255;

/// Whether the older call did what the newer one could not: the newer is not tried again then, because such a kernel
/// writes a complaint into its log each time.
static BY_TEXT_ONLY: AtomicBool = AtomicBool::new(false);

/// What to mount where.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Layers, topmost first, at least one; two for a read-only mount.
    pub(crate) lower: Vec<PathBuf>,
    /// Upper and work directory; without them the mount is read-only.
    pub(crate) upper: Option<(PathBuf, PathBuf)>,
    /// SELinux context of every file.
    pub(crate) label: Option<String>,
    pub(crate) target: PathBuf,
    /// An existing private directory for short names and mapped layers.
    pub(crate) scratch: PathBuf,
    /// The user namespace whose users own the files, where that is not the host's.
    pub(crate) user_namespace: Option<PathBuf>,
}

impl Overlay {
    /// Mounts it, unless something is mounted on the target already.
    pub(crate) fn mount(mut self) -> io::Result<()> {
        if is_mounted(&self.target)? {
            return Ok(());
        }
        let Some(namespace) = self.user_namespace.take() else {
            return self.mount_layers();
        };
        let mapped = Mapped::mount(&self.lower, &namespace, &self.scratch)?;
        self.lower = mapped.paths().to_vec();
        self.mount_layers()
    }

    fn mount_layers(&self) -> io::Result<()> {
        if BY_TEXT_ONLY.load(Ordering::Relaxed) {
            return self.mount_by_text();
        }
        match self.mount_by_parts() {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                self.mount_by_text()?;
                BY_TEXT_ONLY.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn mount_by_parts(&self) -> rustix::io::Result<()> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // What a short name through /proc refers to must stay open until the file system is made.
        let mut open = Vec::new();
        let mut set = |key: &str, path: &Path| -> rustix::io::Result<()> {
            if path.as_os_str().len() <= VALUE_LIMIT {
                return fsconfig_set_string(&context, key, path);
            }
            let directory = fs::File::open(path).map_err(|_| Errno::NOENT)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
            open.push(directory);
            fsconfig_set_string(&context, key, format!("/proc/self/fd/{number}"))
        };
        for lower in &self.lower {
            set("lowerdir+", lower)?;
        }
        if let Some((upper, work)) = &self.upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        if let Some(label) = &self.label {
            fsconfig_set_string(&context, "context", label.as_str())?;
        }
        fsconfig_set_string(&context, "source", "overlay")?;
        fsconfig_create(&context)?;
        let attributes = match self.upper {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mounted, "", CWD, &self.target, flags)
    }

    /// The older call. Links in the scratch directory give every layer a name of a few digits, read
    /// from a thread whose working directory is its own.
    fn mount_by_text(&self) -> io::Result<()> {
        let link = |name: String, path: &Path| -> io::Result<String> {
            std::os::unix::fs::symlink(path, self.scratch.join(&name))?;
            Ok(name)
        };
        let lower: io::Result<Vec<String>> = self
            .lower
            .iter()
            .enumerate()
            .map(|(at, path)| link(at.to_string(), path))
            .collect();
        let mut data = format!("lowerdir={}", lower?.join(":"));
        if let Some((upper, work)) = &self.upper {
            let (upper, work) = (link("u".to_owned(), upper)?, link("w".to_owned(), work)?);
            data.push_str(&format!(",upperdir={upper},workdir={work}"));
        }
        if let Some(label) = &self.label {
            data.push_str(&format!(",context=\"{label}\""));
        }
        let data = CString::new(data).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = match self.upper {
            Some(_) => MountFlags::empty(),
            None => MountFlags::RDONLY,
        };
        let (target, scratch) = (self.target.clone(), self.scratch.clone());
        let thread = std::thread::Builder::new()
            .name("overlay-mount".to_owned())
            .spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
                std::env::set_current_dir(&scratch)?;
                Ok(mount(
                    "overlay",
                    &target,
                    "overlay",
                    flags,
                    data.as_c_str(),
                )?)
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread failed")))
    }
}

/// Takes away whatever is mounted on a directory, also several times over. A busy mount disappears
/// from view at once and for good when its last user goes.
pub(crate) fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a directory is the root of a mount; false if it does not exist.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(stat)
            if stat
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        // Before Linux 5.8 statx does not say; the mount table does.
        Ok(_) => listed(path),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn listed(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mounts")?;
    let target = path.as_os_str().as_bytes();
    let mut lines = table.split(|byte| *byte == b'\n');
    Ok(lines.any(|line| line.split(|byte| *byte == b' ').nth(1) == Some(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmounts before its directory goes.
    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            unmount_all(&self.0).unwrap();
        }
    }

    /// An overlay of two layers whose paths are as long as told.
    fn overlay(directory: &Path, padding: usize) -> Overlay {
        let deep = directory
            .join("x".repeat(padding))
            .join("y".repeat(padding));
        let make = |name: &str| {
            let path = deep.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (top, bottom) = (make("top"), make("bottom"));
        fs::write(top.join("file"), b"top").unwrap();
        fs::write(bottom.join("file"), b"bottom").unwrap();
        fs::write(bottom.join("only"), b"bottom").unwrap();
        Overlay {
            lower: vec![top, bottom],
            upper: Some((make("upper"), make("work"))),
            label: None,
            target: make("target"),
            scratch: make("scratch"),
            user_namespace: None,
        }
    }

    /// Looks at a mounted overlay and unmounts it.
    fn check(overlay: &Overlay) {
        let guard = Mounted(overlay.target.clone());
        assert!(is_mounted(&overlay.target).unwrap() && listed(&overlay.target).unwrap());
        assert_eq!(fs::read(overlay.target.join("file")).unwrap(), b"top");
        assert_eq!(fs::read(overlay.target.join("only")).unwrap(), b"bottom");
        let written = fs::write(overlay.target.join("new"), b"x");
        match &overlay.upper {
            Some((upper, _)) => assert!(written.is_ok() && upper.join("new").exists()),
            None => assert!(written.is_err()),
        }
        drop(guard);
        assert!(!is_mounted(&overlay.target).unwrap());
    }

    #[test]
    fn both_calls_mount_short_and_long_paths() {
        for padding in [1, 200] {
            let directory = tempfile::tempdir().unwrap();
            let mut overlay = overlay(directory.path(), padding);
            overlay.mount_by_parts().unwrap();
            assert!(is_mounted(&overlay.target).unwrap());
            check(&overlay);
            overlay.mount_by_text().unwrap();
            check(&overlay);
            overlay.upper = None;
            fs::remove_dir_all(&overlay.scratch).unwrap();
            fs::create_dir(&overlay.scratch).unwrap();
            overlay.mount_by_text().unwrap();
            check(&overlay);
            overlay.mount_by_parts().unwrap();
            check(&overlay);
        }
    }

    #[test]
    fn hundreds_of_layers_are_stacked() {
        let directory = tempfile::tempdir().unwrap();
        let mut overlay = overlay(directory.path(), 1);
        let more = (0..300).map(|at| {
            let path = directory.path().join(format!("layer-{at}"));
            fs::create_dir(&path).unwrap();
            path
        });
        overlay.lower = more.chain(overlay.lower).collect();
        overlay.mount_layers().unwrap();
        check(&overlay);
    }

    #[test]
    fn nothing_to_unmount_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        unmount_all(directory.path()).unwrap();
        unmount_all(&directory.path().join("absent")).unwrap();
        assert!(!is_mounted(&directory.path().join("absent")).unwrap());
    }
}
