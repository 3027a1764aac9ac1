//! What `/proc` says of a container's processes.

use std::fs;
use std::mem::MaybeUninit;

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};

use super::parse;
use super::usage::Details;

/// Room for the entries of a directory, and more than enough for what a descriptor's link begins with.
const ROOM: usize = 2048;
const LINK: usize = 16;

/// Counts the open files of these processes and the sockets among them. A process that ends
/// meanwhile counts as nothing.
pub(super) fn describe(pids: &[u32], first: Option<u32>, details: &mut Details) {
    details.processes = u64::try_from(pids.len()).unwrap_or_default();
    for pid in pids {
        let (files, sockets) = descriptors(*pid).unwrap_or_default();
        details.descriptors += files;
        details.sockets += sockets;
    }
    let limits = first.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    details.descriptors_limit = limits.as_deref().and_then(parse::open_files_limit);
}

/// Links are read below the open directory: the way to it takes the kernel as long as the rest.
fn descriptors(pid: u32) -> Option<(u64, u64)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()?;
    let (mut files, mut sockets) = (0, 0);
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut entries = RawDir::new(&directory, &mut room);
    while let Some(entry) = entries.next() {
        let Ok(entry) = entry else { break };
        let name = entry.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        files += 1;
        let mut link = [MaybeUninit::uninit(); LINK];
        if let Ok((target, _)) = readlinkat_raw(&directory, name, &mut link) {
            sockets += u64::from(target.starts_with(b"socket:"));
        }
    }
    Some((files, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_from_other_files() {
        let own = std::process::id();
        let count = || {
            let mut details = Details::default();
            describe(&[own, u32::MAX], Some(own), &mut details);
            details
        };
        let _file = fs::File::open("/proc/self/status").unwrap();
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let found = count();
        assert_eq!(found.processes, 2);
        assert!(found.sockets >= 2 && found.descriptors > found.sockets);
        assert!(found.descriptors_limit.is_some());
    }
}
