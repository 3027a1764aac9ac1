//! The client code of Kubernetes as the peer, built from Go modules.
//!
//! Without Go there is nothing to build it with; the tests then say so and pass.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::programs::{command, forward, piped, script, terminal};
use crate::server;

/// Exit code of the peer when the session failed other than by the command's exit.
const FAILED: i32 = 121;

/// The protocols that the peer's library speaks, with whether they carry exit codes.
const SPEECHES: [(&str, &str, bool); 9] = [
    ("spdy", "v4.channel.k8s.io", true),
    ("spdy", "v3.channel.k8s.io", false),
    ("spdy", "v2.channel.k8s.io", false),
    ("spdy", "channel.k8s.io", false),
    ("websocket", "v5.channel.k8s.io", true),
    ("websocket", "v4.channel.k8s.io", true),
    ("websocket", "v3.channel.k8s.io", false),
    ("websocket", "v2.channel.k8s.io", false),
    ("websocket", "channel.k8s.io", false),
];

/// The built peer; none where there is no Go.
async fn peer() -> Option<Command> {
    static BUILT: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let path = BUILT.get_or_init(build).await.as_ref()?;
    Some(command(path.to_str().unwrap()))
}

#[expect(
    clippy::print_stderr,
    reason = "a test that tries nothing has to say so"
)]
async fn build() -> Option<PathBuf> {
    if command("go").arg("version").output().await.is_err() {
        eprintln!("SKIPPED: no `go`, so the client code of Kubernetes was not tried");
        return None;
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("streaming-peer");
    let built = command("go")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer"))
        .args(["build", "-mod=readonly", "-o"])
        .arg(&path)
        .arg(".")
        .output()
        .await
        .expect("go runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Some(path)
}

fn session(peer: &mut Command, url: &str, transport: &str, protocol: &str) {
    peer.args([
        "--mode=exec",
        "--url",
        url,
        "--transport",
        transport,
        "--protocols",
        protocol,
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped());
}

#[tokio::test]
async fn kubernetes_clients_run_commands_in_every_protocol() {
    let server = server().await;
    for (transport, protocol, codes) in SPEECHES {
        let Some(mut peer) = peer().await else { return };
        let what = format!("{transport} {protocol}");
        // The first version's client drops the output as soon as there is an error.
        let (code, status) = match (protocol, codes) {
            ("channel.k8s.io", _) => (0, 0),
            (_, true) => (7, 7),
            (_, false) => (7, FAILED),
        };
        let command = format!("echo out; echo err >&2; exit {code}");
        let (process, _) = script(&command, piped(false, true, true));
        let url = server.exec_url(process).unwrap();
        session(&mut peer, &url, transport, protocol);
        let done = peer.arg("--stderr").output().await.unwrap();
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.stdout, b"out\n", "{what}: {errors}");
        assert!(errors.starts_with("err\n"), "{what}: {errors}");
        assert_eq!(done.status.code(), Some(status), "{what}: {errors}");
        let told = errors.contains("exit code 7");
        assert_eq!(told, status == FAILED, "{what}: {errors}");
    }
    server.stop().await;
}

#[tokio::test]
async fn kubernetes_clients_send_input_and_close_it() {
    let server = server().await;
    let input: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    for (transport, protocol) in [
        ("spdy", "v4.channel.k8s.io"),
        ("spdy", "v2.channel.k8s.io"),
        ("websocket", "v5.channel.k8s.io"),
    ] {
        let Some(mut peer) = peer().await else { return };
        let (process, _) = script("cat", piped(true, true, false));
        let url = server.exec_url(process).unwrap();
        session(&mut peer, &url, transport, protocol);
        let mut peer = peer.arg("--stdin").spawn().unwrap();
        let mut stdin = peer.stdin.take().unwrap();
        let sent = input.clone();
        let send = tokio::spawn(async move { stdin.write_all(&sent).await });
        let done = peer.wait_with_output().await.unwrap();
        send.await.unwrap().expect("all taken");
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(
            done.status.code(),
            Some(0),
            "{transport} {protocol}: {errors}"
        );
        assert!(
            done.stdout == input,
            "{transport} {protocol}: {} bytes",
            done.stdout.len()
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn kubernetes_clients_have_a_terminal_with_their_size() {
    let server = server().await;
    for (transport, protocol) in [
        ("spdy", "v4.channel.k8s.io"),
        ("spdy", "v3.channel.k8s.io"),
        ("websocket", "v5.channel.k8s.io"),
        ("websocket", "v4.channel.k8s.io"),
    ] {
        let Some(mut peer) = peer().await else { return };
        let sized =
            r#"until [ "$(stty size)" = "44 133" ]; do sleep 0.01; done; echo sized; exit 3"#;
        let (process, _) = script(sized, terminal(true));
        let url = server.attach_url(process).unwrap();
        session(&mut peer, &url, transport, protocol);
        peer.args(["--tty", "--stdin", "--sizes", "80x24,133x44"]);
        let mut peer = peer.spawn().unwrap();
        let stdin = peer.stdin.take();
        let done = peer.wait_with_output().await.unwrap();
        drop(stdin);
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(
            done.stdout, b"sized\r\n",
            "{transport} {protocol}: {errors}"
        );
        let expected = if protocol == "v3.channel.k8s.io" {
            FAILED
        } else {
            3
        };
        assert_eq!(
            done.status.code(),
            Some(expected),
            "{transport} {protocol}: {errors}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn kubernetes_clients_get_64_mib_whole() {
    let server = server().await;
    for (transport, protocol) in [
        ("spdy", "v4.channel.k8s.io"),
        ("websocket", "v5.channel.k8s.io"),
    ] {
        let Some(mut peer) = peer().await else { return };
        let command = "seq -f %063.0f 1 1048576";
        let (process, _) = script(command, piped(false, true, false));
        let url = server.exec_url(process).unwrap();
        session(&mut peer, &url, transport, protocol);
        let mut peer = peer.spawn().unwrap();
        let mut out = peer.stdout.take().unwrap();
        let (mut digest, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 65_536]);
        loop {
            let length = out.read(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            total += length;
            digest.update(&buffer[..length]);
        }
        assert_eq!(peer.wait().await.unwrap().code(), Some(0));
        let mut expected = Sha256::new();
        (1..=1_048_576).for_each(|number| expected.update(format!("{number:063}\n")));
        assert_eq!(total, 64 << 20, "{transport}");
        assert_eq!(digest.finalize(), expected.finalize(), "{transport}");
    }
    server.stop().await;
}

/// Sends back what it gets, reversed, once the client has sent it all.
async fn reverser() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                bytes.reverse();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    port
}

async fn through(port: u16, number: u8) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let sent: Vec<u8> = (0..200_000u32)
        .map(|n| number.wrapping_add(n.to_le_bytes()[0]))
        .collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    got.reverse();
    assert!(
        got == sent,
        "connection {number}: {} of {} bytes",
        got.len(),
        sent.len()
    );
}

#[tokio::test]
async fn kubernetes_clients_forward_ports_over_spdy_and_in_a_tunnel() {
    let server = server().await;
    let remote = reverser().await;
    for transport in ["spdy", "websocket"] {
        let Some(mut peer) = peer().await else { return };
        let url = server.port_forward_url(forward(&[])).unwrap();
        let mut peer = peer
            .args(["--mode=forward", "--transport", transport, "--url", &url])
            .args(["--ports", &format!("0:{remote}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(peer.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the local ports");
        let ports: Value = serde_json::from_str(&line).unwrap();
        let local = u16::try_from(ports[0]["Local"].as_u64().unwrap()).unwrap();
        let mut connections = tokio::task::JoinSet::new();
        (0..16).for_each(|number| drop(connections.spawn(through(local, number))));
        while let Some(connection) = connections.join_next().await {
            connection.expect(transport);
        }
        drop(peer.stdin.take());
        assert_eq!(peer.wait().await.unwrap().code(), Some(0), "{transport}");
    }
    server.stop().await;
}
