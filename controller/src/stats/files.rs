//! The files of one cgroup, read through descriptors that stay open.
//!
//! Opening a cgroup file and closing it costs about seven microseconds, reading most of them one. So
//! a file stays open from the first question that needs it, and is read with `pread` at 0, which makes
//! the kernel write it anew. The price is the kernel's: a page of buffer for every file that was read
//! and is still open. Hence nothing is opened before it is needed; who never asks for metrics pays
//! for the few files of the lists only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cgroup::Cgroups;

/// Room for the longest of these files; `memory.stat` has about two kilobytes.
const ROOM: usize = 32 << 10;
/// What has less than this has no more.
const NEARLY_A_PAGE: usize = 4096 - 256;

/// One file that a cgroup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CgroupFile {
    /// The controller by which version 1 finds the hierarchy.
    pub(super) controller: &'static str,
    pub(super) name: &'static str,
}

/// The open files of all cgroups: how many, and how many there may be.
#[derive(Debug)]
pub(super) struct Kept {
    open: AtomicUsize,
    limit: usize,
}

impl Kept {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit,
        }
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether one more may stay open.
    fn take(&self) -> bool {
        let more = |open: usize| (open < self.limit).then_some(open + 1);
        let order = Ordering::Relaxed;
        self.open.fetch_update(order, order, more).is_ok()
    }
}

/// What files are read with: one room for all of a question's files.
pub(super) struct Desk<'a> {
    pub(super) cgroups: &'a Cgroups,
    room: Vec<u8>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(cgroups: &'a Cgroups) -> Self {
        Self {
            cgroups,
            room: vec![0; ROOM],
        }
    }

    /// The text of a file that does not stay open.
    pub(super) fn text(&mut self, file: &File) -> Option<&str> {
        text(file, &mut self.room).ok()
    }
}

/// One cgroup.
#[derive(Debug)]
pub(super) struct CgroupFiles {
    /// Below each hierarchy's root.
    path: PathBuf,
    open: Vec<(CgroupFile, File)>,
    kept: Arc<Kept>,
}

impl CgroupFiles {
    pub(super) fn new(path: PathBuf, kept: Arc<Kept>) -> Self {
        Self {
            path,
            open: Vec::new(),
            kept,
        }
    }

    /// The text of a file. `None` where it is not, or the cgroup is gone.
    pub(super) fn read<'d>(&mut self, desk: &'d mut Desk<'_>, file: CgroupFile) -> Option<&'d str> {
        let at = match self.open.iter().position(|(known, _)| *known == file) {
            Some(at) => at,
            None => {
                let opened = self.open(desk.cgroups, file)?;
                if !self.kept.take() {
                    return text(&opened, &mut desk.room).ok();
                }
                self.open.push((file, opened));
                self.open.len() - 1
            }
        };
        match text(&self.open[at].1, &mut desk.room) {
            Ok(text) => Some(text),
            Err(_) => {
                // ENODEV: the cgroup was removed. One made anew under this name is another file.
                self.open.swap_remove(at);
                self.kept.open.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// The directory in the hierarchy of a controller.
    pub(super) fn directory(&self, cgroups: &Cgroups, controller: &str) -> Option<PathBuf> {
        Some(cgroups.root(controller)?.join(&self.path))
    }

    /// Whether the cgroup above is one that systemd made for a container.
    pub(super) fn is_below_scope(&self) -> bool {
        let above = self.path.parent().and_then(Path::extension);
        above.is_some_and(|extension| extension == "scope")
    }

    fn open(&self, cgroups: &Cgroups, file: CgroupFile) -> Option<File> {
        let directory = self.directory(cgroups, file.controller)?;
        File::open(directory.join(file.name)).ok()
    }
}

impl Drop for CgroupFiles {
    fn drop(&mut self) {
        self.kept.open.fetch_sub(self.open.len(), Ordering::Relaxed);
    }
}

/// Most of these files are written in one go, so that one `pread` has all of it. A list of processes comes by
/// the page (`seq_read_iter` in fs/seq_file.c of the kernel); where the room ends, so does its last whole line.
fn text<'d>(file: &File, room: &'d mut [u8]) -> io::Result<&'d str> {
    let mut length = file.read_at(room, 0)?;
    while (NEARLY_A_PAGE..room.len()).contains(&length) {
        match file.read_at(&mut room[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    if length == room.len() {
        length = room.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    }
    std::str::from_utf8(&room[..length]).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cgroup::{Driver, Monitors};
    use crate::spec::{CgroupFacts, CgroupVersion};

    const USAGE: CgroupFile = CgroupFile {
        controller: "memory",
        name: "usage",
    };
    const STAT: CgroupFile = CgroupFile {
        controller: "memory",
        name: "stat",
    };

    fn cgroups(mount: &Path) -> Cgroups {
        let facts = CgroupFacts {
            version: CgroupVersion::V2,
            hybrid: false,
            controllers: BTreeSet::new(),
            swap: false,
            hugepage_sizes: BTreeSet::new(),
        };
        Cgroups::new(mount, &facts, Driver::Cgroupfs, Monitors::default()).unwrap()
    }

    #[test]
    fn files_stay_open_up_to_the_limit_and_are_read_anew() {
        let mount = tempfile::tempdir().unwrap();
        let directory = mount.path().join("pod/c");
        std::fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("usage", "1");
        write("stat", "a 1");
        let (cgroups, kept) = (cgroups(mount.path()), Arc::new(Kept::new(1)));
        let mut desk = Desk::new(&cgroups);
        let mut files = CgroupFiles::new(cgroups.container_path("/pod", "c"), kept.clone());
        assert_eq!(files.read(&mut desk, USAGE), Some("1"));
        assert_eq!(files.read(&mut desk, STAT), Some("a 1"));
        assert_eq!((kept.open(), files.open.len()), (1, 1));
        write("usage", "22");
        assert_eq!(files.read(&mut desk, USAGE), Some("22"));
        drop(files);
        assert_eq!(kept.open(), 0);
        std::fs::remove_file(directory.join("usage")).unwrap();
        let mut files = CgroupFiles::new(cgroups.container_path("/pod", "c"), kept);
        assert_eq!(files.read(&mut desk, USAGE), None);
    }
}
