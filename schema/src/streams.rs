//! The protocol of the streams socket, over which byte streams are handed out as descriptors.
//!
//! The client connects and sends the [`Token`] of an exec's or attach's answer, [`TOKEN_BYTES`]
//! bytes. The monitor answers with one message: one byte, a [`StreamMask`], and in one
//! `SCM_RIGHTS` control message the descriptors that the mask names, lowest bit first. Then it
//! closes the connection. An unknown, used or expired token closes it without a byte.
//!
//! A client that sends a token of its own choice with one descriptor deposits that descriptor, for a
//! call that names the token. The monitor answers with an empty mask when it has it.

use std::fmt;

/// How long a token is.
pub const TOKEN_BYTES: usize = 16;

/// A secret that fetches the streams of one exec or attach, once.
#[derive(Clone, Copy)]
pub struct Token(pub [u8; TOKEN_BYTES]);

impl Token {
    /// A token from the bytes of a reply; none when there are too few or too many.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Takes as long for tokens that differ in the first byte as for those that differ in the last.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        let differing = self
            .0
            .iter()
            .zip(other.0)
            .fold(0, |bits, (a, b)| bits | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Which descriptors follow, in the order of the bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamMask(pub u8);

impl StreamMask {
    /// The end to write the process's standard input to.
    pub const STDIN: Self = Self(1);
    /// The end to read its standard output from.
    pub const STDOUT: Self = Self(1 << 1);
    /// The end to read its standard error from.
    pub const STDERR: Self = Self(1 << 2);
    /// The terminal's controlling side, to read and to write.
    pub const TERMINAL: Self = Self(1 << 3);
    /// A pidfd of the process.
    pub const PROCESS: Self = Self(1 << 4);
    /// All that this version knows, in the order of their descriptors.
    pub const ALL: [Self; 5] = [
        Self::STDIN,
        Self::STDOUT,
        Self::STDERR,
        Self::TERMINAL,
        Self::PROCESS,
    ];

    /// Whether all of `other` are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With `other` added.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How many descriptors follow.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_when_every_byte_is() {
        let token = Token([7; TOKEN_BYTES]);
        assert_eq!(token, Token::from_slice(&[7; TOKEN_BYTES]).unwrap());
        for index in 0..TOKEN_BYTES {
            let mut other = token;
            other.0[index] ^= 1;
            assert_ne!(token, other, "byte {index}");
        }
        assert_eq!(Token::from_slice(&[7; TOKEN_BYTES - 1]), None);
        assert_eq!(Token::from_slice(&[7; TOKEN_BYTES + 1]), None);
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn mask_counts_what_it_contains() {
        let mask = StreamMask::STDIN.with(StreamMask::TERMINAL);
        assert_eq!((mask.0, mask.count()), (0b1001, 2));
        assert!(mask.contains(StreamMask::TERMINAL));
        assert!(!mask.contains(StreamMask::STDOUT));
    }
}
