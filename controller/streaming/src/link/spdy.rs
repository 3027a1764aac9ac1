//! A SPDY connection, driven.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{self, WeakSender};

use super::activity::Activity;
use super::window::{Window, Windows};
use super::{
    Backlog, CHUNK, Credit, End, Gone, Inbound, Item, Outbound, Piece, QUEUE, UPDATE, drive,
};
use crate::spdy::{
    DecodeError, Decoder, Encoder, Frame, Headers, SETTING_INITIAL_WINDOW, goaway, reset,
};

/// Control frames that wait for the socket.
const CONTROL: usize = 64;

/// Streams that one connection may have open; a port-forward uses two per TCP connection.
pub(crate) const MAX_STREAMS: usize = 512;

/// A stream that the peer opened and that was accepted.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
}

/// The session's ends of a connection.
#[derive(Debug)]
pub(crate) struct Streams {
    incoming: mpsc::Receiver<NewStream>,
    /// Keeps the connection open while no stream is.
    _open: mpsc::Sender<Item>,
}

impl Streams {
    /// The next stream; none once the connection is ending.
    pub(crate) async fn next(&mut self) -> Option<NewStream> {
        self.incoming.recv().await
    }
}

/// Whether a stream with these headers is of use to the session.
pub(crate) type Accept = fn(&Headers) -> bool;

/// The session's ends, and the driver that has to run for them to work.
pub(crate) fn open<Io>(
    io: Io,
    accept: Accept,
    idle: Duration,
) -> (Streams, impl Future<Output = End> + Send)
where
    Io: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (control, control_queue) = mpsc::channel(CONTROL);
    let (queue, item_queue) = mpsc::channel(QUEUE);
    let (announce, incoming) = mpsc::channel(MAX_STREAMS);
    let activity = Activity::new();
    let last = Arc::new(AtomicU32::new(0));
    let reader = Reader {
        socket: read,
        decoder: Decoder::new(),
        table: Table {
            accept,
            announce,
            control,
            queue: queue.downgrade(),
            streams: HashMap::new(),
            connection: Window::new(None),
            named_window: None,
            backlog: Backlog::new(),
            last: Arc::clone(&last),
            owed: 0,
            closing: false,
        },
        activity: activity.clone(),
    };
    let writer = Writer {
        socket: write,
        control: control_queue,
        items: item_queue,
        last,
        activity: activity.clone(),
    };
    let driver = async move { drive(reader.run(), writer.run(), activity.idle(idle)).await };
    (
        Streams {
            incoming,
            _open: queue,
        },
        driver,
    )
}

struct Reader<Io> {
    socket: ReadHalf<Io>,
    decoder: Decoder,
    table: Table,
    activity: Activity,
}

impl<Io: AsyncRead> Reader<Io> {
    async fn run(mut self) -> End {
        loop {
            match self.handle_buffered().await {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(error = %crate::chain(&error), "SPDY peer broke the protocol");
                    self.table.refuse_connection().await;
                    return End::Protocol;
                }
            }
            self.decoder.buffer().reserve(CHUNK);
            match self.socket.read_buf(self.decoder.buffer()).await {
                Ok(0) | Err(_) => return End::PeerGone,
                Ok(_) => self.activity.touch(),
            }
        }
    }

    async fn handle_buffered(&mut self) -> Result<(), DecodeError> {
        while let Some(frame) = self.decoder.next_frame()? {
            self.table.handle(frame).await;
        }
        Ok(())
    }
}

/// What the reader knows of a stream.
struct Entry {
    /// Gone once the peer has finished or reset the stream.
    pieces: Option<mpsc::Sender<Piece>>,
    /// Gone once the session has let go of its sending end.
    window: Weak<Window>,
}

impl Entry {
    fn is_over(&self) -> bool {
        let unheard = self.pieces.as_ref().is_none_or(mpsc::Sender::is_closed);
        unheard && self.window.strong_count() == 0
    }
}

struct Table {
    accept: Accept,
    announce: mpsc::Sender<NewStream>,
    control: mpsc::Sender<Frame>,
    queue: WeakSender<Item>,
    streams: HashMap<u32, Entry>,
    connection: Arc<Window>,
    named_window: Option<u32>,
    backlog: Backlog,
    /// The last stream that was accepted; the goodbye names it.
    last: Arc<AtomicU32>,
    /// Bytes that the connection's window was not told of yet.
    owed: u32,
    closing: bool,
}

impl Table {
    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream {
                stream,
                fin,
                headers,
                ..
            } => self.open(stream, fin, headers).await,
            Frame::Data { stream, bytes, fin } => self.data(stream, bytes, fin).await,
            Frame::Reset { stream, .. } => self.reset(stream),
            Frame::Headers {
                stream, fin: true, ..
            } => self.finish(stream).await,
            Frame::WindowUpdate { stream: 0, delta } => self.connection.grow(delta),
            Frame::WindowUpdate { stream, delta } => {
                let window = self
                    .streams
                    .get(&stream)
                    .and_then(|entry| entry.window.upgrade());
                if let Some(window) = window {
                    window.grow(delta);
                }
            }
            Frame::Settings(entries) => {
                let named = entries.iter().find(|(id, _)| *id == SETTING_INITIAL_WINDOW);
                self.named_window = named.map(|(_, size)| *size).or(self.named_window);
            }
            // Odd identifiers are the client's own and want an answer.
            Frame::Ping(id) if id % 2 == 1 => self.send(Frame::Ping(id)).await,
            Frame::GoAway { .. } => self.closing = true,
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { fin: false, .. } => {}
        }
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) {
        if stream.is_multiple_of(2) || stream <= self.last.load(Ordering::Relaxed) {
            return self.refuse(stream, reset::PROTOCOL_ERROR).await;
        }
        if self.closing {
            return self.refuse(stream, reset::REFUSED_STREAM).await;
        }
        self.last.store(stream, Ordering::Relaxed);
        self.streams.retain(|_, entry| !entry.is_over());
        let Some(queue) = self.queue.upgrade() else {
            return;
        };
        if self.streams.len() >= MAX_STREAMS || !(self.accept)(&headers) {
            return self.refuse(stream, reset::REFUSED_STREAM).await;
        }
        let window = Window::new(self.named_window);
        let credit = Credit {
            stream,
            control: self.control.clone(),
            owed: 0,
        };
        let (pieces, inbound) = Inbound::new(Some(credit));
        let entry = Entry {
            pieces: Some(pieces),
            window: Arc::downgrade(&window),
        };
        let windows = Windows {
            stream: window,
            connection: Arc::clone(&self.connection),
        };
        let outbound = Outbound::new(stream, queue, Some(windows));
        // The reply is queued before the session can write, and control frames go first.
        self.send(Frame::SynReply {
            stream,
            fin: false,
            headers: Headers::default(),
        })
        .await;
        let new = NewStream {
            id: stream,
            headers,
            inbound,
            outbound,
        };
        if self.announce.try_send(new).is_err() {
            return self.refuse(stream, reset::REFUSED_STREAM).await;
        }
        self.streams.insert(stream, entry);
        if fin {
            self.finish(stream).await;
        }
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let pieces = self
            .streams
            .get(&stream)
            .and_then(|entry| entry.pieces.as_ref());
        if let Some(pieces) = pieces.filter(|_| !bytes.is_empty()) {
            // Copied, so that a small piece does not hold on to a whole read buffer.
            let bytes = Bytes::copy_from_slice(&bytes);
            let alive = || {
                let _ = self.control.try_send(Frame::Ping(2));
            };
            self.backlog.deliver(pieces, bytes, alive).await;
        }
        self.return_window(bytes.len()).await;
        if fin {
            self.finish(stream).await;
        }
    }

    /// The connection's window covers what nobody reads, too: streams that are over
    /// must not use it up. The stream's own window is returned by its reader.
    async fn return_window(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_add(bytes);
        if self.owed >= UPDATE {
            let delta = std::mem::take(&mut self.owed);
            self.send(Frame::WindowUpdate { stream: 0, delta }).await;
        }
    }

    async fn finish(&mut self, stream: u32) {
        let pieces = self
            .streams
            .get_mut(&stream)
            .and_then(|entry| entry.pieces.take());
        if let Some(pieces) = pieces {
            let _ = pieces.send(Piece::End).await;
        }
    }

    fn reset(&mut self, stream: u32) {
        if let Some(entry) = self.streams.remove(&stream)
            && let Some(window) = entry.window.upgrade()
        {
            window.reset();
        }
    }

    async fn refuse(&self, stream: u32, status: u32) {
        self.send(Frame::Reset { stream, status }).await;
    }

    async fn refuse_connection(&self) {
        let last = self.last.load(Ordering::Relaxed);
        self.send(Frame::GoAway {
            last,
            status: goaway::PROTOCOL_ERROR,
        })
        .await;
    }

    async fn send(&self, frame: Frame) {
        // A closed queue means that the writer has already ended the connection.
        let _ = self.control.send(frame).await;
    }
}

struct Writer<Io> {
    socket: WriteHalf<Io>,
    control: mpsc::Receiver<Frame>,
    items: mpsc::Receiver<Item>,
    last: Arc<AtomicU32>,
    activity: Activity,
}

impl<Io: AsyncWrite> Writer<Io> {
    async fn run(mut self) -> Result<(), Gone> {
        let mut encoder = Encoder::new().map_err(|_| Gone)?;
        let mut out = BytesMut::with_capacity(CHUNK + 64);
        loop {
            let first = tokio::select! {
                biased;
                Some(frame) = self.control.recv() => Some(frame),
                item = self.items.recv() => item.map(frame_of),
            };
            let Some(first) = first else {
                break;
            };
            encoder.encode(&first, &mut out).map_err(|_| Gone)?;
            while out.len() < CHUNK
                && let Some(next) = self.waiting()
            {
                encoder.encode(&next, &mut out).map_err(|_| Gone)?;
            }
            self.write(&mut out).await?;
        }
        let last = self.last.load(Ordering::Relaxed);
        let goodbye = Frame::GoAway {
            last,
            status: goaway::OK,
        };
        encoder.encode(&goodbye, &mut out).map_err(|_| Gone)?;
        self.write(&mut out).await?;
        self.socket.shutdown().await.map_err(|_| Gone)
    }

    fn waiting(&mut self) -> Option<Frame> {
        let control = self.control.try_recv().ok();
        control.or_else(|| self.items.try_recv().ok().map(frame_of))
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Gone> {
        self.socket.write_all(out).await.map_err(|_| Gone)?;
        self.socket.flush().await.map_err(|_| Gone)?;
        self.activity.touch();
        out.clear();
        Ok(())
    }
}

fn frame_of(item: Item) -> Frame {
    match item {
        Item::Data { channel, bytes } => Frame::Data {
            stream: channel,
            bytes,
            fin: false,
        },
        Item::Finish { channel } => Frame::Data {
            stream: channel,
            bytes: Bytes::new(),
            fin: true,
        },
        Item::Reset { channel } => Frame::Reset {
            stream: channel,
            status: reset::CANCEL,
        },
    }
}
