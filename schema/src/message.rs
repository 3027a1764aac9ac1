//! How an owned type becomes a Cap'n Proto message and back.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use capnp::traits::Owned;
use capnp::{message, serialize};

use crate::{Error, wire};

/// The most bytes that one message may have, and that reading it may visit.
///
/// Cap'n Proto's own limit is 64 MiB, allocated at the word of the peer.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// A struct of the schema as an owned value.
pub trait Message: Sized {
    /// The generated marker type of the struct.
    type Wire: Owned;

    /// Takes the value out of a message.
    ///
    /// # Errors
    /// When the message is malformed, exceeds a limit, or holds a text that is not UTF-8 or an
    /// enumerant that this version does not know.
    fn read(reader: <Self::Wire as Owned>::Reader<'_>) -> capnp::Result<Self>;

    /// Writes the value into a message under construction.
    fn write(&self, builder: <Self::Wire as Owned>::Builder<'_>);
}

/// The answer of a call that has nothing to say.
impl Message for () {
    type Wire = wire::empty::Owned;

    fn read(_: wire::empty::Reader<'_>) -> capnp::Result<Self> {
        Ok(())
    }

    fn write(&self, _: wire::empty::Builder<'_>) {}
}

/// The limits under which both sides read messages.
#[must_use]
pub fn reader_options() -> message::ReaderOptions {
    let mut options = message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(MESSAGE_BYTES_MAX as usize / 8));
    options
}

/// A value as one framed message, as it travels in a memfd.
#[must_use]
pub fn to_bytes<M: Message>(value: &M) -> Vec<u8> {
    let mut message = message::Builder::new_default();
    value.write(message.init_root());
    serialize::write_message_to_words(&message)
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// See [`Message::read`]; also when the bytes are not one whole message.
pub fn from_bytes<M: Message>(mut bytes: &[u8]) -> capnp::Result<M> {
    let message = serialize::read_message(&mut bytes, reader_options())?;
    M::read(message.get_root()?)
}

/// Takes the answer of a call out of its `Result` struct.
///
/// # Errors
/// The outer error is the message's fault, the inner one is what the callee refused with.
pub fn read_result<M: Message>(
    reader: wire::result::Reader<'_, M::Wire>,
) -> capnp::Result<Result<M, Error>> {
    match reader.which()? {
        wire::result::Value(value) => M::read(value?).map(Ok),
        wire::result::Error(error) => Error::read(error?).map(Err),
    }
}

/// Writes the answer of a call into its `Result` struct.
pub fn write_result<M: Message>(
    value: &Result<M, Error>,
    builder: wire::result::Builder<'_, M::Wire>,
) {
    match value {
        Ok(value) => value.write(builder.init_value()),
        Err(error) => error.write(builder.init_error()),
    }
}

pub(crate) fn text(reader: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<String> {
    Ok(reader?.to_string()?)
}

/// Paths are bytes on Linux: what is not UTF-8 arrives unchanged.
pub(crate) fn path(reader: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<PathBuf> {
    Ok(std::ffi::OsString::from_vec(reader?.as_bytes().to_vec()).into())
}

pub(crate) fn path_text(path: &Path) -> capnp::text::Reader<'_> {
    OsStr::as_bytes(path.as_os_str()).into()
}

/// The schema's zero stands for "not there".
pub(crate) fn present<N: Default + PartialEq>(number: N) -> Option<N> {
    (number != N::default()).then_some(number)
}

/// The length of a list as Cap'n Proto counts it. A list that long does not fit in a message, so
/// the cut is never seen.
pub(crate) fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

pub(crate) fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
