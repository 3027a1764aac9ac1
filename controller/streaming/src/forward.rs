//! A port-forward session: many TCP connections inside one connection of the client.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::link::spdy::{NewStream, Streams};
use crate::link::websocket::Channels;
use crate::link::{CHUNK, Inbound, Outbound, Received};
use crate::session::{ByteStream, Connector, SessionError};
use crate::spdy::Headers;

/// How long the second stream of a pair may be in coming.
const PAIRING: Duration = Duration::from_secs(30);

/// The two streams of a forwarded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Error,
    Data,
}

/// What the headers of a stream say about it.
#[derive(Debug, PartialEq, Eq)]
struct Purpose {
    role: Role,
    port: u16,
    request: Option<String>,
}

fn purpose(headers: &Headers) -> Option<Purpose> {
    let role = match headers.value("streamtype")? {
        "error" => Role::Error,
        "data" => Role::Data,
        _ => return None,
    };
    let port = headers
        .value("port")?
        .parse()
        .ok()
        .filter(|port| *port > 0)?;
    let request = headers.value("requestid").filter(|id| !id.is_empty());
    Some(Purpose {
        role,
        port,
        request: request.map(str::to_owned),
    })
}

/// Whether a stream belongs to a port-forward at all.
pub(crate) fn accepts(headers: &Headers) -> bool {
    purpose(headers).is_some()
}

/// The key of a pair. Clients before request identifiers opened the error stream
/// first and the data stream right after it, two numbers higher.
fn pair_key(purpose: &Purpose, stream: u32) -> String {
    match (&purpose.request, purpose.role) {
        (Some(request), _) => format!("request {request}"),
        (None, Role::Error) => format!("stream {stream}"),
        (None, Role::Data) => format!("stream {}", stream.saturating_sub(2)),
    }
}

/// A pair of which one stream has come.
#[derive(Debug)]
struct Half {
    role: Role,
    inbound: Inbound,
    outbound: Outbound,
    deadline: Instant,
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Serves pairs of streams until the connection ends.
pub(crate) async fn over_spdy(connector: &dyn Connector, mut streams: Streams) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = Running::new();
    loop {
        let expiry = halves.values().map(|half| half.deadline).min();
        let expired = async {
            match expiry {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = streams.next() => match stream {
                Some(stream) => admit(stream, &mut halves, &mut running, connector).await,
                None => return,
            },
            Some(()) = running.next() => {}
            () = expired => expire(&mut halves).await,
        }
    }
}

async fn admit(
    stream: NewStream,
    halves: &mut HashMap<String, Half>,
    running: &mut Running,
    connector: &dyn Connector,
) {
    let NewStream {
        id,
        headers,
        inbound,
        outbound,
    } = stream;
    let Some(purpose) = purpose(&headers) else {
        return outbound.reset().await;
    };
    let key = pair_key(&purpose, id);
    let deadline = Instant::now() + PAIRING;
    let new = Half {
        role: purpose.role,
        inbound,
        outbound,
        deadline,
    };
    let (error, data) = match halves.remove(&key) {
        None => {
            halves.insert(key, new);
            return;
        }
        Some(first) if first.role == new.role => {
            // The one that came first may still find its partner.
            halves.insert(key, first);
            return new.outbound.reset().await;
        }
        Some(first) if first.role == Role::Error => (first, new),
        Some(first) => (new, first),
    };
    let connect = connector.connect(purpose.port);
    let pair = Pair {
        port: purpose.port,
        inbound: data.inbound,
        data: data.outbound,
        error: error.outbound,
        half_close: true,
    };
    running.push(Box::pin(async move { pair.forward(connect.await).await }));
}

async fn expire(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    for (_, half) in halves.extract_if(|_, half| half.deadline <= now) {
        if half.role == Role::Error {
            let text = Bytes::from_static(b"no data stream came for this request");
            let _ = half.outbound.write(text).await;
            half.outbound.finish().await;
        } else {
            half.outbound.reset().await;
        }
    }
}

/// Serves one connection per port: data on channel 2n, errors on 2n+1, and each
/// starts with its port as 16 bits, lowest byte first.
pub(crate) async fn over_channels(
    connector: &dyn Connector,
    ports: &[u16],
    mut channels: Channels,
) {
    let mut running = Running::new();
    for (data, port) in (0u8..).step_by(2).zip(ports) {
        let Some(inbound) = channels.inbound(data) else {
            continue;
        };
        let outbound = channels.outbound(data);
        let error = channels.outbound(data + 1);
        let connect = connector.connect(*port);
        let pair = Pair {
            port: *port,
            inbound,
            data: outbound,
            error,
            half_close: false,
        };
        running.push(Box::pin(async move {
            let name = Bytes::copy_from_slice(&pair.port.to_le_bytes());
            let _ = pair.data.write(name.clone()).await;
            let _ = pair.error.write(name).await;
            pair.forward(connect.await).await;
        }));
    }
    while running.next().await.is_some() {}
}

/// One forwarded connection.
struct Pair {
    port: u16,
    inbound: Inbound,
    data: Outbound,
    error: Outbound,
    /// The client can close its sending side by itself, and learns of ours.
    half_close: bool,
}

/// Why copying ended early.
enum Break {
    /// The client gave the connection up.
    Client,
    Port(std::io::Error),
}

impl Pair {
    async fn forward(self, connected: Result<Box<dyn ByteStream>, SessionError>) {
        let Pair {
            port,
            inbound,
            data,
            error,
            half_close,
        } = self;
        let mut data = Some(data);
        let failure = match connected {
            Err(failure) => Some(failure.to_string()),
            Ok(stream) => match copy(stream, inbound, &mut data, half_close).await {
                Ok(()) | Err(Break::Client) => None,
                Err(Break::Port(failure)) => Some(failure.to_string()),
            },
        };
        if let Some(failure) = &failure {
            let _ = error.write(format!("port {port}: {failure}").into()).await;
        }
        match (data, failure) {
            (Some(data), Some(_)) => data.reset().await,
            (Some(data), None) => data.finish().await,
            (None, _) => {}
        }
        error.finish().await;
    }
}

/// Both directions, each closed by itself; a reset of the client ends both.
async fn copy(
    stream: Box<dyn ByteStream>,
    mut from: Inbound,
    to: &mut Option<Outbound>,
    half_close: bool,
) -> Result<(), Break> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut up = pin!(async {
        loop {
            match from.next().await {
                Received::Bytes(bytes) => write.write_all(&bytes).await.map_err(Break::Port)?,
                Received::End => return write.shutdown().await.map_err(Break::Port),
                Received::Reset => return Err(Break::Client),
            }
        }
    });
    let mut down = pin!(async {
        let mut buffer = vec![0; CHUNK];
        while let Some(to) = &*to {
            let length = read.read(&mut buffer).await.map_err(Break::Port)?;
            let bytes = buffer.get(..length).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let sent = to.write(Bytes::copy_from_slice(bytes)).await;
            sent.map_err(|_| Break::Client)?;
        }
        if let Some(to) = to.take() {
            to.finish().await;
        }
        Ok(())
    });
    tokio::select! {
        sent = &mut up => match sent {
            Err(Break::Client) => Err(Break::Client),
            // A port that takes no more may still have something to say.
            Ok(()) | Err(Break::Port(_)) => down.await,
        },
        received = &mut down => {
            received?;
            if half_close {
                // All was received; however the rest of the sending ends is no failure.
                let _ = up.await;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_of_a_port_forward_are_accepted() {
        let headers = |role: &str, port: &str| {
            Headers::default()
                .with("streamType", role)
                .with("port", port)
        };
        assert!(accepts(&headers("data", "80")) && accepts(&headers("error", "65535")));
        for (role, port) in [
            ("stdin", "80"),
            ("", "80"),
            ("data", "0"),
            ("data", "65536"),
            ("data", "-1"),
            ("data", ""),
        ] {
            assert!(!accepts(&headers(role, port)), "{role} {port}");
        }
        assert!(!accepts(&Headers::default()));
    }

    #[test]
    fn streams_pair_by_request_or_else_by_neighbourhood() {
        let of = |role, request: Option<&str>| Purpose {
            role,
            port: 80,
            request: request.map(str::to_owned),
        };
        assert_eq!(
            pair_key(&of(Role::Error, Some("3")), 1),
            pair_key(&of(Role::Data, Some("3")), 9)
        );
        assert_ne!(
            pair_key(&of(Role::Error, Some("3")), 1),
            pair_key(&of(Role::Data, Some("4")), 3)
        );
        assert_eq!(
            pair_key(&of(Role::Error, None), 5),
            pair_key(&of(Role::Data, None), 7)
        );
        assert_ne!(
            pair_key(&of(Role::Error, None), 5),
            pair_key(&of(Role::Data, None), 9)
        );
        assert_ne!(
            pair_key(&of(Role::Error, None), 5),
            pair_key(&of(Role::Data, Some("5")), 7)
        );
    }
}
