//! Descriptors over unix sockets (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors of one message.
const MOST: usize = 4;

/// Sends one message of one byte with the descriptors.
pub(crate) fn send(socket: impl AsFd, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(&[byte])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message and the first descriptor in it. `None` is the end of the stream.
///
/// An OCI runtime sends a terminal's master together with the terminal's name, which is not used.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut name)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut received = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            received = received.or(fds.next());
        }
    }
    if received.is_none() && message.bytes > 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(received)
}

/// Receives bytes of a stream, and the descriptor that came with them, where one did. No bytes are
/// the end of the stream.
pub(crate) fn receive_bytes(
    socket: impl AsFd,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut received = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            received = received.or(fds.next());
        }
    }
    Ok((message.bytes, received))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_and_a_message_without_one_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pipe = crate::sys::pipe::pipe().unwrap();
        send(&ours, 1, &[pipe.write.as_fd()]).unwrap();
        let received = receive(&theirs).unwrap().unwrap();
        rustix::io::write(&received, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&pipe.read, &mut byte).unwrap(), 1);
        send(&ours, 1, &[]).unwrap();
        assert!(receive(&theirs).is_err());
        drop(ours);
        assert!(receive(&theirs).unwrap().is_none());
    }
}
