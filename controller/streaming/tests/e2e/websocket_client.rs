//! A WebSocket client for the channel protocols.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client::{Answer, PATIENCE, connect, request};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub(crate) struct WebSocket<Io> {
    socket: WebSocketStream<Io>,
}

/// Asks for an upgrade; the answer may be a refusal.
pub(crate) async fn ask<Io>(io: &mut Io, url: &str, protocol: &str) -> Answer
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    if !protocol.is_empty() {
        headers.push(("Sec-WebSocket-Protocol", protocol));
    }
    request(io, "GET", url, &headers).await
}

impl WebSocket<TcpStream> {
    pub(crate) async fn upgrade(url: &str, protocol: &str) -> WebSocket<TcpStream> {
        WebSocket::upgrade_on(connect(url).await, url, protocol).await
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static> WebSocket<Io> {
    pub(crate) async fn upgrade_on(mut io: Io, url: &str, protocol: &str) -> WebSocket<Io> {
        let answer = ask(&mut io, url, protocol).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        let named = answer.header("Sec-WebSocket-Protocol").unwrap_or_default();
        assert_eq!(named, protocol);
        // The example of RFC 6455, section 1.3.
        let accept = answer.header("Sec-WebSocket-Accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        WebSocket {
            socket: WebSocketStream::from_raw_socket(io, Role::Client, None).await,
        }
    }

    /// The bytes inside binary messages, as a stream.
    pub(crate) fn into_bytes(self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut sink, mut source) = self.socket.split();
        let (mut read, mut write) = tokio::io::split(far);
        tokio::spawn(async move {
            while let Some(Ok(Message::Binary(bytes))) = source.next().await {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 5000];
            while let Ok(length @ 1..) = read.read(&mut buffer).await {
                let message = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        near
    }

    pub(crate) async fn binary(&mut self, bytes: &[u8]) {
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.socket.send(message).await.expect("connection open");
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.socket
            .send(Message::Text(text.into()))
            .await
            .expect("connection open");
    }

    /// The next message with content; none after an orderly close.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next
                .expect("server is alive")?
                .expect("server speaks WebSocket")
            {
                Message::Binary(bytes) => return Some(bytes.to_vec()),
                Message::Text(text) => return Some(text.as_bytes().to_vec()),
                Message::Close(frame) => {
                    assert_eq!(frame.expect("a reason").code, CloseCode::Normal);
                    return None;
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Everything until the close, by the first byte of the messages.
    pub(crate) async fn collect(&mut self) -> HashMap<u8, Vec<u8>> {
        let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
        while let Some(message) = self.next().await {
            let (channel, bytes) = message.split_first().expect("a channel");
            channels
                .entry(*channel)
                .or_default()
                .extend_from_slice(bytes);
        }
        channels
    }
}
