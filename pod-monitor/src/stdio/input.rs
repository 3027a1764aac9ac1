//! The task that carries an attached client's input to the container.

use std::cell::RefCell;
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
    let source = Rc::new(watched::watch(stdin, Interest::READABLE)?);
    *client.input.source.borrow_mut() = Some(Rc::clone(&source));
    let (streams, client) = (Rc::downgrade(streams), Rc::clone(client));
    tokio::task::spawn_local(async move {
        let end = tokio::select! {
            biased;
            end = carry(&streams, &source, &client) => end,
            // The ends of a client that goes away close one after the other, and its outputs may be
            // first: that is the end of its input no less.
            _ = client.ended() => {
                if carry_rest(&streams, &source) {
                    client.input.wrote.set(true);
                }
                End::Client
            }
        };
        client.input.source.take();
        client.input.unwritten.take();
        let Some(streams) = streams.upgrade() else {
            return;
        };
        if matches!(end, End::Client)
            && client.input.wrote.get()
            && streams.stdin_mode == Stdin::Once
        {
            streams.close_stdin();
        }
        if client.has_no_output() {
            streams.detach(&client, AttachEnd::Detached);
        }
    });
    Ok(())
}

async fn carry(streams: &Weak<Streams>, source: &Watched, client: &Client) -> End {
    let unwritten = &client.input.unwritten;
    loop {
        if !unwritten.borrow().is_empty() {
            let sink = streams.upgrade().and_then(|s| s.stdin.borrow().clone());
            let Some(sink) = sink else {
                return End::Container;
            };
            if write_out(&sink, unwritten).await.is_err() {
                return End::Container;
            }
        }
        let Ok(mut ready) = source.readable().await else {
            return End::Client;
        };
        // Lives as long as the client writes: a client that is only attached costs no buffer.
        let mut bytes = unwritten.take();
        bytes.resize(READ_AHEAD, 0);
        match ready.try_io(|source| Ok(rustix::io::read(source.get_ref(), &mut bytes)?)) {
            Ok(Ok(0) | Err(_)) => return End::Client,
            Ok(Ok(read)) => {
                bytes.truncate(read);
                client.input.wrote.set(true);
                unwritten.replace(bytes);
            }
            Err(_would_block) => {}
        }
    }
}

/// Carries what a client left in its pipe when it went away, as far as the container takes it now.
/// Answers whether there was anything.
fn carry_rest(streams: &Weak<Streams>, source: &Watched) -> bool {
    let sink = streams.upgrade().and_then(|s| s.stdin.borrow().clone());
    let (mut bytes, mut wrote) = ([0; 512], false);
    while let Ok(read @ 1..) = rustix::io::read(source.get_ref(), &mut bytes) {
        wrote = true;
        let rest = bytes.get(..read).unwrap_or_default();
        let taken = sink
            .as_ref()
            .map(|sink| rustix::io::write(sink.get_ref(), rest));
        if !matches!(taken, Some(Ok(taken)) if taken == read) {
            break;
        }
    }
    wrote
}

/// Waits while the container does not read: the client's pipe fills up and stops the client.
async fn write_out(sink: &Watched, unwritten: &RefCell<Vec<u8>>) -> io::Result<()> {
    while !unwritten.borrow().is_empty() {
        let mut room = sink.writable().await?;
        let mut rest = unwritten.borrow_mut();
        match room.try_io(|sink| Ok(rustix::io::write(sink.get_ref(), &rest)?)) {
            Ok(written) => drop(rest.drain(..written?)),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
