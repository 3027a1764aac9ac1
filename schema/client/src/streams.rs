//! Byte streams, fetched as descriptors against a token.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use pod_monitor_schema::layout;
use pod_monitor_schema::streams::{StreamMask, Token};
use pod_monitor_schema::{Error, ErrorCode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
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
    let mut fetched = fetch_all(run_directory, token).await?;
    Ok(Streams {
        stdin: fetched.take(StreamMask::STDIN),
        stdout: fetched.take(StreamMask::STDOUT),
        stderr: fetched.take(StreamMask::STDERR),
        terminal: fetched.take(StreamMask::TERMINAL),
    })
}

fn failure(run_directory: &Path, operation: &'static str) -> impl Fn(io::Error) -> MonitorError {
    let path = run_directory.join(layout::STREAMS_SOCKET);
    move |source| MonitorError::io(operation, &path, source)
}

/// Descriptors by what they are.
#[derive(Debug)]
pub(crate) struct Fetched(Vec<(StreamMask, OwnedFd)>);

impl Fetched {
    pub(crate) fn take(&mut self, kind: StreamMask) -> Option<OwnedFd> {
        let index = self.0.iter().position(|(found, _)| *found == kind)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// Exchanges a token for all that waits under it.
pub(crate) async fn fetch_all(run_directory: &Path, token: &[u8]) -> Result<Fetched, MonitorError> {
    let failed = failure(run_directory, "fetch streams");
    let mut stream = crate::socket::connect(run_directory, layout::STREAMS_SOCKET).await?;
    stream.write_all(token).await.map_err(&failed)?;
    let received = receive(&stream).await.map_err(&failed)?;
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

/// Deposits a descriptor under a token, and waits until the monitor has it.
pub(crate) async fn deposit(
    run_directory: &Path,
    token: &Token,
    fd: BorrowedFd<'_>,
) -> Result<(), MonitorError> {
    let failed = failure(run_directory, "deposit");
    let stream = crate::socket::connect(run_directory, layout::STREAMS_SOCKET).await?;
    let send = || Ok(send_now(&stream, token, fd)?);
    let sent = stream.async_io(Interest::WRITABLE, send).await;
    if sent.map_err(&failed)? != token.0.len() {
        return Err(failed(io::ErrorKind::WriteZero.into()));
    }
    match receive(&stream).await.map_err(&failed)? {
        Some(_) => Ok(()),
        None => Err(failed(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn send_now(stream: &UnixStream, token: &Token, fd: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
        return Err(rustix::io::Errno::INVAL);
    }
    let parts = [IoSlice::new(&token.0)];
    sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL)
}

/// Gives each descriptor the name that the mask has for it.
fn sort(mask: StreamMask, descriptors: Vec<OwnedFd>) -> io::Result<Fetched> {
    if mask.count() != descriptors.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the monitor sent another number of descriptors than it said",
        ));
    }
    let kinds = StreamMask::ALL.into_iter();
    let kinds = kinds.filter(|kind| mask.contains(*kind));
    Ok(Fetched(kinds.zip(descriptors).collect()))
}
