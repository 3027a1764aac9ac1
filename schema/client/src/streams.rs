//! Byte streams, fetched as descriptors against a token.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use pod_monitor_schema::layout;
use pod_monitor_schema::streams::StreamMask;
use pod_monitor_schema::{Error, ErrorCode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::MonitorError;

/// The caller's ends of a process's streams. What was not asked for is not there.
#[derive(Debug, Default)]
pub struct Streams {
    /// To write the process's standard input to. Closing it is the end of the input.
    pub stdin: Option<OwnedFd>,
    /// To read the process's standard output from.
    pub stdout: Option<OwnedFd>,
    /// To read the process's standard error from.
    pub stderr: Option<OwnedFd>,
    /// The terminal's controlling side, in place of the three others.
    pub terminal: Option<OwnedFd>,
}

/// Exchanges a token for the streams.
pub(crate) async fn fetch(run_directory: &Path, token: &[u8]) -> Result<Streams, MonitorError> {
    let failed = |source: io::Error| {
        let path = run_directory.join(layout::STREAMS_SOCKET);
        MonitorError::io("fetch streams", path, source)
    };
    let mut stream = crate::socket::connect(run_directory, layout::STREAMS_SOCKET).await?;
    stream.write_all(token).await.map_err(failed)?;
    let received = receive(&stream).await.map_err(failed)?;
    match received {
        Some((mask, descriptors)) => sort(mask, descriptors).map_err(failed),
        None => Err(MonitorError::Refused(Error::new(
            ErrorCode::NotFound,
            "fetch streams",
            "",
            "the token is unknown or has expired",
        ))),
    }
}

/// The one message of the protocol; none when the monitor closed the connection instead.
async fn receive(stream: &UnixStream) -> io::Result<Option<(StreamMask, Vec<OwnedFd>)>> {
    let read = || Ok(receive_now(stream)?);
    match stream.async_io(Interest::READABLE, read).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        other => other,
    }
}

fn receive_now(stream: &UnixStream) -> rustix::io::Result<Option<(StreamMask, Vec<OwnedFd>)>> {
    let mut mask = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(StreamMask::ALL.len()))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut mask)];
    let message = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    Ok((message.bytes > 0).then(|| (StreamMask(mask[0]), descriptors)))
}

/// Gives each descriptor the name that the mask has for it.
fn sort(mask: StreamMask, descriptors: Vec<OwnedFd>) -> io::Result<Streams> {
    if mask.count() != descriptors.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the monitor sent another number of descriptors than it said",
        ));
    }
    let mut descriptors = descriptors.into_iter();
    let mut take = |stream| mask.contains(stream).then(|| descriptors.next()).flatten();
    Ok(Streams {
        stdin: take(StreamMask::STDIN),
        stdout: take(StreamMask::STDOUT),
        stderr: take(StreamMask::STDERR),
        terminal: take(StreamMask::TERMINAL),
    })
}
