//! A SPDY/3.1 connection as its client sees it.

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use husk_streaming::spdy::{Decoder, Encoder, Frame, Headers};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What a stream carried, or its end.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) stream: u32,
    pub(super) bytes: Bytes,
    pub(super) fin: bool,
}

pub(super) struct Spdy<Io> {
    io: Io,
    decoder: Decoder,
    encoder: Encoder,
    next_stream: u32,
}

pub(super) fn headers(pairs: &[(&str, &str)]) -> Headers {
    let empty = Headers::default();
    pairs
        .iter()
        .fold(empty, |headers, (name, value)| headers.with(name, value))
}

/// Asks for an upgrade to SPDY; the status code and the head of the answer.
pub(super) async fn request<Io>(io: &mut Io, url: &str, version: &str) -> Result<(u16, String)>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let path = url.splitn(4, '/').nth(3).context("the URL has no path")?;
    let text = format!(
        "POST /{path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {version}\r\n\r\n"
    );
    io.write_all(text.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            io.read_u8()
                .await
                .context("the server closed before its answer ended")?,
        );
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, head))
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Spdy<Io> {
    pub(super) async fn upgrade(mut io: Io, url: &str, version: &str) -> Result<Self> {
        let (status, head) = request(&mut io, url, version).await?;
        ensure!(status == 101, "the upgrade was refused: {head}");
        Self::on(io)
    }

    /// On a byte stream that is SPDY from the start.
    pub(super) fn on(io: Io) -> Result<Self> {
        Ok(Self {
            io,
            decoder: Decoder::new(),
            encoder: Encoder::new()?,
            next_stream: 1,
        })
    }

    /// Opens a stream without waiting for the reply.
    pub(super) async fn open(&mut self, headers: Headers) -> Result<u32> {
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
        self.send(&frame).await?;
        Ok(stream)
    }

    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.send(&Frame::Data { stream, bytes, fin }).await
    }

    async fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut out = BytesMut::new();
        self.encoder.encode(frame, &mut out)?;
        self.io.write_all(&out).await?;
        Ok(self.io.flush().await?)
    }

    /// The next piece of any stream; none when the server has closed.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            match self.decoder.next_frame()? {
                Some(Frame::Data { stream, bytes, fin }) => {
                    return Ok(Some(Piece { stream, bytes, fin }));
                }
                Some(Frame::Reset { stream, .. }) => {
                    return Ok(Some(Piece {
                        stream,
                        bytes: Bytes::new(),
                        fin: true,
                    }));
                }
                Some(_) => {}
                None => {
                    if self.io.read_buf(self.decoder.buffer()).await.unwrap_or(0) == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// One forwarded connection from its beginning to its end.
    pub(super) async fn exchange(&mut self, port: u16, sent: &[u8]) -> Result<(String, String)> {
        let (port, request) = (port.to_string(), self.next_stream.to_string());
        let kind = |kind| {
            headers(&[
                ("streamType", kind),
                ("port", &port),
                ("requestID", &request),
            ])
        };
        let error = self.open(kind("error")).await?;
        self.data(error, b"", true).await?;
        let data = self.open(kind("data")).await?;
        self.data(data, sent, true).await?;
        let (mut answer, mut said, mut open) = (Vec::new(), Vec::new(), vec![error, data]);
        while !open.is_empty() {
            let Some(piece) = self.next().await? else {
                break;
            };
            let into = if piece.stream == error {
                &mut said
            } else {
                &mut answer
            };
            into.extend_from_slice(&piece.bytes);
            open.retain(|stream| !(piece.fin && *stream == piece.stream));
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(answer), text(said)))
    }
}
