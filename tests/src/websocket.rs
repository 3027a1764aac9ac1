//! Clients of exec and attach over WebSocket (RFC 6455), without a library: what tests need is a connection to read
//! from, and frames that are not taken apart.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::netns;

/// The kubelet's protocols, newest first.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
/// The channel of standard input in them.
const STDIN: u8 = 0;

/// Opens the stream at `url`, in the network namespace of `pid`. What is read from the connection is frames.
pub fn open(pid: Option<u32>, url: &str) -> Result<TcpStream> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not a URL of HTTP"))?;
    let (host, path) = rest.split_once('/').context("a URL without a path")?;
    let address: SocketAddr = host.parse().with_context(|| format!("the host of {url}"))?;
    let mut stream = netns::connect(pid, address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {PROTOCOLS}\r\n\r\n"
    )?;
    // One byte at a time: what follows the head is the stream's.
    let mut head = BufReader::with_capacity(1, stream.try_clone()?).lines();
    let status = head.next().context("no answer")??;
    ensure!(status.contains(" 101 "), "{url}: {status}");
    for line in head {
        if line?.is_empty() {
            break;
        }
    }
    Ok(stream)
}

/// Writes to the program's standard input, at most 124 bytes.
pub fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let length = u8::try_from(bytes.len() + 1)?;
    ensure!(
        length < 126,
        "{length} bytes are too many for a short frame"
    );
    // A final binary frame whose mask, which a client must have, changes nothing.
    let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, STDIN];
    frame.extend_from_slice(bytes);
    Ok(stream.write_all(&frame)?)
}
