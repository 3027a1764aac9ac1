//! SPDY from a client: the same frames however the stream is cut.
#![no_main]

use husk_streaming::spdy::{Decoder, Frame};
use libfuzzer_sys::fuzz_target;

/// The frames without how data happened to be cut, and whether the protocol was broken.
fn frames(bytes: &[u8], size: usize) -> (Vec<String>, bool) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Data { .. })) => {}
                Ok(Some(frame)) => frames.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(frames(bytes, bytes.len().max(1)), frames(bytes, 5));
});
