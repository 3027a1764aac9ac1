//! The monitor's side of the streams socket.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Mutex;

use pod_monitor_schema::streams::{StreamMask, TOKEN_BYTES};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;

use super::lock;

/// Descriptors to hand out, in the order of the mask.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    mask: StreamMask,
    descriptors: Vec<OwnedFd>,
}

impl Parcel {
    /// To be called in the order of the streams' bits.
    pub(super) fn add(&mut self, stream: StreamMask, descriptor: OwnedFd) {
        self.mask = self.mask.with(stream);
        self.descriptors.push(descriptor);
    }
}

/// What waits to be fetched.
#[derive(Debug, Default)]
pub(super) struct Door(Mutex<HashMap<[u8; TOKEN_BYTES], Parcel>>);

impl Door {
    /// Leaves a parcel and says by which token it is fetched.
    pub(super) fn leave(&self, parcel: Parcel) -> io::Result<[u8; TOKEN_BYTES]> {
        let mut token = [0; TOKEN_BYTES];
        getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
        lock(&self.0).insert(token, parcel);
        Ok(token)
    }

    /// Serves one client. Whatever is wrong with it, its connection is closed.
    pub(super) async fn hand_out(&self, mut stream: UnixStream) {
        let mut token = [0; TOKEN_BYTES];
        if stream.read_exact(&mut token).await.is_err() {
            return;
        }
        let parcel = lock(&self.0).remove(&token);
        if let Some(parcel) = parcel {
            let sent = stream
                .async_io(Interest::WRITABLE, || Ok(send(&stream, &parcel)?))
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a client did not take its streams");
            }
        }
    }
}

fn send(stream: &UnixStream, parcel: &Parcel) -> rustix::io::Result<usize> {
    let descriptors: Vec<_> = parcel.descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(StreamMask::ALL.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let mask = [parcel.mask.0];
    sendmsg(
        stream,
        &[IoSlice::new(&mask)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}
