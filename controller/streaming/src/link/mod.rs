//! Connections as channels: what a session reads from and writes to, whichever
//! protocol carries it.
//!
//! A link has a *driver*, which owns the socket, and *ends*, which a session owns.
//! The session writes into one bounded queue and reads from one bounded queue per
//! channel, so a side that does not read stops the other side and never makes
//! memory grow. When the session is over it drops its ends; the driver then flushes,
//! says goodbye and lingers until the peer has closed. When the peer is gone the
//! driver ends first, and the session is dropped where it stands.
//!
//! Deliberately absent: processes, ports and tokens.

pub(crate) mod activity;
pub(crate) mod spdy;
pub(crate) mod tunnel;
pub(crate) mod websocket;
pub(crate) mod window;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use self::window::Windows;
use crate::spdy::Frame;

/// Items waiting for the socket; each has at most [`CHUNK`] bytes.
pub(crate) const QUEUE: usize = 4;

/// Bytes that are read from a process or a port at a time.
pub(crate) const CHUNK: usize = 32 * 1024;

/// Received pieces that wait for one channel's reader.
const PIECES: usize = 32;

/// Received bytes that wait for all readers of one connection together.
pub(crate) const BACKLOG: usize = 2 * 1024 * 1024;

/// Bytes received before a peer that keeps windows is told that it may send as many again.
pub(crate) const UPDATE: u32 = crate::spdy::INITIAL_WINDOW / 4;

/// How long the peer may take to close after everything was said. What was said may still be in the
/// socket's buffers, and a peer that has not come to read it, such as a kubelet on a machine that has
/// too much to do, would take a connection that ends without a status for success.
const LINGER: Duration = Duration::from_secs(60);

/// How long a peer that broke the protocol may take to read the reason.
const GOODBYE: Duration = Duration::from_secs(1);

/// How often a connection that is held up by a slow reader shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How a connection ended; for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The session was over and everything was sent.
    Finished,
    /// The peer closed the connection or it broke.
    PeerGone,
    /// The peer broke the protocol.
    Protocol,
    /// Nothing moved for too long.
    Idle,
}

/// Something received on a channel.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes, OwnedSemaphorePermit),
    End,
}

/// Something to be sent on a channel.
#[derive(Debug)]
pub(crate) enum Item {
    Data { channel: u32, bytes: Bytes },
    Finish { channel: u32 },
    Reset { channel: u32 },
}

/// The connection is gone, or the peer gave up this channel.
#[derive(Debug)]
pub(crate) struct Gone;

/// The receiving end of a channel.
#[derive(Debug)]
pub(crate) struct Inbound {
    pieces: mpsc::Receiver<Piece>,
    credit: Option<Credit>,
}

/// Tells a SPDY peer how much it may send on.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(crate) stream: u32,
    pub(crate) control: mpsc::Sender<Frame>,
    pub(crate) owed: u32,
}

/// What [`Inbound::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(Bytes),
    /// The peer will send no more, and said so.
    End,
    /// The peer gave the channel up; nothing is known about its intent.
    Reset,
}

impl Inbound {
    pub(crate) fn new(credit: Option<Credit>) -> (mpsc::Sender<Piece>, Inbound) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Inbound { pieces, credit })
    }

    pub(crate) async fn next(&mut self) -> Received {
        match self.pieces.recv().await {
            None => Received::Reset,
            Some(Piece::End) => Received::End,
            Some(Piece::Bytes(bytes, permit)) => {
                drop(permit);
                if let Some(credit) = &mut self.credit {
                    credit.earn(bytes.len()).await;
                }
                Received::Bytes(bytes)
            }
        }
    }
}

impl Credit {
    /// Updates are gathered, so that a stream of small frames does not double its packets.
    async fn earn(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_add(bytes);
        if self.owed < UPDATE {
            return;
        }
        let (stream, delta) = (self.stream, std::mem::take(&mut self.owed));
        // A closed queue means that the connection is ending.
        let _ = self
            .control
            .send(Frame::WindowUpdate { stream, delta })
            .await;
    }
}

/// The sending end of a channel.
#[derive(Debug)]
pub(crate) struct Outbound {
    channel: u32,
    queue: mpsc::Sender<Item>,
    windows: Option<Windows>,
}

impl Outbound {
    pub(crate) fn new(
        channel: u32,
        queue: mpsc::Sender<Item>,
        windows: Option<Windows>,
    ) -> Outbound {
        Outbound {
            channel,
            queue,
            windows,
        }
    }

    /// Waits until the peer takes the bytes; an empty write sends an empty message.
    pub(crate) async fn write(&self, mut bytes: Bytes) -> Result<(), Gone> {
        loop {
            let allowed = match &self.windows {
                Some(windows) => windows.take(bytes.len()).await?,
                None => bytes.len(),
            };
            let piece = bytes.split_to(allowed.min(bytes.len()));
            let item = Item::Data {
                channel: self.channel,
                bytes: piece,
            };
            self.queue.send(item).await.map_err(|_| Gone)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Says that nothing more comes; the other direction stays open.
    pub(crate) async fn finish(self) {
        let _ = self
            .queue
            .send(Item::Finish {
                channel: self.channel,
            })
            .await;
    }

    /// Gives the channel up in both directions.
    pub(crate) async fn reset(self) {
        let _ = self
            .queue
            .send(Item::Reset {
                channel: self.channel,
            })
            .await;
    }
}

/// The receiving side of a driver: puts pieces into a channel within the backlog.
#[derive(Clone, Debug)]
pub(crate) struct Backlog(Arc<Semaphore>);

impl Backlog {
    pub(crate) fn new() -> Backlog {
        Backlog(Arc::new(Semaphore::new(BACKLOG)))
    }

    /// Waits while the reader is slow, and calls `alive` now and then meanwhile.
    /// Pieces for a reader that is gone are dropped.
    pub(crate) async fn deliver(&self, to: &mpsc::Sender<Piece>, bytes: Bytes, alive: impl Fn()) {
        let size = u32::try_from(bytes.len().min(BACKLOG)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0);
        let send = async {
            if let Ok(permit) = room.acquire_many_owned(size).await {
                let _ = to.send(Piece::Bytes(bytes, permit)).await;
            }
        };
        let mut send = pin!(send);
        let mut closed = pin!(to.closed());
        loop {
            tokio::select! {
                () = &mut send => return,
                () = &mut closed => return,
                () = sleep(KEEP_ALIVE) => alive(),
            }
        }
    }
}

/// The common shape of both drivers: read until the peer goes, write until the
/// session is over, watch the clock.
pub(crate) async fn drive(
    read: impl Future<Output = End>,
    write: impl Future<Output = Result<(), Gone>>,
    idle: impl Future<Output = ()>,
) -> End {
    let mut read = pin!(read);
    let mut write = pin!(write);
    let written = tokio::select! {
        end = &mut read => {
            if end == End::Protocol {
                // The session keeps the writer open; it only gets to send the reason.
                let _ = timeout(GOODBYE, write).await;
            }
            return end;
        }
        () = idle => return End::Idle,
        written = &mut write => written,
    };
    match written {
        Err(Gone) => End::PeerGone,
        Ok(()) => {
            // Closing with unread bytes would reset the connection and destroy what the
            // peer has not read yet, so the peer gets time to close first.
            let _ = timeout(LINGER, read).await;
            End::Finished
        }
    }
}

/// Runs a session on its link until either is over.
pub(crate) async fn attend(
    driver: impl Future<Output = End>,
    session: impl Future<Output = ()>,
) -> End {
    let mut driver = pin!(driver);
    tokio::select! {
        end = &mut driver => return end,
        () = session => {}
    }
    driver.await
}
