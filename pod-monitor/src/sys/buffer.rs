//! The one buffer of the process for output.
//!
//! Every stream of every container is read into the same pages, because a monitor's private
//! memory is a budget in kilobytes and only one read happens at a time. What is made of a read,
//! such as lines of a log, lies right behind it, so that little output touches one page. The pages
//! come from the kernel when first touched, and go back to it when the streams have been quiet for
//! a while.

use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// What one read may bring, in bytes: a pipe's default capacity.
pub(crate) const READ: usize = 64 * 1024;
/// The whole: a read, and as lines what a read usually becomes.
const SIZE: usize = 3 * READ;
/// The part that is kept: little output touches no more of it.
pub(crate) const KEPT: usize = 4 * 1024;

thread_local! {
    static BUFFER: RefCell<Option<Pages>> = const { RefCell::new(None) };
}

/// Lends the buffer to `work`. The borrow cannot outlive the call, so nothing awaits with it.
///
/// # Errors
/// The kernel's when it has no pages, or `ResourceBusy` when the buffer is lent already.
pub(crate) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
    BUFFER.with(|buffer| {
        let mut buffer = buffer
            .try_borrow_mut()
            .map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        let pages = match buffer.take() {
            Some(pages) => buffer.insert(pages),
            None => buffer.insert(Pages::map()?),
        };
        Ok(work(pages.bytes()))
    })
}

/// Gives all but the first page back to the kernel.
pub(crate) fn trim() {
    BUFFER.with(|buffer| {
        if let Ok(mut buffer) = buffer.try_borrow_mut()
            && let Some(pages) = buffer.as_mut()
        {
            pages.release();
        }
    });
}

/// `SIZE` bytes of anonymous memory.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
}

impl Pages {
    fn map() -> io::Result<Pages> {
        // SAFETY: no address is asked for, so no mapping in use is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        NonNull::new(start.cast())
            .map(|start| Pages { start })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is SIZE bytes long, always readable as bytes (the kernel fills it
        // with zeros), and borrowed mutably for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), SIZE) }
    }

    fn release(&mut self) {
        let rest = self.bytes().get_mut(KEPT..).unwrap_or_default();
        // Memory that stays is no failure of anything.
        // SAFETY: the range is inside the mapping and page-aligned; nobody else borrows it, and
        // its content means nothing between two reads.
        let _ = unsafe {
            rustix::mm::madvise(rest.as_mut_ptr().cast(), rest.len(), Advice::LinuxDontNeed)
        };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no slice of it is alive.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_lent_once_and_loses_its_content_when_trimmed() {
        with(|bytes| {
            assert_eq!(bytes.len(), SIZE);
            bytes.fill(7);
            assert!(with(|_| ()).is_err());
        })
        .unwrap();
        trim();
        with(|bytes| {
            assert_eq!(bytes[KEPT - 1], 7);
            assert!(bytes[KEPT..].iter().all(|byte| *byte == 0));
        })
        .unwrap();
    }
}
