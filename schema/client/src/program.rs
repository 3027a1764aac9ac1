//! The monitor's program and its configuration, each in a sealed memfd.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use memfd::{FileSeal, Memfd, MemfdOptions};
use rustix::fs::MemfdFlags;

use crate::MonitorError;

const SEALS: [FileSeal; 4] = [
    FileSeal::SealShrink,
    FileSeal::SealGrow,
    FileSeal::SealWrite,
    FileSeal::SealSeal,
];

/// How much of two programs is compared in one go.
const ROUND: usize = 64 * 1024;

/// The monitor's program, copied once into a sealed memfd from which every monitor is executed.
///
/// So all monitors share the memory of its text, an upgrade of the package does not pull the
/// program from under a running pod, and nothing that runs in a container can overwrite it.
#[derive(Clone, Debug)]
pub struct Program(Arc<Memfd>);

impl Program {
    /// Copies the program at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or the kernel gives no memfd that may be executed
    /// (`vm.memfd_noexec=2`).
    pub fn seal(path: &Path) -> Result<Self, MonitorError> {
        Self::copy(path)
            .map(|memfd| Self(Arc::new(memfd)))
            .map_err(|source| MonitorError::io("seal", path, source))
    }

    fn copy(path: &Path) -> io::Result<Memfd> {
        let mut file = executable_memfd()?;
        io::copy(&mut File::open(path)?, &mut file)?;
        seal(Memfd::try_from_file(file).map_err(|_| io::ErrorKind::Unsupported)?)
    }

    /// Whether a file, such as `/proc/<pid>/exe`, is this very program.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_same_as(&self, path: &Path) -> io::Result<bool> {
        let (mut file, own) = (File::open(path)?, self.0.as_file());
        let size = own.metadata()?.len();
        if file.metadata()?.len() != size {
            return Ok(false);
        }
        let (mut theirs, mut ours) = (vec![0; ROUND], vec![0; ROUND]);
        let mut offset = 0;
        while offset < size {
            let read = file.read(&mut theirs)?;
            if read == 0 {
                return Ok(false);
            }
            own.read_exact_at(&mut ours[..read], offset)?;
            if theirs[..read] != ours[..read] {
                return Ok(false);
            }
            offset += read as u64;
        }
        Ok(true)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_file().as_fd()
    }
}

/// A memfd whose content may be executed, which since Linux 6.3 has to be asked for where
/// `vm.memfd_noexec` is set. Earlier kernels do not know the flag.
fn executable_memfd() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = pod_monitor_schema::layout::PROGRAM_NAME;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?.into()),
        other => Ok(other?.into()),
    }
}

/// The bytes in a sealed memfd, to be read from its start.
pub(crate) fn sealed_bytes(name: &str, bytes: &[u8]) -> io::Result<Memfd> {
    let memfd = MemfdOptions::default()
        .allow_sealing(true)
        .create(name)
        .map_err(io::Error::other)?;
    memfd.as_file().write_all(bytes)?;
    // The monitor shares this offset.
    rustix::fs::seek(memfd.as_file(), rustix::fs::SeekFrom::Start(0))?;
    seal(memfd)
}

fn seal(memfd: Memfd) -> io::Result<Memfd> {
    memfd.add_seals(&SEALS).map_err(io::Error::other)?;
    Ok(memfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let mut bytes = vec![7; 2 * ROUND + 5];
        std::fs::write(&path, &bytes).unwrap();
        let program = Program::seal(&path).unwrap();
        assert!(program.is_same_as(&path).unwrap());
        bytes[ROUND + 1] = 8;
        std::fs::write(&path, &bytes).unwrap();
        assert!(!program.is_same_as(&path).unwrap());
        std::fs::write(&path, &bytes[..ROUND]).unwrap();
        assert!(!program.is_same_as(&path).unwrap());
        assert!(program.is_same_as(&directory.path().join("none")).is_err());
    }
}
