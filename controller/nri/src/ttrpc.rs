//! The messages of ttrpc 1.x, as far as calls with one request and one answer need them: ten bytes of
//! header (length, stream, type, flags), then protobuf (`PROTOCOL.md` of containerd/ttrpc). Pure.
//!
//! Deliberately absent: streams of data within a call. No call of the Node Resource Interface has
//! any.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;

/// Bytes before each message.
pub(crate) const HEADER: usize = 10;
/// The largest message that a peer accepts, without its header.
pub(crate) const LARGEST: usize = 4 << 20;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// gRPC's status codes, as far as they are told apart here.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// A call.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) payload: Bytes,
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
}

impl Request {
    pub(crate) fn new(
        service: &str,
        method: &str,
        payload: &impl prost::Message,
        limit: Duration,
    ) -> Self {
        Self {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.encode_to_vec().into(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

/// The answer to a call.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

/// `google.rpc.Status`, without its details.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

impl Response {
    pub(crate) fn ok(payload: &impl prost::Message) -> Self {
        Self {
            status: None,
            payload: payload.encode_to_vec().into(),
        }
    }

    pub(crate) fn error(code: i32, message: impl Into<String>) -> Self {
        Self {
            status: Some(Status {
                code,
                message: message.into(),
            }),
            payload: Bytes::new(),
        }
    }
}

/// A message that is whole.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Request { stream: u32, request: Request },
    Response { stream: u32, response: Response },
}

/// What cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes")]
pub(crate) struct TooLarge(pub(crate) usize);

/// What cannot be understood, nor anything after it.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("a message of {0} bytes")]
    TooLarge(usize),
    #[error("a message of type {0}, flags {1}")]
    Unknown(u8, u8),
    #[error("a message that cannot be decoded")]
    Decode(#[from] prost::DecodeError),
}

impl Message {
    /// The bytes to send.
    pub(crate) fn encode(&self) -> Result<Bytes, TooLarge> {
        let (stream, kind, length) = match self {
            Self::Request { stream, request } => (*stream, REQUEST, request.encoded_len()),
            Self::Response { stream, response } => (*stream, RESPONSE, response.encoded_len()),
        };
        let declared = u32::try_from(length).map_err(|_| TooLarge(length))?;
        if length > LARGEST {
            return Err(TooLarge(length));
        }
        let mut bytes = BytesMut::with_capacity(HEADER + length);
        bytes.put_u32(declared);
        bytes.put_u32(stream);
        bytes.put_u8(kind);
        bytes.put_u8(0);
        let encoded = match self {
            Self::Request { request, .. } => request.encode(&mut bytes),
            Self::Response { response, .. } => response.encode(&mut bytes),
        };
        encoded.map_err(|_| TooLarge(length))?;
        Ok(bytes.freeze())
    }
}

/// Puts messages together from whatever pieces they come in.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    buffer: BytesMut,
}

impl Assembler {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole message, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, BadMessage> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h, kind, flags] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes([e, f, g, h]);
        if length > LARGEST {
            return Err(BadMessage::TooLarge(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let body = self.buffer.split_to(length).freeze();
        match kind {
            REQUEST => Ok(Some(Message::Request {
                stream,
                request: Request::decode(body)?,
            })),
            RESPONSE => Ok(Some(Message::Response {
                stream,
                response: Response::decode(body)?,
            })),
            _ => Err(BadMessage::Unknown(kind, flags)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api;

    fn register() -> Message {
        let payload = api::RegisterPluginRequest {
            plugin_name: "p".into(),
            plugin_idx: "01".into(),
            nri_version: String::new(),
        };
        Message::Request {
            stream: 3,
            request: Request::new("s", "m", &payload, Duration::from_nanos(5)),
        }
    }

    #[test]
    fn bytes_of_a_request() {
        let expected: &[u8] = &[
            0, 0, 0, 17, 0, 0, 0, 3, 1, 0, // header
            0x0a, 1, b's', 0x12, 1, b'm', // service, method
            0x1a, 7, 0x0a, 1, b'p', 0x12, 2, b'0', b'1', // payload
            0x20, 5, // timeout
        ];
        assert_eq!(&register().encode().unwrap()[..], expected);
    }

    #[test]
    fn too_much_is_refused_on_either_side() {
        let message = Message::Response {
            stream: 1,
            response: Response {
                status: None,
                payload: vec![0; LARGEST].into(),
            },
        };
        assert!(message.encode().is_err());
        let mut assembler = Assembler::default();
        assembler.push(&[0, 0x40, 0, 1, 0, 0, 0, 1, 2, 0]);
        let length = LARGEST + 1;
        assert_eq!(assembler.next(), Err(BadMessage::TooLarge(length)));
    }

    #[test]
    fn a_stream_of_data_is_not_understood() {
        let mut assembler = Assembler::default();
        assembler.push(&[0, 0, 0, 0, 0, 0, 0, 1, 3, 1]);
        assert_eq!(assembler.next(), Err(BadMessage::Unknown(3, 1)));
    }

    proptest! {
        #[test]
        fn messages_come_back_from_any_pieces(
            codes in prop::collection::vec(0..20i32, 1..6),
            cut in 1..40usize,
        ) {
            let messages: Vec<Message> = codes.iter().map(|code: &i32| Message::Response {
                stream: code.unsigned_abs() * 2 + 1,
                response: Response::error(*code, "x".repeat(code.unsigned_abs() as usize)),
            }).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|m| m.encode().unwrap()).collect();
            let mut assembler = Assembler::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                assembler.push(piece);
                while let Some(message) = assembler.next().unwrap() {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn garbage_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut assembler = Assembler::default();
            assembler.push(&bytes);
            for _ in 0..=bytes.len() {
                match assembler.next() {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
