//! The task that carries an attached client's input to the container.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use pod_monitor_schema::{AttachEnd, Stdin};
use tokio::io::Interest;

use super::{Client, Streams};
use crate::sys::watched::{self, Watched};

/// The most that is read ahead of the container, in bytes.
const READ_AHEAD: usize = 4096;

/// Why the input ended.
enum End {
    Client,
    Container,
}

pub(super) fn spawn(streams: &Rc<Streams>, client: &Rc<Client>, stdin: OwnedFd) -> io::Result<()> {
    let source = watched::watch(stdin, Interest::READABLE)?;
    let (streams, client) = (Rc::downgrade(streams), Rc::clone(client));
    tokio::task::spawn_local(async move {
        let mut wrote = false;
        let end = tokio::select! {
            _ = client.ended() => return,
            end = carry(&streams, &source, &mut wrote) => end,
        };
        let Some(streams) = streams.upgrade() else {
            return;
        };
        if matches!(end, End::Client) && wrote && streams.stdin_mode == Stdin::Once {
            streams.stdin.take();
        }
        if client.has_no_output() {
            streams.detach(&client, AttachEnd::Detached);
        }
    });
    Ok(())
}

async fn carry(streams: &Weak<Streams>, source: &Watched, wrote: &mut bool) -> End {
    // Lives as long as the client writes: a client that is only attached costs no buffer.
    let mut bytes = Vec::new();
    loop {
        let Ok(mut ready) = source.readable().await else {
            return End::Client;
        };
        bytes.resize(READ_AHEAD, 0);
        match ready.try_io(|source| Ok(rustix::io::read(source.get_ref(), &mut bytes)?)) {
            Ok(Ok(0) | Err(_)) => return End::Client,
            Ok(Ok(read)) => bytes.truncate(read),
            Err(_would_block) => {
                bytes = Vec::new();
                continue;
            }
        }
        *wrote = true;
        let Some(sink) = streams.upgrade().and_then(|s| s.stdin.borrow().clone()) else {
            return End::Container;
        };
        if write_all(&sink, &bytes).await.is_err() {
            return End::Container;
        }
    }
}

/// Waits while the container does not read: the client's pipe fills up and stops the client.
async fn write_all(sink: &Watched, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        let mut room = sink.writable().await?;
        match room.try_io(|sink| Ok(rustix::io::write(sink.get_ref(), rest)?)) {
            Ok(written) => rest = rest.get(written?..).unwrap_or_default(),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
