//! The channel protocols of Kubernetes over WebSocket messages, as a pure codec.
//!
//! Every message starts with its channel: one byte in the binary protocols, one
//! digit before base64 text in the others. Version 5 adds a message that closes a
//! channel. Message framing itself is left to the WebSocket library.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// First byte of a version 5 message that closes the channel named by the second.
const CLOSE: u8 = 255;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    Base64,
}

/// One negotiated channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelCodec {
    pub(crate) encoding: Encoding,
    /// Version 5: a channel can be closed by itself.
    pub(crate) close_signal: bool,
}

/// A received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    Close {
        channel: u8,
    },
    /// Without a channel: a client that shows that it is alive.
    Empty,
}

/// A sent message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Binary(Vec<u8>),
    Text(String),
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MessageError {
    #[error("close message of {0} bytes instead of 2")]
    Close(usize),
    #[error("message does not start with a channel digit")]
    Channel,
    #[error("message for channel {0} is not base64")]
    Base64(u8),
}

impl ChannelCodec {
    pub(crate) fn decode(self, message: &Bytes) -> Result<Message, MessageError> {
        let Some((&first, rest)) = message.split_first() else {
            return Ok(Message::Empty);
        };
        if self.close_signal && first == CLOSE {
            let &[channel] = rest else {
                return Err(MessageError::Close(message.len()));
            };
            return Ok(Message::Close { channel });
        }
        match self.encoding {
            Encoding::Binary => Ok(Message::Data {
                channel: first,
                bytes: message.slice(1..),
            }),
            Encoding::Base64 => {
                let channel = first.checked_sub(b'0').ok_or(MessageError::Channel)?;
                let bytes = STANDARD
                    .decode(rest)
                    .map_err(|_| MessageError::Base64(channel))?;
                Ok(Message::Data {
                    channel,
                    bytes: bytes.into(),
                })
            }
        }
    }

    pub(crate) fn encode(self, channel: u8, bytes: &[u8]) -> Outgoing {
        match self.encoding {
            Encoding::Binary => {
                let mut message = Vec::with_capacity(1 + bytes.len());
                message.push(channel);
                message.extend_from_slice(bytes);
                Outgoing::Binary(message)
            }
            Encoding::Base64 => {
                let mut message = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
                message.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(bytes, &mut message);
                Outgoing::Text(message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V5: ChannelCodec = ChannelCodec {
        encoding: Encoding::Binary,
        close_signal: true,
    };
    const V4: ChannelCodec = ChannelCodec {
        encoding: Encoding::Binary,
        close_signal: false,
    };
    const TEXT: ChannelCodec = ChannelCodec {
        encoding: Encoding::Base64,
        close_signal: false,
    };

    fn data(channel: u8, bytes: &'static [u8]) -> Result<Message, MessageError> {
        Ok(Message::Data {
            channel,
            bytes: Bytes::from_static(bytes),
        })
    }

    #[test]
    fn messages_are_read_as_their_protocol_says() {
        type Row = (ChannelCodec, &'static [u8], Result<Message, MessageError>);
        let rows: [Row; 11] = [
            (V5, b"", Ok(Message::Empty)),
            (V5, b"\x00foo\n", data(0, b"foo\n")),
            (V5, b"\x00", data(0, b"")),
            (V5, b"\xff\x00", Ok(Message::Close { channel: 0 })),
            (V5, b"\xff", Err(MessageError::Close(1))),
            (V5, b"\xff\x00\x00", Err(MessageError::Close(3))),
            (V4, b"\xff\x00", data(255, b"\x00")),
            (TEXT, b"0Zm9vCgA=", data(0, b"foo\n\x00")),
            (TEXT, b"4", data(4, b"")),
            (TEXT, b"0Zm9", Err(MessageError::Base64(0))),
            (TEXT, b"\x00Zm9v", Err(MessageError::Channel)),
        ];
        for (codec, message, expected) in rows {
            let found = codec.decode(&Bytes::from_static(message));
            assert_eq!(found, expected, "{codec:?} {message:?}");
        }
    }

    #[test]
    fn messages_are_written_as_their_protocol_says() {
        assert_eq!(V4.encode(1, b"hi"), Outgoing::Binary(b"\x01hi".to_vec()));
        assert_eq!(TEXT.encode(1, b"\n"), Outgoing::Text("1Cg==".to_owned()));
        assert_eq!(TEXT.encode(3, b""), Outgoing::Text("3".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            channel in 0u8..5,
            payload in proptest::collection::vec(any::<u8>(), 0..500),
        ) {
            for codec in [V5, V4, TEXT] {
                let message = match codec.encode(channel, &payload) {
                    Outgoing::Binary(bytes) => Bytes::from(bytes),
                    Outgoing::Text(text) => Bytes::from(text),
                };
                let expected = Message::Data { channel, bytes: payload.clone().into() };
                prop_assert_eq!(codec.decode(&message), Ok(expected));
            }
        }

        #[test]
        fn no_message_panics(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            for codec in [V5, V4, TEXT] {
                let _ = codec.decode(&Bytes::from(payload.clone()));
            }
        }
    }
}
