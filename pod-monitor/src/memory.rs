//! Allocations that leave nothing behind.

/// Smaller ones are kept by the allocator for the next time, which costs little.
const SMALL: usize = 2048;
/// Larger ones than the allocator's threshold for a mapping of their own, in musl and in glibc,
/// go back to the kernel when they are freed. Of what is asked for, only what is used costs pages.
const MAPPED: usize = 160 * 1024;

/// Makes room for `more` bytes, at the end of what may become much.
pub(crate) fn reserve(bytes: &mut Vec<u8>, more: usize) {
    let needed = bytes.len() + more;
    if needed <= bytes.capacity() {
        return;
    }
    if needed > SMALL {
        bytes.reserve_exact(needed.max(MAPPED) - bytes.len());
    } else {
        bytes.reserve_exact(more);
    }
}

/// A copy of what may be much.
pub(crate) fn copy(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::new();
    reserve(&mut copy, bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_takes_little_and_much_takes_a_mapping() {
        assert_eq!(copy(b"abc").capacity(), 3);
        let mut much = copy(&[7; SMALL + 1]);
        assert!(much.capacity() >= MAPPED);
        let before = much.capacity();
        reserve(&mut much, 100);
        assert_eq!((much.capacity(), much.len()), (before, SMALL + 1));
    }
}
