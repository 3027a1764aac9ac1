//! Joins a session to the connection that its client has upgraded.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use crate::forward;
use crate::link::spdy::{NewStream, Streams};
use crate::link::tunnel::Tunnel;
use crate::link::websocket::Channels;
use crate::link::{End, attend, spdy, websocket};
use crate::negotiate::{Agreement, Carrier};
use crate::remote::{self, Drain, Manner, RemoteChannels};
use crate::server::{Pending, Shared};
use crate::session::{PortForwardSession, RemoteSession, StreamSet};
use crate::spdy::Headers;
use crate::websocket::ChannelCodec;

/// How long a SPDY client may take to open its streams.
const STREAM_CREATION: Duration = Duration::from_secs(30);

/// Channel numbers of exec and attach over WebSocket; the first three are the fds.
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
}

/// Runs a session to its end, or to that of its connection.
pub(crate) async fn session<Io>(io: Io, pending: Pending, agreement: Agreement, shared: &Shared)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let end = match agreement.carrier {
        Carrier::Spdy => over_spdy(io, pending, &agreement, shared).await,
        Carrier::Tunnel => {
            let tunnel = Tunnel::new(websocket::accept(io).await);
            over_spdy(tunnel, pending, &agreement, shared).await
        }
        Carrier::Channels(codec) => over_channels(io, pending, (codec, &agreement), shared).await,
    };
    tracing::debug!(?end, protocol = agreement.protocol, "streaming session");
}

fn split(pending: Pending) -> Result<(RemoteSession, Drain), PortForwardSession> {
    match pending {
        Pending::Exec(session) => Ok((session, Drain::ExitPlusPipe)),
        Pending::Attach(session) => Ok((session, Drain::ToEnd)),
        Pending::PortForward(session) => Err(session),
    }
}

async fn over_spdy<Io>(io: Io, pending: Pending, agreement: &Agreement, shared: &Shared) -> End
where
    Io: AsyncRead + AsyncWrite + Send + 'static,
{
    match split(pending) {
        Ok((session, drain)) => {
            let (streams, driver) = spdy::open(io, is_remote_stream, shared.idle_timeout);
            let manner = Manner {
                drain,
                format: agreement.status,
            };
            let sizes = agreement.sizes;
            attend(driver, async move {
                if let Some(channels) = gather(streams, session.streams, sizes).await {
                    remote::run(session.opener, channels, manner, &shared.tasks).await;
                }
            })
            .await
        }
        Err(session) => {
            let (streams, driver) = spdy::open(io, forward::accepts, shared.idle_timeout);
            attend(driver, forward::over_spdy(&*session.connector, streams)).await
        }
    }
}

fn is_remote_stream(headers: &Headers) -> bool {
    let kind = headers.value("streamtype");
    kind.is_some_and(|kind| ["error", "stdin", "stdout", "stderr", "resize"].contains(&kind))
}

/// Waits until the client has opened what it asked for, and tells it if it does not.
async fn gather(mut streams: Streams, wanted: StreamSet, sizes: bool) -> Option<RemoteChannels> {
    let mut expected = vec!["error"];
    let optional = [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty && sizes),
    ];
    expected.extend(
        optional
            .iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(kind, _)| *kind),
    );
    let deadline = Instant::now() + STREAM_CREATION;
    let mut found: HashMap<&str, NewStream> = HashMap::new();
    while found.len() < expected.len() {
        let Ok(next) = timeout_at(deadline, streams.next()).await else {
            if let Some(error) = found.remove("error") {
                let text = Bytes::from_static(b"the client did not open all its streams in time");
                let _ = error.outbound.write(text).await;
                error.outbound.finish().await;
            }
            return None;
        };
        let stream = next?;
        let kind = expected
            .iter()
            .find(|kind| stream.headers.value("streamtype") == Some(**kind));
        match kind.filter(|kind| !found.contains_key(**kind)) {
            Some(kind) => {
                found.insert(kind, stream);
            }
            None => stream.outbound.reset().await,
        }
    }
    let mut spare = Vec::new();
    let mut input = |stream: NewStream| {
        spare.push(stream.outbound);
        stream.inbound
    };
    let stdin = found.remove("stdin").map(&mut input);
    let resize = found.remove("resize").map(&mut input);
    let stdout = found.remove("stdout").map(|stream| stream.outbound);
    let stderr = found.remove("stderr").map(|stream| stream.outbound);
    let error = found.remove("error")?.outbound;
    Some(RemoteChannels {
        stdin,
        stdout,
        stderr,
        resize,
        error,
        spare,
    })
}

async fn over_channels<Io>(
    io: Io,
    pending: Pending,
    (codec, agreement): (ChannelCodec, &Agreement),
    shared: &Shared,
) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = websocket::accept(io).await;
    match split(pending) {
        Ok((session, drain)) => {
            let readable = [channel::STDIN, channel::RESIZE];
            let (channels, driver) = websocket::open(socket, codec, readable, shared.idle_timeout);
            let manner = Manner {
                drain,
                format: agreement.status,
            };
            let channels = assign(channels, session.streams);
            attend(driver, async move {
                // An empty message tells the client that the connection stands.
                let first = channels.stdout.as_ref().or(channels.stderr.as_ref());
                let _ = first.unwrap_or(&channels.error).write(Bytes::new()).await;
                remote::run(session.opener, channels, manner, &shared.tasks).await;
            })
            .await
        }
        Err(session) => {
            // Two channels per port, numbered in a byte.
            let ports = session.ports.get(..128).unwrap_or(&session.ports);
            let readable = (0u8..).step_by(2).take(ports.len());
            let (channels, driver) = websocket::open(socket, codec, readable, shared.idle_timeout);
            attend(
                driver,
                forward::over_channels(&*session.connector, ports, channels),
            )
            .await
        }
    }
}

fn assign(mut channels: Channels, wanted: StreamSet) -> RemoteChannels {
    let stdin = channels.inbound(channel::STDIN).filter(|_| wanted.stdin);
    let resize = channels.inbound(channel::RESIZE).filter(|_| wanted.tty);
    RemoteChannels {
        stdin,
        stdout: wanted.stdout.then(|| channels.outbound(channel::STDOUT)),
        stderr: wanted.stderr.then(|| channels.outbound(channel::STDERR)),
        resize,
        error: channels.outbound(channel::ERROR),
        spare: Vec::new(),
    }
}
