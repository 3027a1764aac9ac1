//! A container's output: no byte is lost or invented, however it is cut, and no line is too long.
#![no_main]

#[path = "../../../pod-monitor/src/memory.rs"]
mod memory;
#[path = "../../../pod-monitor/src/log/splitter.rs"]
mod splitter;

use libfuzzer_sys::fuzz_target;
use splitter::{Piece, Splitter};

const LIMIT: usize = 16;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (size, bytes) = input;
    let mut splitter = Splitter::new(LIMIT);
    let mut joined = Vec::new();
    let mut keep = |piece: Piece<'_>| {
        assert!(piece.len() <= LIMIT);
        joined.extend_from_slice(&memory::copy(&piece.head));
        joined.extend_from_slice(piece.tail);
        joined.extend(piece.end.then_some(b'\n'));
    };
    for chunk in bytes.chunks(usize::from(size).max(1)) {
        splitter.feed(chunk, &mut keep);
    }
    splitter.flush().into_iter().for_each(&mut keep);
    assert!(!splitter.is_pending());
    assert_eq!(joined, bytes);
});
