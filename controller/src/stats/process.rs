//! What `/proc` says of a container's processes.

use std::fs;

use super::parse;
use super::usage::Details;

/// Counts the open files of these processes and the sockets among them. A process that ends
/// meanwhile counts as nothing.
pub(super) fn describe(pids: &[u32], first: Option<u32>, details: &mut Details) {
    details.processes = u64::try_from(pids.len()).unwrap_or_default();
    for pid in pids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for file in files.flatten() {
            details.descriptors += 1;
            let target = fs::read_link(file.path()).unwrap_or_default();
            if target
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"socket:")
            {
                details.sockets += 1;
            }
        }
    }
    let limits = first.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    details.descriptors_limit = limits.as_deref().and_then(parse::open_files_limit);
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
