//! The monitor's look at a stream of frames: the same kinds are told however the stream is cut.
#![no_main]

#[path = "../../../pod-monitor/src/frames.rs"]
mod frames;

use frames::{Frames, Kind};
use libfuzzer_sys::fuzz_target;

fn kinds<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Kind> {
    let (mut frames, mut kinds) = (Frames::default(), Vec::new());
    chunks.for_each(|chunk| frames.feed(chunk, |kind| kinds.push(kind)));
    kinds
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(kinds(std::iter::once(bytes)), kinds(bytes.chunks(3)));
});
