//! SPDY/3.1 as a pure codec: bytes in, frames out, and back.
//!
//! Owns the frame layout, the compressed header blocks and the bounds that a
//! hostile peer runs into. The facts are those of the SPDY/3.1 draft; where Go's
//! `spdystream`, the peer of every Kubernetes client, is laxer than the draft, the
//! decoder is as lax.
//!
//! Deliberately absent: sockets, clocks, stream states and flow control. Those
//! live in `connection`, which drives this codec.
//!
//! The codec is public so that a test client can speak to the server with it.

mod decode;
mod dictionary;
mod encode;
mod headers;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::decode::{DecodeError, Decoder};
pub use self::encode::{EncodeError, Encoder};
pub use self::headers::{HeaderError, Headers};

/// Bytes before the payload of every frame.
pub(crate) const FRAME_HEADER: usize = 8;

/// Protocol version in every control frame; SPDY/3.1 still says 3.
pub(crate) const VERSION: u16 = 3;

/// Bytes a stream may send before the first WINDOW_UPDATE (draft, section 2.6.8).
pub const INITIAL_WINDOW: u32 = 64 * 1024;

/// Identifier of the setting that changes [`INITIAL_WINDOW`] for new streams.
pub const SETTING_INITIAL_WINDOW: u32 = 7;

/// Frame type numbers (draft, section 2.6).
pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const SETTINGS: u16 = 4;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
    pub(crate) const WINDOW_UPDATE: u16 = 9;
}

/// Status codes of RST_STREAM (draft, section 2.6.3).
pub mod reset {
    /// The peer broke the protocol on this stream.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// The stream was refused before anything was done for it.
    pub const REFUSED_STREAM: u32 = 3;
    /// The creator of the stream does not need it any more.
    pub const CANCEL: u32 = 5;
    /// The endpoint failed.
    pub const INTERNAL_ERROR: u32 = 6;
}

/// Status codes of GOAWAY (draft, section 2.6.6).
pub mod goaway {
    /// An orderly end.
    pub const OK: u32 = 0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
}

/// One frame; data frames may arrive in several pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Identifier of the new stream: odd from clients, even from servers.
        stream: u32,
        /// Stream this one belongs to, or 0.
        associated: u32,
        /// From 0, the highest, to 7.
        priority: u8,
        /// The sender will send nothing on it.
        fin: bool,
        /// The receiver may send nothing on it.
        unidirectional: bool,
        /// What the stream is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The accepted stream.
        stream: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// Answer of the receiver.
        headers: Headers,
    },
    /// More headers on an open stream.
    Headers {
        /// The stream they belong to.
        stream: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The added headers.
        headers: Headers,
    },
    /// Ends a stream in both directions at once.
    Reset {
        /// The ended stream.
        stream: u32,
        /// One of [`reset`].
        status: u32,
    },
    /// Settings of the sender, as identifier and value.
    Settings(Vec<(u32, u32)>),
    /// To be sent back when its parity is that of the other side.
    Ping(u32),
    /// The sender accepts no more streams.
    GoAway {
        /// Last stream that the sender accepted.
        last: u32,
        /// One of [`goaway`].
        status: u32,
    },
    /// The sender can take this many more bytes; stream 0 is the connection.
    WindowUpdate {
        /// The stream, or 0.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// Payload, or a piece of it: only the last piece of a frame carries `fin`.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes of this piece.
        bytes: Bytes,
        /// The sender will send nothing more.
        fin: bool,
    },
}
