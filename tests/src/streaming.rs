//! Clients for the URLs that Exec, Attach and PortForward answer, over SPDY/3.1 and over WebSocket.
//!
//! One [`Remote`] is one exec or attach, one [`Forward`] one connection for forwarded ports; both look alike
//! whatever is spoken below. SPDY's frames are made by the product's codec, which `controller/streaming/tests`
//! proves against the client code of Kubernetes. Deliberately absent: windows. A client here takes less than one
//! window of output.

mod frames;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::node::Node;
use crate::wait::DEADLINE;
use crate::{cri, netns};
use frames::{Spdy, headers};

/// What is spoken to the streaming server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Spdy,
    WebSocket,
}

/// Both of them.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Spdy, Protocol::WebSocket];

/// One of the streams of an exec or attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
    Error,
    Resize,
}

impl Channel {
    /// The channels that go with the streams a request asked for.
    pub fn of(stdin: bool, tty: bool) -> Vec<Self> {
        let mut channels = vec![Self::Error, Self::Stdout];
        channels.extend(stdin.then_some(Self::Stdin));
        channels.push(if tty { Self::Resize } else { Self::Stderr });
        channels
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }

    /// The first byte of a WebSocket message, as numbered by Kubernetes' `v5.channel.k8s.io`.
    fn number(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Error => 3,
            Self::Resize => 4,
        }
    }

    fn numbered(number: u8) -> Option<Self> {
        let all = [
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::Error,
            Self::Resize,
        ];
        all.into_iter().find(|channel| channel.number() == number)
    }
}

/// How a session ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    /// What came through the error channel: a `metav1.Status`.
    pub status: Value,
}

impl Ended {
    /// The exit code in the status; 0 is success.
    pub fn code(&self) -> Result<i32> {
        if self.status["status"] == "Success" {
            return Ok(0);
        }
        let causes = self.status["details"]["causes"].as_array();
        let mut causes = causes.into_iter().flatten();
        let code = causes.find(|cause| cause["reason"] == "ExitCode");
        let code = code.and_then(|cause| cause["message"].as_str());
        code.and_then(|code| code.parse().ok())
            .with_context(|| format!("no exit code in {}", self.status))
    }
}

enum Wire {
    Spdy {
        spdy: Box<Spdy<TcpStream>>,
        streams: BTreeMap<Channel, u32>,
        /// Those that the server has not finished.
        open: Vec<u32>,
    },
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// An exec or attach under way.
pub struct Remote {
    wire: Wire,
    got: BTreeMap<Channel, Vec<u8>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("got", &self.got)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Exec over `protocol`, with all streams that the request asks for.
    pub async fn exec(node: &Node, protocol: Protocol, request: cri::ExecRequest) -> Result<Self> {
        let channels = Channel::of(request.stdin, request.tty);
        let mut runtime = node.client().await?.runtime;
        let url = runtime.exec(request).await?.into_inner().url;
        Self::open(node, &url, protocol, &channels).await
    }

    /// Attach over `protocol`, with all streams that the request asks for.
    pub async fn attach(
        node: &Node,
        protocol: Protocol,
        request: cri::AttachRequest,
    ) -> Result<Self> {
        let channels = Channel::of(request.stdin, request.tty);
        let mut runtime = node.client().await?.runtime;
        let url = runtime.attach(request).await?.into_inner().url;
        Self::open(node, &url, protocol, &channels).await
    }

    /// Spends `url` on these channels.
    pub async fn open(
        node: &Node,
        url: &str,
        protocol: Protocol,
        channels: &[Channel],
    ) -> Result<Self> {
        let io = connect(node, url).await?;
        let wire = match protocol {
            Protocol::Spdy => {
                let mut spdy = Box::new(Spdy::upgrade(io, url, "v4.channel.k8s.io").await?);
                let mut streams = BTreeMap::new();
                for channel in channels {
                    let opened = spdy
                        .open(headers(&[("streamType", channel.name())]))
                        .await?;
                    streams.insert(*channel, opened);
                }
                let answering = streams.iter().filter(|(channel, _)| {
                    matches!(channel, Channel::Error | Channel::Stdout | Channel::Stderr)
                });
                let open = answering.map(|(_, stream)| *stream).collect();
                Wire::Spdy {
                    spdy,
                    streams,
                    open,
                }
            }
            Protocol::WebSocket => {
                Wire::WebSocket(Box::new(upgrade(io, url, "v5.channel.k8s.io").await?))
            }
        };
        Ok(Self {
            wire,
            got: BTreeMap::new(),
        })
    }

    pub async fn send(&mut self, channel: Channel, bytes: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { spdy, streams, .. } => {
                let stream = streams.get(&channel).context("the channel is not open")?;
                spdy.data(*stream, bytes, false).await
            }
            Wire::WebSocket(socket) => {
                let message = [&[channel.number()], bytes].concat();
                Ok(socket.send(Message::Binary(message.into())).await?)
            }
        }
    }

    /// Says that no more input comes.
    pub async fn close_stdin(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Spdy { spdy, streams, .. } => {
                let stream = streams.get(&Channel::Stdin).context("stdin is not open")?;
                spdy.data(*stream, b"", true).await
            }
            Wire::WebSocket(socket) => {
                let close = [255, Channel::Stdin.number()];
                Ok(socket.send(Message::Binary(close.to_vec().into())).await?)
            }
        }
    }

    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        self.send(Channel::Resize, size.as_bytes()).await
    }

    /// Reads until the output of `channel` contains `text`, and returns all that came through it.
    pub async fn read_until(&mut self, channel: Channel, text: &str) -> Result<String> {
        loop {
            let seen = self.text(channel);
            if seen.contains(text) {
                return Ok(seen);
            }
            let more = tokio::time::timeout(DEADLINE, self.receive()).await;
            let more = more.with_context(|| format!("{text:?} did not come, only {seen:?}"))??;
            ensure!(more, "the session ended before {text:?}, after {seen:?}");
        }
    }

    /// Reads until the session ends.
    pub async fn finish(self) -> Result<Ended> {
        self.finish_slowly(usize::MAX, Duration::ZERO).await
    }

    /// Reads until the session ends, with a pause after every so many bytes.
    pub async fn finish_slowly(mut self, bytes: usize, pause: Duration) -> Result<Ended> {
        let mut pauses = 0;
        while tokio::time::timeout(DEADLINE, self.receive())
            .await
            .context("the session did not end")??
        {
            let got: usize = self.got.values().map(Vec::len).sum();
            if got / bytes > pauses {
                pauses = got / bytes;
                tokio::time::sleep(pause).await;
            }
        }
        let status = self.text(Channel::Error);
        Ok(Ended {
            stdout: self.text(Channel::Stdout),
            stderr: self.text(Channel::Stderr),
            status: serde_json::from_str(&status).with_context(|| format!("status {status:?}"))?,
        })
    }

    fn text(&self, channel: Channel) -> String {
        let bytes = self.got.get(&channel).map_or(&[][..], Vec::as_slice);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Takes in one piece; false says that the session is over.
    async fn receive(&mut self) -> Result<bool> {
        let (channel, bytes) = match &mut self.wire {
            Wire::Spdy {
                spdy,
                streams,
                open,
            } => {
                if open.is_empty() {
                    return Ok(false);
                }
                let Some(piece) = spdy.next().await? else {
                    return Ok(false);
                };
                open.retain(|stream| !(piece.fin && *stream == piece.stream));
                let mut known = streams.iter();
                let channel = known.find(|(_, stream)| **stream == piece.stream);
                (channel.map(|(channel, _)| *channel), piece.bytes.to_vec())
            }
            Wire::WebSocket(socket) => match socket.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(false),
                Some(Ok(Message::Binary(bytes))) => {
                    let (number, bytes) =
                        bytes.split_first().context("a message without a channel")?;
                    (Channel::numbered(*number), bytes.to_vec())
                }
                Some(Ok(_)) => (None, Vec::new()),
                Some(Err(error)) => bail!(error),
            },
        };
        if let Some(channel) = channel {
            self.got.entry(channel).or_default().extend(bytes);
        }
        Ok(true)
    }
}

/// A connection for forwarded ports.
pub struct Forward(Wires);

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").finish_non_exhaustive()
    }
}

enum Wires {
    Spdy(Spdy<TcpStream>),
    Tunnel(Spdy<DuplexStream>),
}

impl Forward {
    /// Asks for `pod`'s ports and connects.
    pub async fn open(node: &Node, protocol: Protocol, pod: &str, port: i32) -> Result<Self> {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: vec![port],
        };
        let mut runtime = node.client().await?.runtime;
        let url = runtime.port_forward(request).await?.into_inner().url;
        let io = connect(node, &url).await?;
        Ok(Self(match protocol {
            Protocol::Spdy => Wires::Spdy(Spdy::upgrade(io, &url, "portforward.k8s.io").await?),
            Protocol::WebSocket => {
                let socket = upgrade(io, &url, "SPDY/3.1+portforward.k8s.io").await?;
                Wires::Tunnel(Spdy::on(tunnel(socket))?)
            }
        }))
    }

    /// Sends `bytes` to a port and closes that half; what came back, and what the error channel said.
    pub async fn exchange(&mut self, port: u16, bytes: &[u8]) -> Result<(String, String)> {
        let exchange = async {
            match &mut self.0 {
                Wires::Spdy(spdy) => spdy.exchange(port, bytes).await,
                Wires::Tunnel(spdy) => spdy.exchange(port, bytes).await,
            }
        };
        let limited = tokio::time::timeout(DEADLINE, exchange).await;
        limited.context("the port did not answer")?
    }
}

/// The status code of an HTTP request for an upgrade that is expected to be refused.
pub async fn refused(node: &Node, url: &str) -> Result<u16> {
    let mut io = connect(node, url).await?;
    let (status, _head) = frames::request(&mut io, url, "v4.channel.k8s.io").await?;
    Ok(status)
}

/// A connection from inside the node's network to the server that `url` names.
async fn connect(node: &Node, url: &str) -> Result<TcpStream> {
    let address = url.split('/').nth(2).context("the URL has no host")?;
    let stream = netns::connect(node.network(), address.parse().context("the URL's host")?)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

async fn upgrade(io: TcpStream, url: &str, protocol: &str) -> Result<WebSocketStream<TcpStream>> {
    let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", protocol.parse()?);
    let shaken = tokio::time::timeout(
        Duration::from_secs(10),
        tokio_tungstenite::client_async(request, io),
    );
    Ok(shaken.await.context("the server does not answer")??.0)
}

/// The bytes inside a WebSocket's binary messages, as a stream.
fn tunnel(socket: WebSocketStream<TcpStream>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut sink, mut source) = socket.split();
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = source.next().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let message = Message::Binary(buffer[..length].to_vec().into());
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    near
}
