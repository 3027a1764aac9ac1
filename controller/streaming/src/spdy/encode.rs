//! Frames to bytes.

use bytes::{BufMut, BytesMut};

use super::headers::{Deflater, HeaderError, Headers};
use super::{Frame, VERSION, kind};

/// Payload that the 24 length bits can express.
const MAX_LENGTH: usize = (1 << 24) - 1;

/// The sending half of a connection.
#[derive(Debug)]
pub struct Encoder {
    deflater: Deflater,
}

/// A frame that has no form on the wire.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The payload does not fit the 24 bits of a length.
    #[error("frame of {0} bytes, more than {MAX_LENGTH}")]
    TooLong(usize),
    /// The headers cannot be written.
    #[error("headers of a frame")]
    Headers(#[source] HeaderError),
}

impl Encoder {
    /// An encoder at the start of a connection.
    ///
    /// # Errors
    /// zlib refuses the dictionary, which would be a defect of the build.
    pub fn new() -> Result<Encoder, EncodeError> {
        let deflater = Deflater::new().map_err(EncodeError::Headers)?;
        Ok(Encoder { deflater })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// The frame has no form on the wire; nothing was appended.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), EncodeError> {
        match frame {
            Frame::Data { stream, bytes, fin } => {
                let length = length(bytes.len())?;
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u32(u32::from(*fin) << 24 | length);
                out.extend_from_slice(bytes);
                Ok(())
            }
            Frame::SynStream { headers, .. } => self.headed(&opening(frame), headers, out),
            Frame::SynReply {
                stream,
                fin,
                headers,
            } => {
                let head = Head::of(kind::SYN_REPLY, u8::from(*fin), *stream);
                self.headed(&head, headers, out)
            }
            Frame::Headers {
                stream,
                fin,
                headers,
            } => {
                let head = Head::of(kind::HEADERS, u8::from(*fin), *stream);
                self.headed(&head, headers, out)
            }
            Frame::Reset { stream, status } => fixed(out, kind::RST_STREAM, &[*stream, *status]),
            Frame::GoAway { last, status } => fixed(out, kind::GOAWAY, &[*last, *status]),
            Frame::WindowUpdate { stream, delta } => {
                fixed(out, kind::WINDOW_UPDATE, &[*stream, *delta])
            }
            Frame::Ping(id) => fixed(out, kind::PING, &[*id]),
            Frame::Settings(entries) => {
                let count = u32::try_from(entries.len());
                let count = count.map_err(|_| EncodeError::TooLong(usize::MAX))?;
                let pairs = entries.iter().flat_map(|(id, value)| [*id, *value]);
                fixed(
                    out,
                    kind::SETTINGS,
                    &std::iter::once(count).chain(pairs).collect::<Vec<_>>(),
                )
            }
        }
    }

    fn headed(
        &mut self,
        head: &Head,
        headers: &Headers,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let block = self.deflater.block(headers).map_err(EncodeError::Headers)?;
        control(out, head.kind, head.flags, head.fields.len() + block.len())?;
        out.extend_from_slice(&head.fields);
        out.extend_from_slice(&block);
        Ok(())
    }
}

/// What comes before the header block of a frame that has one.
struct Head {
    kind: u16,
    flags: u8,
    fields: BytesMut,
}

impl Head {
    fn of(kind: u16, flags: u8, stream: u32) -> Head {
        let mut fields = BytesMut::with_capacity(10);
        fields.put_u32(stream & 0x7fff_ffff);
        Head {
            kind,
            flags,
            fields,
        }
    }
}

fn opening(frame: &Frame) -> Head {
    let Frame::SynStream {
        stream,
        associated,
        priority,
        fin,
        unidirectional,
        ..
    } = frame
    else {
        return Head::of(kind::SYN_STREAM, 0, 0);
    };
    let flags = u8::from(*fin) | (u8::from(*unidirectional) << 1);
    let mut head = Head::of(kind::SYN_STREAM, flags, *stream);
    head.fields.put_u32(associated & 0x7fff_ffff);
    head.fields.put_u8((priority & 7) << 5);
    head.fields.put_u8(0);
    head
}

fn fixed(out: &mut BytesMut, kind: u16, words: &[u32]) -> Result<(), EncodeError> {
    control(out, kind, 0, words.len() * 4)?;
    for word in words {
        out.put_u32(*word);
    }
    Ok(())
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, payload: usize) -> Result<(), EncodeError> {
    let length = length(payload)?;
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length);
    Ok(())
}

fn length(payload: usize) -> Result<u32, EncodeError> {
    let fits = u32::try_from(payload)
        .ok()
        .filter(|_| payload <= MAX_LENGTH);
    fits.ok_or(EncodeError::TooLong(payload))
}
