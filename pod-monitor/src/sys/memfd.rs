//! Files that exist only as descriptors, for what goes to and comes from the OCI runtime.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// An empty one, to be written by somebody else.
pub(crate) fn empty(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?)
}

/// One that holds `bytes` and can be changed by nobody.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0))?;
    fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// The last `limit` bytes of a file at most, wherever its offset is.
pub(crate) fn tail(fd: &OwnedFd, limit: usize) -> io::Result<Vec<u8>> {
    let size = size(fd)?;
    read(fd, size.saturating_sub(limit as u64), size)
}

/// The first `limit` bytes of a file at most, wherever its offset is.
pub(crate) fn head(fd: &OwnedFd, limit: usize) -> io::Result<Vec<u8>> {
    read(fd, 0, size(fd)?.min(limit as u64))
}

fn size(fd: &OwnedFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
}

fn read(fd: &OwnedFd, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        let Some(rest) = bytes.get_mut(filled..) else {
            break;
        };
        match rustix::io::pread(fd, rest, start + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_is_read_back_and_cannot_be_written() {
        let fd = sealed("test", b"content").unwrap();
        assert_eq!(tail(&fd, 100).unwrap(), b"content");
        assert_eq!(tail(&fd, 3).unwrap(), b"ent");
        assert_eq!(head(&fd, 100).unwrap(), b"content");
        assert_eq!(head(&fd, 3).unwrap(), b"con");
        assert_eq!(
            rustix::io::pwrite(&fd, b"x", 0).unwrap_err(),
            rustix::io::Errno::PERM
        );
    }
}
