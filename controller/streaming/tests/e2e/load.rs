//! Much data, slow readers, hostile peers, and the clock.

use std::time::Duration;

use bytes::BytesMut;
use husk_streaming::spdy::{Decoder, Encoder, Frame, Headers, goaway};
use husk_streaming::{Config, Server, TokenError};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, connect, data, request};
use crate::programs::{piped, script};
use crate::websocket_client::WebSocket;
use crate::{config, server};

const MIB: usize = 1024 * 1024;

/// 64 MiB that do not repeat within a buffer, and their digest.
const GENERATE: &str = "seq -f %063.0f 1 1048576";

fn expected() -> [u8; 32] {
    let mut digest = Sha256::new();
    for number in 1..=1_048_576 {
        digest.update(format!("{number:063}\n"));
    }
    digest.finalize().into()
}

/// Takes a pause every so many bytes, as a slow terminal does.
async fn pause(bytes: usize, seen: &mut usize) {
    *seen += bytes;
    if *seen >= MIB {
        *seen = 0;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_slow_spdy_reader_gets_64_mib_whole() {
    let server = server().await;
    let (session, _) = script(GENERATE, piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [_, stdout] = client.open(["error", "stdout"]).await;
    let (mut digest, mut total, mut seen) = (Sha256::new(), 0, 0);
    let mut open = true;
    while open {
        let frame = client.next().await.expect("open");
        assert!(!matches!(frame, Frame::Reset { .. }), "{frame:?}");
        if let Frame::Data { stream, bytes, fin } = frame
            && stream == stdout
        {
            digest.update(&bytes);
            total += bytes.len();
            pause(bytes.len(), &mut seen).await;
            open = !fin;
        }
    }
    assert_eq!(total, 64 * MIB);
    let digest: [u8; 32] = digest.finalize().into();
    assert_eq!(digest, expected());
    server.stop().await;
}

#[tokio::test]
async fn a_slow_websocket_reader_of_an_attach_gets_64_mib_whole() {
    let server = server().await;
    let (session, _) = script(GENERATE, piped(false, true, false));
    let url = server.attach_url(session).unwrap();
    let mut client = WebSocket::upgrade(&url, "v5.channel.k8s.io").await;
    let (mut digest, mut total, mut seen) = (Sha256::new(), 0, 0);
    while let Some(message) = client.next().await {
        let (channel, bytes) = message.split_first().expect("a channel");
        if *channel == 1 {
            digest.update(bytes);
            total += bytes.len();
            pause(bytes.len(), &mut seen).await;
        }
    }
    assert_eq!(total, 64 * MIB);
    let digest: [u8; 32] = digest.finalize().into();
    assert_eq!(digest, expected());
    server.stop().await;
}

#[tokio::test]
async fn a_slow_process_gets_all_input() {
    let server = server().await;
    let command = "sleep 0.3; sha256sum";
    let (session, _) = script(command, piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [error, stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    let (block, mut digest) = (vec![0x5a; 48 * 1024], Sha256::new());
    for _ in 0..512 {
        digest.update(&block);
        client.data(stdin, &block).await;
    }
    client.finish(stdin).await;
    let [out, _] = client.collect([stdout, error]).await;
    let digest: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(String::from_utf8_lossy(&out).starts_with(&digest));
    server.stop().await;
}

#[tokio::test]
async fn a_peer_with_windows_is_never_sent_more_than_it_allows() {
    const WINDOW: u32 = 10_000;
    let server = server().await;
    let (session, _) = script("head -c 1000000 /dev/zero", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    client.send(&Frame::Settings(vec![(7, WINDOW)])).await;
    let [_, stdout] = client.open(["error", "stdout"]).await;
    let (mut allowed, mut got) = (WINDOW as usize, 0);
    while got < 1_000_000 {
        if let Frame::Data { stream, bytes, .. } = client.next().await.expect("open")
            && stream == stdout
        {
            got += bytes.len();
            assert!(got <= allowed, "{got} of {allowed}");
            if got == allowed {
                client
                    .send(&Frame::WindowUpdate {
                        stream,
                        delta: 7_000,
                    })
                    .await;
                allowed += 7_000;
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_obeys_windows_is_told_to_go_on() {
    let server = server().await;
    let (session, _) = script("cat >/dev/null", piped(true, false, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [error, stdin] = client.open(["error", "stdin"]).await;
    let (mut stream_window, mut connection_window, mut left) = (65_536, 65_536, 1_000_000);
    while left > 0 {
        let now = usize::min(left, stream_window.min(connection_window)).min(16_384);
        if now > 0 {
            client.data(stdin, &vec![1; now]).await;
            left -= now;
            stream_window -= now;
            connection_window -= now;
            continue;
        }
        let frame = client.next().await.expect("open");
        assert!(!matches!(frame, Frame::Reset { .. }), "{frame:?}");
        if let Frame::WindowUpdate { stream, delta } = frame {
            let window = if stream == 0 {
                &mut connection_window
            } else {
                &mut stream_window
            };
            *window += delta as usize;
        }
    }
    client.finish(stdin).await;
    client.collect([error]).await;
    server.stop().await;
}

#[tokio::test]
async fn data_that_nobody_reads_does_not_use_up_the_connections_window() {
    let server = server().await;
    let (session, _) = script("cat", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [error, stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    // Not enough on any one stream, but on all of them together.
    for stranger in (101..).step_by(2).take(40) {
        client.data(stranger, &[0; 5_000]).await;
    }
    let mut returned = 0;
    while returned < 40 * 5_000 - 16_384 {
        if let Frame::WindowUpdate { stream: 0, delta } = client.next().await.expect("open") {
            returned += delta;
        }
    }
    client.finish(stdin).await;
    client.collect([error, stdout]).await;
    server.stop().await;
}

#[tokio::test]
async fn pings_are_answered_and_settings_and_strangers_ignored() {
    let server = server().await;
    let (session, _) = script("cat", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let streams = client.open(["error", "stdin", "stdout"]).await;
    for stranger in [
        data(99, b"no such stream"),
        Frame::Reset {
            stream: 99,
            status: 5,
        },
        Frame::WindowUpdate {
            stream: 99,
            delta: 5,
        },
        Frame::Settings(vec![(4, 100)]),
        Frame::Ping(2),
    ] {
        client.send(&stranger).await;
    }
    client.send(&Frame::Ping(77)).await;
    assert_eq!(client.next().await, Some(Frame::Ping(77)));
    client.finish(streams[1]).await;
    client.collect([streams[0], streams[2]]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_told_and_disconnected() {
    let server = server().await;
    for garbage in [
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0][..],
        &[
            0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff,
        ][..],
    ] {
        let (session, _) = script("cat", piped(true, true, false));
        let url = server.exec_url(session).unwrap();
        let mut io = connect(&url).await;
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ];
        assert_eq!(request(&mut io, "POST", &url, &headers).await.status, 101);
        io.write_all(garbage).await.unwrap();
        let mut decoder = Decoder::new();
        while io.read_buf(decoder.buffer()).await.unwrap_or(0) > 0 {}
        let told = Frame::GoAway {
            last: 0,
            status: goaway::PROTOCOL_ERROR,
        };
        assert_eq!(decoder.next_frame(), Ok(Some(told)), "{garbage:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_opens_too_many_streams_is_refused_the_rest() {
    let server = server().await;
    let url = server
        .port_forward_url(crate::programs::forward(&[]))
        .unwrap();
    let mut io = connect(&url).await;
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "portforward.k8s.io"),
    ];
    assert_eq!(request(&mut io, "POST", &url, &headers).await.status, 101);
    let (mut encoder, mut out) = (Encoder::new().unwrap(), BytesMut::new());
    for number in 0..600u32 {
        let headers = Headers::default()
            .with("streamType", "error")
            .with("port", "80")
            .with("requestID", &number.to_string());
        let frame = Frame::SynStream {
            stream: number * 2 + 1,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers,
        };
        encoder.encode(&frame, &mut out).unwrap();
    }
    io.write_all(&out).await.unwrap();
    let (mut decoder, mut accepted, mut refused) = (Decoder::new(), 0, 0);
    while accepted + refused < 600 {
        while let Some(frame) = decoder.next_frame().expect("SPDY") {
            accepted += usize::from(matches!(frame, Frame::SynReply { .. }));
            refused += usize::from(matches!(frame, Frame::Reset { .. }));
        }
        if accepted + refused < 600 {
            assert!(io.read_buf(decoder.buffer()).await.unwrap() > 0);
        }
    }
    assert_eq!((accepted, refused), (512, 88));
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_an_idle_token_forgotten() {
    let short = Duration::from_millis(200);
    let config = Config {
        idle_timeout: short,
        token_timeout: short,
        max_tokens: 1,
        ..config()
    };
    let server = Server::start(config).await.unwrap();
    let session = || script("exec sleep 600", piped(false, true, false)).0;
    let url = server.exec_url(session()).unwrap();
    assert!(matches!(
        server.exec_url(session()),
        Err(TokenError::Full(1))
    ));
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    client.open(["error", "stdout"]).await;
    assert_eq!(client.next().await, None, "closed when nothing moves");
    let old = server.exec_url(session()).unwrap();
    let full = || matches!(server.exec_url(session()), Err(TokenError::Full(1)));
    let room = async {
        while full() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let room = tokio::time::timeout(Duration::from_secs(20), room).await;
    room.expect("what is over makes room");
    assert_eq!(
        request(&mut connect(&old).await, "GET", &old, &[])
            .await
            .status,
        404
    );
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_ends_its_sessions() {
    let server = server().await;
    let (session, abandoned) = script("exec sleep 600", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    client.open(["error", "stdout"]).await;
    // A client that does nothing after connecting must not hold the server up either.
    let _silent = connect(&url).await;
    server.stop().await;
    assert_eq!(client.next().await, None);
    assert_eq!(abandoned.load(std::sync::atomic::Ordering::SeqCst), 1);
}
