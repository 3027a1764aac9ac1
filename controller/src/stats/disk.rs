//! What containers wrote to their root file systems.
//!
//! Finding out means walking a container's files, which the container decides the number of. So a
//! measurement is used again for at least [`FRESH`], and for [`RATIO`] times the time it took: a
//! million files cost a hundredth of a core at most. A list renews what is old for no longer than
//! [`PATIENCE`] in all, the oldest first, and gives the older numbers of the rest, with their time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use husk_image::{DiskUsage, Images};

/// The least time that a measurement is used.
pub(super) const FRESH: Duration = Duration::from_secs(10);
const RATIO: u32 = 100;
const PATIENCE: Duration = Duration::from_millis(2);

/// The file system that root file systems are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// The device, as the mount table has it.
    pub device: String,
    /// Its size.
    pub bytes: u64,
    /// Files that it can hold.
    pub inodes: u64,
    /// Files that it has room for.
    pub inodes_free: u64,
}

impl FileSystem {
    /// The one that a path is on; zeros where it cannot be asked.
    pub(super) fn of(path: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let device = device(&mounts, Path::new(path)).unwrap_or_default();
        let Ok(found) = rustix::fs::statvfs(path) else {
            return Self {
                device,
                ..Self::default()
            };
        };
        Self {
            device,
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_favail,
        }
    }
}

/// The source of the mount that a path is on: the innermost one, and of those the last. Fields as
/// in proc_pid_mountinfo(5).
fn device(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let point = front.split(' ').nth(4)?.to_owned();
        let source = back.split(' ').nth(1)?.to_owned();
        path.starts_with(&point).then_some((point.len(), source))
    };
    let mounts = mounts.lines().filter_map(mount);
    mounts
        .max_by_key(|(length, _)| *length)
        .map(|(_, source)| source)
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// Bytes and files.
    pub usage: DiskUsage,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    written: Written,
    taken: Instant,
    stale: Instant,
}

/// The measurements of all containers.
#[derive(Debug, Default)]
pub(super) struct Disk {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Disk {
    /// Measures those that were never measured, and some of those that are stale.
    pub(super) async fn renew(&self, images: &Images, ids: &[&str]) {
        let started = Instant::now();
        let (new, mut stale) = self.due(ids, started);
        stale.sort_unstable_by_key(|(taken, _)| *taken);
        for id in new {
            self.measure(images, id).await;
        }
        for (_, id) in stale {
            if started.elapsed() > PATIENCE {
                return;
            }
            self.measure(images, id).await;
        }
    }

    fn due<'a>(&self, ids: &[&'a str], now: Instant) -> (Vec<&'a str>, Vec<(Instant, &'a str)>) {
        let entries = self.lock();
        let (mut new, mut stale) = (Vec::new(), Vec::new());
        for id in ids {
            match entries.get(*id) {
                None => new.push(*id),
                Some(entry) if entry.stale <= now => stale.push((entry.taken, *id)),
                Some(_) => {}
            }
        }
        (new, stale)
    }

    async fn measure(&self, images: &Images, id: &str) {
        let started = Instant::now();
        let Ok(usage) = images.container_usage(id).await else {
            self.forget(id);
            return;
        };
        let taken = Instant::now();
        let entry = Entry {
            written: Written {
                at: crate::clock::now(),
                usage,
            },
            taken,
            stale: taken + FRESH.max((taken - started) * RATIO),
        };
        self.lock().insert(id.to_owned(), entry);
    }

    /// The last measurement.
    pub(super) fn written(&self, id: &str) -> Option<Written> {
        self.lock().get(id).map(|entry| entry.written)
    }

    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_names_the_device() {
        let mounts = "22 1 253:0 / / rw shared:1 - ext4 /dev/vda1 rw
23 22 0:5 / /var/lib rw - tmpfs first rw
24 22 0:6 / /var/lib rw - tmpfs second rw
25 22 0:7 / /var/library rw - tmpfs other rw\n";
        let rows = [
            ("/var/lib/husk", Some("second")),
            ("/var/log", Some("/dev/vda1")),
            ("relative", None),
        ];
        for (path, expected) in rows {
            assert_eq!(device(mounts, Path::new(path)).as_deref(), expected);
        }
        assert!(FileSystem::of("/").inodes >= FileSystem::of("/").inodes_free);
    }

    #[test]
    fn only_what_is_new_or_stale_is_due() {
        let disk = Disk::default();
        let now = Instant::now();
        let entry = |age: u64| Entry {
            written: Written {
                at: 1,
                usage: DiskUsage::default(),
            },
            taken: now,
            stale: now + FRESH - Duration::from_secs(age),
        };
        for (id, age) in [("fresh", 9), ("stale", 10), ("older", 60)] {
            disk.lock().insert(id.into(), entry(age));
        }
        let (new, stale) = disk.due(&["fresh", "stale", "older", "new"], now);
        let stale: Vec<&str> = stale.into_iter().map(|(_, id)| id).collect();
        assert_eq!((new, stale), (vec!["new"], vec!["stale", "older"]));
        assert!(disk.written("fresh").is_some());
        disk.forget("fresh");
        assert!(disk.written("fresh").is_none());
    }
}
