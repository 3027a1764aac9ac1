//! The log file of a container, in the format that a node's log readers expect.
//!
//! A line is `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <content>\n`: `F` ends a line
//! of the program's, `P` is a piece of one that goes on in the next line of the same stream.
//!
//! Owns: how bytes become lines (`splitter`, pure), how a moment is written (`time`, pure), and
//! the file (`writer`).
//!
//! Deliberately absent: rotation, which is the reader's business and reaches the monitor as
//! "open it again", and any waiting: a log write never stops a container.

pub(crate) mod splitter;
pub(crate) mod time;
pub(crate) mod writer;

/// Where bytes came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}
