//! The only code that writes a layer's content: everything goes through file descriptors beneath the
//! layer's directory.
//!
//! Parents are resolved by `openat2` with `RESOLVE_IN_ROOT`: a symbolic link in the layer, absolute or
//! with `..`, is followed as the container would follow it and cannot leave the directory, also when
//! something else changes the tree meanwhile (CVE-2025-47290). The last component is never followed,
//! so modes, owners and attributes land on the entry itself (CVE-2021-32760).
//!
//! Whiteouts become what overlayfs reads (kernel documentation, `filesystems/overlayfs.rst`): a
//! character device 0:0 hides a name, the attribute `trusted.overlay.opaque` hides a directory's
//! lower content.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, Result};

const OPAQUE: &str = "trusted.overlay.opaque";

/// The directory that a layer is unpacked into.
pub(super) struct LayerRoot(OwnedFd);

/// An entry's place: clean components without `.` and `..`, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The components before the last, joined; empty for the root.
    parent: OsString,
    name: OsString,
}

/// An entry's owner, mode, time and attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    /// Permission bits including set-id and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl Place {
    /// The place that an archive's path names; `None` is the root itself.
    ///
    /// # Errors
    /// The path has a `..`, which no honest layer needs.
    pub(super) fn new(path: &[u8]) -> std::result::Result<Option<Self>, &'static str> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("its path has \"..\""),
                part if part.contains(&0) => return Err("its path has a NUL byte"),
                part => parts.push(part),
            }
        }
        Ok(parts.pop().map(|name| Self {
            parent: OsStr::from_bytes(&parts.join(&b'/')).to_owned(),
            name: OsStr::from_bytes(name).to_owned(),
        }))
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The same directory, another name in it.
    pub(super) fn sibling(&self, name: &[u8]) -> Self {
        Self {
            parent: self.parent.clone(),
            name: OsStr::from_bytes(name).to_owned(),
        }
    }
}

impl LayerRoot {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Makes the directory if it is not there, and gives it the entry's attributes but for the time,
    /// which later entries would change: see [`Self::set_directory_time`].
    pub(super) fn make_directory(&self, place: Option<&Place>, meta: &Attributes) -> Result<()> {
        let fd = self.directory(place)?;
        set_attributes(fd.as_fd(), meta)
    }

    /// Sets a directory's modification time once nothing will be written to it any more. A directory
    /// that has meanwhile become something else is left alone.
    pub(super) fn set_directory_time(
        &self,
        place: Option<&Place>,
        mtime: (i64, u32),
    ) -> Result<()> {
        let found = match place {
            None => self.0.try_clone().map_err(|_| Errno::MFILE),
            Some(place) => self
                .open_parent(place, false)
                .and_then(|parent| openat(&parent, &place.name, DIRECTORY, Mode::empty())),
        };
        match found {
            Ok(fd) => futimens(&fd, &times(mtime)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a regular file from a reader, and returns how many bytes it holds.
    pub(super) fn make_file(
        &self,
        place: &Place,
        meta: &Attributes,
        content: &mut dyn Read,
    ) -> io::Result<u64> {
        let parent = self.open_parent(place, true)?;
        vacate(&parent, &place.name)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(
            &parent,
            &place.name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        let bytes = io::copy(content, &mut file)?;
        file.flush()?;
        set_attributes(file.as_fd(), meta)?;
        futimens(&file, &times(meta.mtime))?;
        Ok(bytes)
    }

    /// Makes a symbolic link; its target is kept as written, it means something in the container only.
    pub(super) fn make_symlink(
        &self,
        place: &Place,
        target: &[u8],
        meta: &Attributes,
    ) -> Result<()> {
        let parent = self.open_parent(place, true)?;
        vacate(&parent, &place.name)?;
        symlinkat(OsStr::from_bytes(target), &parent, &place.name)?;
        set_unopened(&parent, &place.name, meta)
    }

    /// Makes a hard link to an earlier entry of the same layer.
    pub(super) fn make_hardlink(&self, place: &Place, target: &Place) -> Result<()> {
        let from = self.open_parent(target, false)?;
        let parent = self.open_parent(place, true)?;
        if place == target {
            return Ok(());
        }
        // The target must exist before the name is cleared for it.
        statat(&from, &target.name, AtFlags::SYMLINK_NOFOLLOW)?;
        vacate(&parent, &place.name)?;
        linkat(&from, &target.name, &parent, &place.name, AtFlags::empty())
    }

    /// Makes a device node or named pipe.
    pub(super) fn make_node(
        &self,
        place: &Place,
        (kind, device): (FileType, Dev),
        meta: &Attributes,
    ) -> Result<()> {
        let parent = self.open_parent(place, true)?;
        vacate(&parent, &place.name)?;
        mknodat(&parent, &place.name, kind, Mode::RUSR | Mode::WUSR, device)?;
        // Changing the owner clears set-id bits, so the mode comes last. A node cannot be opened
        // without side effects, hence by name; it was just made and is no link.
        set_unopened(&parent, &place.name, meta)?;
        rustix::fs::chmodat(
            &parent,
            &place.name,
            Mode::from_raw_mode(meta.mode),
            AtFlags::empty(),
        )?;
        utimensat(
            &parent,
            &place.name,
            &times(meta.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Hides a name of the layers below.
    ///
    /// Content of this very layer stays, whichever came first: a whiteout is about lower layers only
    /// (OCI image specification, `layer.md`, "Whiteouts").
    pub(super) fn hide(&self, place: &Place) -> Result<()> {
        let parent = self.open_parent(place, true)?;
        match kind_of(&parent, &place.name)? {
            Kind::Absent => mknodat(
                &parent,
                &place.name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            ),
            Kind::Directory => {
                let fd = openat(&parent, &place.name, DIRECTORY, Mode::empty())?;
                set_opaque(&fd)
            }
            Kind::Whiteout | Kind::Other => Ok(()),
        }
    }

    /// Hides everything that the layers below have in the directory of a marker.
    pub(super) fn hide_content(&self, marker: &Place) -> Result<()> {
        set_opaque(&self.open_parent(marker, true)?)
    }

    fn directory(&self, place: Option<&Place>) -> Result<OwnedFd> {
        match place {
            None => openat(&self.0, ".", DIRECTORY, Mode::empty()),
            Some(place) => {
                let parent = self.open_parent(place, true)?;
                if kind_of(&parent, &place.name)? == Kind::Other {
                    unlinkat(&parent, &place.name, AtFlags::empty())?;
                }
                enter(&parent, &place.name)
            }
        }
    }

    /// Opens the directory that a place is in, following links inside the layer; missing directories
    /// are made when asked, as archives need not list them.
    fn open_parent(&self, place: &Place, create: bool) -> Result<OwnedFd> {
        let direct = self.resolve(&place.parent);
        match direct {
            Err(Errno::NOENT | Errno::NOTDIR) if create => {}
            other => return other,
        }
        let mut fd = self.resolve(OsStr::new("."))?;
        let mut prefix = Vec::new();
        for part in place.parent.as_bytes().split(|byte| *byte == b'/') {
            if !prefix.is_empty() {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(part);
            fd = match self.resolve(OsStr::from_bytes(&prefix)) {
                Err(Errno::NOENT | Errno::NOTDIR) => enter(&fd, OsStr::from_bytes(part))?,
                other => other?,
            };
        }
        Ok(fd)
    }

    fn resolve(&self, path: &OsStr) -> Result<OwnedFd> {
        let path = if path.is_empty() {
            OsStr::new(".")
        } else {
            path
        };
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(
            &self.0,
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            within,
        )
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory by its last name, making it where there is nothing or a whiteout.
fn enter(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let found = kind_of(parent, name)?;
    match found {
        Kind::Directory => return openat(parent, name, DIRECTORY, Mode::empty()),
        Kind::Absent => {}
        Kind::Whiteout => unlinkat(parent, name, AtFlags::empty())?,
        // A file, or a link whose target is not in this layer: no guess about what was meant.
        Kind::Other => return Err(Errno::NOTDIR),
    }
    mkdirat(
        parent,
        name,
        Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
    )?;
    let fd = openat(parent, name, DIRECTORY, Mode::empty())?;
    if found == Kind::Whiteout {
        // The whiteout hid what the layers below have there; the new directory has to go on hiding it.
        set_opaque(&fd)?;
    }
    Ok(fd)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Directory,
    Whiteout,
    Other,
}

fn kind_of(parent: &OwnedFd, name: &OsStr) -> Result<Kind> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Kind::Absent),
        Err(error) => return Err(error),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_char_device() && stat.st_rdev == 0 {
        Kind::Whiteout
    } else {
        Kind::Other
    })
}

/// Makes room for an entry that comes a second time. A directory with content is not thrown away: an
/// archive that wants that is damaged or hostile.
fn vacate(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match kind_of(parent, name)? {
        Kind::Absent => Ok(()),
        Kind::Directory => unlinkat(parent, name, AtFlags::REMOVEDIR),
        Kind::Whiteout | Kind::Other => unlinkat(parent, name, AtFlags::empty()),
    }
}

fn set_opaque(fd: &OwnedFd) -> Result<()> {
    fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
}

/// Owner first: changing it clears set-id bits and file capabilities.
fn set_attributes(fd: BorrowedFd<'_>, meta: &Attributes) -> Result<()> {
    fchown(
        fd,
        Some(Uid::from_raw(meta.uid)),
        Some(Gid::from_raw(meta.gid)),
    )?;
    fchmod(fd, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        match fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // Capabilities decide what a program may do: losing them silently breaks the image.
            // Anything else is kept where the file system can.
            Err(Errno::OPNOTSUPP | Errno::PERM) if name != "security.capability" => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_unopened(parent: &OwnedFd, name: &OsStr, meta: &Attributes) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    utimensat(parent, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
