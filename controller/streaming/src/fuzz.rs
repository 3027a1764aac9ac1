//! Doors for the fuzzer to what is private. Compiled only for it, by `--cfg fuzzing`.

use bytes::Bytes;

use crate::websocket::{ChannelCodec, Encoding, Message, Outgoing};

/// Reads a message under every channel protocol, and whatever is data once more after writing it.
pub fn websocket_message(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    for (encoding, close_signal) in [
        (Encoding::Binary, true),
        (Encoding::Binary, false),
        (Encoding::Base64, false),
    ] {
        let codec = ChannelCodec {
            encoding,
            close_signal,
        };
        let Ok(Message::Data { channel, bytes }) = codec.decode(&message) else {
            continue;
        };
        let written = match codec.encode(channel, &bytes) {
            Outgoing::Binary(written) => written,
            Outgoing::Text(written) => written.into_bytes(),
        };
        // A digit is one byte; larger channels are never written.
        if encoding == Encoding::Binary || channel < 10 {
            let again = codec.decode(&Bytes::from(written));
            assert_eq!(again, Ok(Message::Data { channel, bytes }));
        }
    }
}
