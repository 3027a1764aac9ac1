//! Port-forward over both protocols.

use husk_streaming::spdy::{Frame, Headers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::Client;
use crate::programs::forward;
use crate::server;
use crate::websocket_client::WebSocket;

const V1: &str = "portforward.k8s.io";

/// Answers each connection with its bytes, once the client has sent them all.
async fn echo_at_end() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    port
}

/// Answers each piece as it comes.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

fn headers(kind: &str, port: u16, request: &str) -> Headers {
    Headers::default()
        .with("streamType", kind)
        .with("port", &port.to_string())
        .with("requestID", request)
}

#[tokio::test]
async fn forwarded_connections_run_at_once_and_close_by_halves() {
    let server = server().await;
    let port = echo_at_end().await;
    let url = server.port_forward_url(forward(&[])).unwrap();
    let mut client = Client::upgrade(&url, V1).await;
    let mut pairs = Vec::new();
    for request in 0..20 {
        let request = request.to_string();
        let error = client.syn(headers("error", port, &request)).await;
        let data = client.syn(headers("data", port, &request)).await;
        client.finish(error).await;
        pairs.push((error, data, format!("request {request}")));
    }
    for (_, data, text) in &pairs {
        client.data(*data, text.as_bytes()).await;
    }
    // The last comes first: none waits for another.
    for (error, data, text) in pairs.into_iter().rev() {
        client.finish(data).await;
        let [answer, errors] = client.collect([data, error]).await;
        assert_eq!(answer, text.as_bytes());
        assert!(errors.is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn streams_without_request_identifiers_pair_up_too() {
    let server = server().await;
    let port = echo_at_end().await;
    let url = server.port_forward_url(forward(&[])).unwrap();
    let mut client = Client::upgrade(&url, V1).await;
    let error = client.syn(headers("error", port, "")).await;
    let data = client.syn(headers("data", port, "")).await;
    client.data(data, b"old client").await;
    client.finish(data).await;
    let [answer, errors] = client.collect([data, error]).await;
    assert_eq!((&*answer, &*errors), (&b"old client"[..], &b""[..]));
    server.stop().await;
}

#[tokio::test]
async fn a_refused_connection_is_explained_and_spares_the_others() {
    let server = server().await;
    let (good, bad) = (echo().await, closed_port().await);
    let url = server.port_forward_url(forward(&[])).unwrap();
    let mut client = Client::upgrade(&url, V1).await;
    let error = client.syn(headers("error", bad, "1")).await;
    let data = client.syn(headers("data", bad, "1")).await;
    let [errors, _] = client.collect([error, data]).await;
    let errors = String::from_utf8_lossy(&errors).into_owned();
    assert!(errors.starts_with(&format!("port {bad}: ")), "{errors}");
    assert!(errors.contains("refused"), "{errors}");
    let error = client.syn(headers("error", good, "2")).await;
    let data = client.syn(headers("data", good, "2")).await;
    client.data(data, b"still here").await;
    client.finish(data).await;
    let [answer, errors] = client.collect([data, error]).await;
    assert_eq!((&*answer, &*errors), (&b"still here"[..], &b""[..]));
    server.stop().await;
}

#[tokio::test]
async fn streams_of_no_use_are_refused() {
    let server = server().await;
    let url = server.port_forward_url(forward(&[])).unwrap();
    let mut client = Client::upgrade(&url, V1).await;
    let useless = client
        .syn(Headers::default().with("streamType", "stdin"))
        .await;
    let refused = client.next().await.expect("an answer");
    assert!(
        matches!(refused, Frame::Reset { stream, .. } if stream == useless),
        "{refused:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn websocket_clients_get_a_pair_of_channels_per_port() {
    let server = server().await;
    let (good, bad) = (echo().await, closed_port().await);
    for protocol in ["v4.channel.k8s.io", ""] {
        let url = server.port_forward_url(forward(&[good, bad])).unwrap();
        let mut client = WebSocket::upgrade(&url, protocol).await;
        client.binary(b"\x00hello").await;
        let mut seen = vec![Vec::new(); 4];
        while seen[0].len() < 7 || seen[3].len() < 3 {
            let message = client.next().await.expect("an open connection");
            let (channel, bytes) = message.split_first().unwrap();
            seen[usize::from(*channel)].extend_from_slice(bytes);
        }
        assert_eq!(seen[0], [&good.to_le_bytes()[..], b"hello"].concat());
        assert_eq!(seen[1], good.to_le_bytes());
        assert_eq!(seen[2], bad.to_le_bytes());
        let error = String::from_utf8_lossy(&seen[3][2..]).into_owned();
        assert!(error.contains("refused"), "{error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn spdy_inside_a_websocket_forwards_as_spdy_does() {
    let server = server().await;
    let port = echo_at_end().await;
    let url = server.port_forward_url(forward(&[])).unwrap();
    let socket = WebSocket::upgrade(&url, "SPDY/3.1+portforward.k8s.io").await;
    let mut client = Client::on(socket.into_bytes());
    let error = client.syn(headers("error", port, "1")).await;
    let data = client.syn(headers("data", port, "1")).await;
    client.data(data, b"tunnelled").await;
    client.finish(data).await;
    let [answer, errors] = client.collect([data, error]).await;
    assert_eq!((&*answer, &*errors), (&b"tunnelled"[..], &b""[..]));
    server.stop().await;
}
