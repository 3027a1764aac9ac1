//! Two logical connections over one: each piece goes behind its connection's number and its length,
//! both four bytes, big-endian (`pkg/net/multiplex` of the reference). Pure.
//!
//! The reference's reader hands a piece whole to whoever reads next, and fails when that one's buffer
//! is smaller. Behind it sits a buffered reader of [`FIRST`] bytes that reads past its buffer only
//! when it wants more than that. So a message goes as a first piece that fits the buffer, and one
//! more with all the rest; many small ones would overflow the peer's queue of 256 pieces.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::ttrpc;

/// The logical connection on which the plugin serves.
pub(crate) const PLUGIN: u32 = 1;
/// The logical connection on which the runtime serves.
pub(crate) const RUNTIME: u32 = 2;

/// Bytes before each piece.
pub(crate) const PREFIX: usize = 8;
/// The size of the buffer behind the reference's reader.
const FIRST: usize = 4096;

/// A piece longer than any message: nothing after it can be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a piece of {length} bytes on logical connection {connection}")]
pub(crate) struct Oversized {
    connection: u32,
    length: usize,
}

/// What stands before a piece: the connection, and how many bytes follow.
pub(crate) fn prefix(bytes: [u8; PREFIX]) -> Result<(u32, usize), Oversized> {
    let [a, b, c, d, rest @ ..] = bytes;
    let connection = u32::from_be_bytes([a, b, c, d]);
    let length = usize::try_from(u32::from_be_bytes(rest)).unwrap_or(usize::MAX);
    if length > ttrpc::HEADER + ttrpc::LARGEST {
        return Err(Oversized { connection, length });
    }
    Ok((connection, length))
}

/// A message of `connection`, cut and prefixed.
pub(crate) fn pieces(connection: u32, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 2 * PREFIX);
    let (first, rest) = message.split_at(message.len().min(FIRST));
    for piece in [first, rest] {
        if piece.is_empty() {
            continue;
        }
        framed.put_u32(connection);
        // A message is at most 4 MiB: see `ttrpc::encode`.
        framed.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        framed.put_slice(piece);
    }
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(framed: &[u8]) -> Vec<(u32, usize)> {
        let mut left = framed;
        let mut found = Vec::new();
        while let Some((head, rest)) = left.split_first_chunk::<PREFIX>() {
            let (connection, length) = prefix(*head).unwrap();
            found.push((connection, length));
            left = &rest[length..];
        }
        assert!(left.is_empty());
        found
    }

    #[test]
    fn a_message_goes_in_at_most_two_pieces() {
        let rows: [(usize, &[usize]); 5] = [
            (0, &[]),
            (1, &[1]),
            (4096, &[4096]),
            (4097, &[4096, 1]),
            (1 << 20, &[4096, (1 << 20) - 4096]),
        ];
        for (length, expected) in rows {
            let framed = pieces(RUNTIME, &vec![7; length]);
            let expected: Vec<_> = expected.iter().map(|length| (RUNTIME, *length)).collect();
            assert_eq!(lengths(&framed), expected);
        }
    }

    #[test]
    fn a_piece_that_no_message_needs_is_refused() {
        let bytes = |length: u32| {
            let mut bytes = [0; PREFIX];
            bytes[3] = 1;
            bytes[4..].copy_from_slice(&length.to_be_bytes());
            bytes
        };
        assert_eq!(prefix(bytes((4 << 20) + 10)), Ok((1, (4 << 20) + 10)));
        let error = prefix(bytes((4 << 20) + 11)).unwrap_err();
        assert!(error.to_string().contains("4194315"), "{error}");
        assert!(prefix(bytes(u32::MAX)).is_err());
    }
}
