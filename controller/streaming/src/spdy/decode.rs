//! Bytes to frames, within bounds.

use bytes::{Buf, Bytes, BytesMut};

use super::headers::{HeaderError, Inflater};
use super::{FRAME_HEADER, Frame, VERSION, kind};

/// Payload that a control frame may have; header blocks stay far below it.
pub(crate) const MAX_CONTROL: usize = 32 * 1024;

/// Bytes that one [`Frame::Data`] piece carries at most.
pub(crate) const MAX_PIECE: usize = 32 * 1024;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// The receiving half of a connection.
///
/// Bytes go into [`Decoder::buffer`] in any cut; [`Decoder::next_frame`] is then called
/// until it has no more. The decoder holds at most one control frame beyond what
/// was put in, whatever lengths the peer claims.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    data: Option<Remaining>,
    inflater: Inflater,
}

/// The rest of a data frame whose header was read.
#[derive(Clone, Copy, Debug)]
struct Remaining {
    stream: u32,
    bytes: usize,
    fin: bool,
}

/// A break of the protocol after which the connection cannot be read on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Another protocol, or another version of this one.
    #[error("control frame of version {0}, not {VERSION}")]
    Version(u16),
    /// A control frame that is larger than any real one.
    #[error("control frame of {0} bytes, more than {MAX_CONTROL}")]
    ControlTooLarge(usize),
    /// A control frame that is too short or too long for its type.
    #[error("control frame of type {kind} with {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// Its payload, in bytes.
        length: usize,
    },
    /// Data on stream 0.
    #[error("data frame on stream 0")]
    StreamZero,
    /// A header block that cannot be read.
    #[error("headers of stream {stream}")]
    Headers {
        /// The stream of the block.
        stream: u32,
        /// What is wrong with it.
        #[source]
        source: HeaderError,
    },
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder {
            buffer: BytesMut::new(),
            data: None,
            inflater: Inflater::new(),
        }
    }

    /// Where received bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, or none until more bytes come.
    ///
    /// # Errors
    /// The peer broke the protocol; the connection is to be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        loop {
            if let Some(remaining) = self.data {
                return Ok(self.data_piece(remaining));
            }
            let Some(head) = self.buffer.first_chunk::<FRAME_HEADER>().copied() else {
                return Ok(None);
            };
            let [_, _, _, _, flags, a, b, c] = head;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if head[0] & 0x80 == 0 {
                self.start_data(head, flags, length)?;
                continue;
            }
            let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
            let kind = u16::from_be_bytes([head[2], head[3]]);
            let Some(payload) = self.control_payload(version, length)? else {
                return Ok(None);
            };
            if let Some(frame) = self.control(kind, flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    fn start_data(&mut self, head: [u8; 8], flags: u8, length: usize) -> Result<(), DecodeError> {
        let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if stream == 0 {
            return Err(DecodeError::StreamZero);
        }
        self.buffer.advance(FRAME_HEADER);
        let fin = flags & FLAG_FIN != 0;
        self.data = Some(Remaining {
            stream,
            bytes: length,
            fin,
        });
        Ok(())
    }

    fn data_piece(&mut self, remaining: Remaining) -> Option<Frame> {
        let here = remaining.bytes.min(self.buffer.len()).min(MAX_PIECE);
        if here == 0 && remaining.bytes > 0 {
            return None;
        }
        let bytes = self.buffer.split_to(here).freeze();
        let left = remaining.bytes - here;
        self.data = (left > 0).then_some(Remaining {
            bytes: left,
            ..remaining
        });
        Some(Frame::Data {
            stream: remaining.stream,
            bytes,
            fin: remaining.fin && left == 0,
        })
    }

    fn control_payload(
        &mut self,
        version: u16,
        length: usize,
    ) -> Result<Option<Bytes>, DecodeError> {
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(DecodeError::ControlTooLarge(length));
        }
        if self.buffer.len() < FRAME_HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEADER);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// None for a type that this codec has no use for: it is skipped, as the draft asks.
    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        payload: Bytes,
    ) -> Result<Option<Frame>, DecodeError> {
        let length = payload.len();
        let frame = match kind {
            kind::SYN_STREAM => self.syn_stream(flags, payload)?,
            kind::SYN_REPLY | kind::HEADERS => self.more_headers(kind, flags, payload)?,
            kind::RST_STREAM => {
                pair(payload).map(|(stream, status)| Frame::Reset { stream, status })
            }
            kind::GOAWAY => pair(payload).map(|(last, status)| Frame::GoAway { last, status }),
            kind::WINDOW_UPDATE => pair(payload).map(|(stream, delta)| Frame::WindowUpdate {
                stream,
                delta: delta & 0x7fff_ffff,
            }),
            kind::PING => single(payload).map(Frame::Ping),
            kind::SETTINGS => settings(payload),
            _ => return Ok(None),
        };
        frame.map(Some).ok_or(DecodeError::Length { kind, length })
    }

    fn syn_stream(&mut self, flags: u8, mut payload: Bytes) -> Result<Option<Frame>, DecodeError> {
        if payload.len() < 10 {
            return Ok(None);
        }
        let stream = payload.get_u32() & 0x7fff_ffff;
        let associated = payload.get_u32() & 0x7fff_ffff;
        let priority = payload.get_u8() >> 5;
        payload.advance(1);
        let headers = self.inflater.headers(&payload);
        let headers = headers.map_err(|source| DecodeError::Headers { stream, source })?;
        Ok(Some(Frame::SynStream {
            stream,
            associated,
            priority,
            fin: flags & FLAG_FIN != 0,
            unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
            headers,
        }))
    }

    fn more_headers(
        &mut self,
        kind: u16,
        flags: u8,
        mut payload: Bytes,
    ) -> Result<Option<Frame>, DecodeError> {
        if payload.len() < 4 {
            return Ok(None);
        }
        let stream = payload.get_u32() & 0x7fff_ffff;
        let headers = self.inflater.headers(&payload);
        let headers = headers.map_err(|source| DecodeError::Headers { stream, source })?;
        let fin = flags & FLAG_FIN != 0;
        Ok(Some(if kind == kind::SYN_REPLY {
            Frame::SynReply {
                stream,
                fin,
                headers,
            }
        } else {
            Frame::Headers {
                stream,
                fin,
                headers,
            }
        }))
    }
}

fn single(payload: Bytes) -> Option<u32> {
    let bytes: [u8; 4] = payload.as_ref().try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

fn pair(mut payload: Bytes) -> Option<(u32, u32)> {
    (payload.len() == 8).then(|| (payload.get_u32() & 0x7fff_ffff, payload.get_u32()))
}

fn settings(mut payload: Bytes) -> Option<Frame> {
    let count = usize::try_from(payload.try_get_u32().ok()?).ok()?;
    if payload.len() != count.checked_mul(8)? {
        return None;
    }
    // The top byte of an identifier carries flags that only a cache would look at.
    let entry = |_| (payload.get_u32() & 0x00ff_ffff, payload.get_u32());
    Some(Frame::Settings((0..count).map(entry).collect()))
}
