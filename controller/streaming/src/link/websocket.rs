//! A WebSocket connection with channels, driven.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::activity::Activity;
use super::{Backlog, CHUNK, End, Gone, Inbound, Item, Outbound, Piece, QUEUE, drive};
use crate::websocket::{self, ChannelCodec, Outgoing};

/// Bytes of one message; Go's clients stay below 33 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The session's ends of a connection.
#[derive(Debug)]
pub(crate) struct Channels {
    inbound: HashMap<u8, Inbound>,
    queue: mpsc::Sender<Item>,
}

impl Channels {
    /// The receiving end of a channel that was opened as readable, once.
    pub(crate) fn inbound(&mut self, channel: u8) -> Option<Inbound> {
        self.inbound.remove(&channel)
    }

    pub(crate) fn outbound(&self, channel: u8) -> Outbound {
        Outbound::new(u32::from(channel), self.queue.clone(), None)
    }
}

/// The server's side of a WebSocket after the upgrade.
pub(crate) async fn accept<Io>(io: Io) -> WebSocketStream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The session's ends, and the driver that has to run for them to work.
pub(crate) fn open<Io>(
    socket: WebSocketStream<Io>,
    codec: ChannelCodec,
    readable: impl IntoIterator<Item = u8>,
    idle: Duration,
) -> (Channels, impl Future<Output = End> + Send)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, source) = socket.split();
    let (queue, items) = mpsc::channel(QUEUE);
    let (alive, heartbeat) = mpsc::channel(1);
    let activity = Activity::new();
    let (pieces, inbound) = readable
        .into_iter()
        .map(|channel| {
            let (sender, inbound) = Inbound::new(None);
            ((channel, sender), (channel, inbound))
        })
        .unzip();
    let reader = Reader {
        source,
        codec,
        pieces,
        alive,
        backlog: Backlog::new(),
        activity: activity.clone(),
    };
    let writer = Writer {
        sink,
        codec,
        items,
        heartbeat,
        activity: activity.clone(),
    };
    let driver = async move { drive(reader.run(), writer.run(), activity.idle(idle)).await };
    (Channels { inbound, queue }, driver)
}

struct Reader<Io> {
    source: SplitStream<WebSocketStream<Io>>,
    codec: ChannelCodec,
    pieces: HashMap<u8, mpsc::Sender<Piece>>,
    alive: mpsc::Sender<()>,
    backlog: Backlog,
    activity: Activity,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Reader<Io> {
    async fn run(mut self) -> End {
        loop {
            let bytes = match self.source.next().await {
                None | Some(Err(_)) | Some(Ok(Message::Close(_))) => return End::PeerGone,
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                // The library answers pings by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Bytes::new(),
            };
            self.activity.touch();
            match self.codec.decode(&bytes) {
                Ok(message) => self.deliver(message).await,
                Err(error) => {
                    tracing::debug!(%error, "WebSocket peer broke the protocol");
                    return End::Protocol;
                }
            }
        }
    }

    async fn deliver(&mut self, message: websocket::Message) {
        match message {
            websocket::Message::Data { channel, bytes } => {
                if let Some(pieces) = self.pieces.get(&channel).filter(|_| !bytes.is_empty()) {
                    let alive = || {
                        let _ = self.alive.try_send(());
                    };
                    self.backlog.deliver(pieces, bytes, alive).await;
                }
            }
            websocket::Message::Close { channel } => {
                if let Some(pieces) = self.pieces.remove(&channel) {
                    let _ = pieces.send(Piece::End).await;
                }
            }
            websocket::Message::Empty => {}
        }
    }
}

struct Writer<Io> {
    sink: SplitSink<WebSocketStream<Io>, Message>,
    codec: ChannelCodec,
    items: mpsc::Receiver<Item>,
    heartbeat: mpsc::Receiver<()>,
    activity: Activity,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Writer<Io> {
    async fn run(mut self) -> Result<(), Gone> {
        loop {
            let message = tokio::select! {
                // While a slow container holds the reader up, no ping of the client is
                // answered; an unasked pong keeps its watchdog quiet.
                Some(()) = self.heartbeat.recv() => Some(Message::Pong(Bytes::new())),
                item = self.items.recv() => match item {
                    None => break,
                    Some(item) => self.message(item),
                },
            };
            if let Some(message) = message {
                self.sink.send(message).await.map_err(|_| Gone)?;
                self.activity.touch();
            }
        }
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.sink
            .send(Message::Close(Some(frame)))
            .await
            .map_err(|_| Gone)
    }

    /// None for what these protocols cannot say: a channel ends with the connection.
    fn message(&self, item: Item) -> Option<Message> {
        let Item::Data { channel, bytes } = item else {
            return None;
        };
        let channel = u8::try_from(channel).ok()?;
        Some(match self.codec.encode(channel, &bytes) {
            Outgoing::Binary(bytes) => Message::Binary(bytes.into()),
            Outgoing::Text(text) => Message::Text(text.into()),
        })
    }
}
