//! A SPDY client over the server's own codec.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use husk_streaming::spdy::{Decoder, Encoder, Frame, Headers};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::path_of;

/// No step of a test takes this long unless something is lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The head of an HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Sends a request with these headers and reads the head of the answer.
pub(crate) async fn request<Io>(
    io: &mut Io,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> Answer
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut text = format!("{method} {} HTTP/1.1\r\nHost: test\r\n", path_of(url));
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    io.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, io.read_u8()).await;
        head.push(byte.expect("an answer in time").expect("an answer"));
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head }
}

pub(crate) async fn connect(url: &str) -> TcpStream {
    let host = url.split_once("://").unwrap().1;
    TcpStream::connect(&host[..host.find('/').unwrap()])
        .await
        .expect("server accepts")
}

/// An upgraded connection.
pub(crate) struct Client<Io> {
    io: Io,
    decoder: Decoder,
    encoder: Encoder,
    next_stream: u32,
    /// What came and was not asked for yet.
    backlog: VecDeque<Frame>,
}

impl Client<TcpStream> {
    /// Upgrades with a protocol version, which the server must accept.
    pub(crate) async fn upgrade(url: &str, version: &str) -> Client<TcpStream> {
        Client::upgrade_on(connect(url).await, url, version).await
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Client<Io> {
    pub(crate) async fn upgrade_on(mut io: Io, url: &str, version: &str) -> Client<Io> {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", version),
        ];
        let answer = request(&mut io, "POST", url, &headers).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert_eq!(answer.header("X-Stream-Protocol-Version"), Some(version));
        assert_eq!(answer.header("Connection"), Some("Upgrade"));
        assert_eq!(answer.header("Upgrade"), Some("SPDY/3.1"));
        Client::on(io)
    }

    /// On a byte stream that is SPDY from the start.
    pub(crate) fn on(io: Io) -> Client<Io> {
        Client {
            io,
            decoder: Decoder::new(),
            encoder: Encoder::new().unwrap(),
            next_stream: 1,
            backlog: VecDeque::new(),
        }
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        self.try_send(frame).await.expect("connection open");
    }

    pub(crate) async fn try_send(&mut self, frame: &Frame) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        self.encoder.encode(frame, &mut out).unwrap();
        self.io.write_all(&out).await?;
        self.io.flush().await
    }

    /// Opens a stream without waiting for the reply.
    pub(crate) async fn syn(&mut self, headers: Headers) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let frame = Frame::SynStream {
            stream,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers,
        };
        self.send(&frame).await;
        stream
    }

    /// Opens the streams of an exec, in this order, and waits until all are accepted.
    pub(crate) async fn open<const N: usize>(&mut self, kinds: [&str; N]) -> [u32; N] {
        let mut streams = [0; N];
        for (stream, kind) in streams.iter_mut().zip(kinds) {
            *stream = self.syn(Headers::default().with("streamType", kind)).await;
        }
        let mut missing = N;
        while missing > 0 {
            let frame = self.receive().await.expect("replies");
            if matches!(frame, Frame::SynReply { .. }) {
                missing -= 1;
            } else {
                self.backlog.push_back(frame);
            }
        }
        streams
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8]) {
        self.send(&data(stream, bytes)).await;
    }

    pub(crate) async fn finish(&mut self, stream: u32) {
        self.send(&Frame::Data {
            stream,
            bytes: Bytes::new(),
            fin: true,
        })
        .await;
    }

    async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("server speaks SPDY") {
                return Some(frame);
            }
            let read = self.io.read_buf(self.decoder.buffer());
            let read = tokio::time::timeout(PATIENCE, read)
                .await
                .expect("server is alive");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame; none when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        match self.backlog.pop_front() {
            Some(frame) => Some(frame),
            None => self.receive().await,
        }
    }

    /// Reads until these streams are finished or reset; what each carried.
    pub(crate) async fn collect<const N: usize>(&mut self, streams: [u32; N]) -> [Vec<u8>; N] {
        let mut carried: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut open = streams.to_vec();
        while !open.is_empty() {
            let Some(frame) = self.next().await else {
                panic!("closed while {open:?} were open");
            };
            if let Frame::Data { stream, bytes, fin } = frame {
                carried.entry(stream).or_default().extend_from_slice(&bytes);
                open.retain(|one| !(fin && *one == stream));
            } else if let Frame::Reset { stream, .. } = frame {
                open.retain(|one| *one != stream);
            }
        }
        streams.map(|stream| carried.remove(&stream).unwrap_or_default())
    }
}

pub(crate) fn data(stream: u32, bytes: &[u8]) -> Frame {
    Frame::Data {
        stream,
        bytes: Bytes::copy_from_slice(bytes),
        fin: false,
    }
}
