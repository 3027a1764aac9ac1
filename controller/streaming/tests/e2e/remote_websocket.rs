//! Exec and attach over WebSocket, from the client's side of the wire.

use std::sync::atomic::Ordering;

use crate::client::{Client, connect};
use crate::programs::{piped, script, terminal};
use crate::websocket_client::{WebSocket, ask};
use crate::{eventually, server};

const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

#[tokio::test]
async fn output_errors_and_exit_code_arrive_in_every_protocol() {
    let server = server().await;
    for (protocol, json) in [
        ("v5.channel.k8s.io", true),
        ("v4.channel.k8s.io", true),
        ("v3.channel.k8s.io", false),
        ("v2.channel.k8s.io", false),
        ("channel.k8s.io", false),
        ("", false),
    ] {
        let (session, _) = script("echo out; echo err >&2; exit 7", piped(false, true, true));
        let url = server.exec_url(session).unwrap();
        let mut client = WebSocket::upgrade(&url, protocol).await;
        let first = client.next().await.expect("a first message");
        assert_eq!(
            first,
            [1],
            "an empty message says that the connection stands"
        );
        let channels = client.collect().await;
        assert_eq!(channels[&1], b"out\n", "{protocol}");
        assert_eq!(channels[&2], b"err\n", "{protocol}");
        let status = String::from_utf8_lossy(&channels[&3]).into_owned();
        assert_eq!(
            status.contains(r#""message":"7""#),
            json,
            "{protocol}: {status}"
        );
        assert!(status.contains("exit code 7"), "{protocol}: {status}");
    }
    server.stop().await;
}

#[tokio::test]
async fn base64_protocols_are_text_in_both_directions() {
    let server = server().await;
    for (protocol, status) in [
        // The JSON of a success, and silence.
        (
            "v4.base64.channel.k8s.io",
            Some("3eyJtZXRhZGF0YSI6e30sInN0YXR1cyI6IlN1Y2Nlc3MifQ=="),
        ),
        ("base64.channel.k8s.io", None),
    ] {
        let (session, _) = script("head -n 1", piped(true, true, false));
        let url = server.exec_url(session).unwrap();
        let mut client = WebSocket::upgrade(&url, protocol).await;
        client.text("0Zm9vCg==").await;
        let mut messages = Vec::new();
        while let Some(message) = client.next().await {
            messages.push(String::from_utf8(message).expect("text"));
        }
        let mut expected = vec!["1", "1Zm9vCg=="];
        expected.extend(status);
        assert_eq!(messages, expected, "{protocol}");
    }
    server.stop().await;
}

#[tokio::test]
async fn version_5_closes_a_channel_by_itself() {
    let server = server().await;
    let (session, _) = script("cat; echo end", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = WebSocket::upgrade(&url, "v5.channel.k8s.io").await;
    client.binary(b"\x00a\0b\n").await;
    client.binary(&[255, 0]).await;
    let channels = client.collect().await;
    assert_eq!(channels[&1], b"a\0b\nend\n");
    assert_eq!(channels[&3], SUCCESS);
    server.stop().await;
}

#[tokio::test]
async fn a_terminal_takes_sizes() {
    let server = server().await;
    let sized = r#"until [ "$(stty size)" = "44 133" ]; do sleep 0.01; done; echo sized"#;
    let (session, _) = script(sized, terminal(true));
    let url = server.exec_url(session).unwrap();
    let mut client = WebSocket::upgrade(&url, "v4.channel.k8s.io").await;
    client.binary(b"\x04{\"Width\":133,\"Height\":44}").await;
    let channels = client.collect().await;
    assert_eq!(channels[&1], b"sized\r\n");
    assert_eq!(channels[&3], SUCCESS);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_told_to_the_opener() {
    let server = server().await;
    let (session, abandoned) = script("exec sleep 600", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = WebSocket::upgrade(&url, "v4.channel.k8s.io").await;
    assert_eq!(client.next().await, Some(vec![1]));
    drop(client);
    eventually("abandoned", || match abandoned.load(Ordering::SeqCst) {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn spdy_runs_inside_a_websocket() {
    let server = server().await;
    let (session, _) = script("cat", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let socket = WebSocket::upgrade(&url, "SPDY/3.1+v4.channel.k8s.io").await;
    let mut client = Client::on(socket.into_bytes());
    let [error, stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    client.data(stdin, b"through the tunnel").await;
    client.finish(stdin).await;
    let [error, out] = client.collect([error, stdout]).await;
    assert_eq!(out, b"through the tunnel");
    assert_eq!(error, SUCCESS);
    server.stop().await;
}

#[tokio::test]
async fn protocols_that_nobody_knows_are_refused() {
    let server = server().await;
    let (session, _) = script("true", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let answer = ask(&mut connect(&url).await, &url, "chat").await;
    assert_eq!(answer.status, 403);
    server.stop().await;
}
