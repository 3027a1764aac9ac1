//! Exec and attach over SPDY, from the client's side of the wire.

use std::sync::atomic::Ordering;

use crate::client::{Client, connect, request};
use crate::programs::{Failing, piped, script, terminal};
use crate::{eventually, server};
use husk_streaming::RemoteSession;

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

#[tokio::test]
async fn output_errors_and_exit_code_arrive_in_every_version() {
    let server = server().await;
    let json = r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
    let text = "command terminated with exit code 7";
    for (version, failure, success) in [
        ("v4.channel.k8s.io", json, SUCCESS),
        ("v3.channel.k8s.io", text, ""),
        ("v2.channel.k8s.io", text, ""),
        ("channel.k8s.io", text, ""),
    ] {
        for (code, status) in [(7, failure), (0, success)] {
            let command = format!("echo out; echo err >&2; exit {code}");
            let (session, abandoned) = script(&command, piped(false, true, true));
            let url = server.exec_url(session).unwrap();
            let mut client = Client::upgrade(&url, version).await;
            let streams = client.open(["error", "stdout", "stderr"]).await;
            let [error, out, err] = client.collect(streams).await;
            assert_eq!((&*out, &*err), (&b"out\n"[..], &b"err\n"[..]), "{version}");
            assert_eq!(String::from_utf8_lossy(&error), status, "{version}");
            assert_eq!(abandoned.load(Ordering::SeqCst), 0);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn input_arrives_with_nul_bytes_and_ends_when_the_client_says_so() {
    let server = server().await;
    let (session, _) = script("cat", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [error, stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    client.data(stdin, b"a\0b\n").await;
    client.data(stdin, b"").await;
    client.data(stdin, b"\0").await;
    client.finish(stdin).await;
    let [error, out, _] = client.collect([error, stdout, stdin]).await;
    assert_eq!(out, b"a\0b\n\0");
    assert_eq!(error, SUCCESS.as_bytes());
    server.stop().await;
}

#[tokio::test]
async fn a_terminal_takes_sizes_and_the_end_of_input() {
    let server = server().await;
    // Sizes have no answer, so the shell looks until it sees the last one.
    let sized = r#"until [ "$(stty size)" = "44 133" ]; do sleep 0.01; done"#;
    let (session, _) = script(
        &format!("{sized}; echo sized; cat; echo end"),
        terminal(true),
    );
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let kinds = ["error", "stdin", "stdout", "resize"];
    let [error, stdin, stdout, resize] = client.open(kinds).await;
    client.data(resize, br#"{"Width":132,"He"#).await;
    client.data(resize, br#"ight":43}"#).await;
    client
        .data(resize, b"\n{\"Width\":133,\"Height\":44}\n")
        .await;
    client.finish(resize).await;
    client.data(stdin, b"first\nlast words").await;
    client.finish(stdin).await;
    let [error, out] = client.collect([error, stdout]).await;
    let out = String::from_utf8_lossy(&out);
    assert!(out.contains("sized\r\n"), "{out}");
    assert!(out.ends_with("end\r\n"), "{out}");
    assert_eq!(error, SUCCESS.as_bytes());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_told_to_the_opener_once() {
    let server = server().await;
    let (session, abandoned) = script("exec sleep 600", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    client.open(["error", "stdout"]).await;
    drop(client);
    eventually("abandoned", || match abandoned.load(Ordering::SeqCst) {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    server.stop().await;
    assert_eq!(abandoned.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_orphan_that_holds_the_output_does_not_hold_the_session() {
    let server = server().await;
    let command = "echo first; sleep 600 & echo $!; exit 3";
    let (session, _) = script(command, piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let streams = client.open(["error", "stdout"]).await;
    let [error, out] = client.collect(streams).await;
    let out = String::from_utf8_lossy(&out).into_owned();
    let orphan = out.strip_prefix("first\n").expect("all output").trim();
    let orphan = rustix::process::Pid::from_raw(orphan.parse().unwrap()).unwrap();
    rustix::process::kill_process(orphan, rustix::process::Signal::KILL).expect("still there");
    assert!(String::from_utf8_lossy(&error).contains("\"message\":\"3\""));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_explained_to_the_client() {
    let server = server().await;
    for (version, expected) in [
        ("v3.channel.k8s.io", "no such container"),
        (
            "v4.channel.k8s.io",
            r#"{"metadata":{},"status":"Failure","message":"no such container","reason":"InternalError","code":500}"#,
        ),
    ] {
        let opener = Box::new(Failing("no such container"));
        let session = RemoteSession {
            streams: piped(false, true, false),
            opener,
        };
        let url = server.attach_url(session).unwrap();
        let mut client = Client::upgrade(&url, version).await;
        let [error, stdout] = client.open(["error", "stdout"]).await;
        let [error, _] = client.collect([error, stdout]).await;
        assert_eq!(String::from_utf8_lossy(&error), expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_good_for_one_request_of_their_kind() {
    let server = server().await;
    let session = || script("true", piped(false, true, false)).0;
    let status = async |url: &str| {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ];
        request(&mut connect(url).await, "POST", url, &headers)
            .await
            .status
    };
    let url = server.exec_url(session()).unwrap();
    assert_eq!(status(&url).await, 101);
    assert_eq!(status(&url).await, 404, "reused");
    let url = server.exec_url(session()).unwrap();
    assert_eq!(
        status(&url.replace("/exec/", "/attach/")).await,
        404,
        "another kind"
    );
    let (base, token) = url.rsplit_once('/').unwrap();
    let reversed: String = token.chars().rev().collect();
    for wrong in [
        format!("{base}/{reversed}"),
        format!("{base}/"),
        format!("{url}/x"),
    ] {
        assert_eq!(status(&wrong).await, 404, "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_cannot_become_a_session_are_refused() {
    let server = server().await;
    let session = || script("true", piped(false, true, false)).0;
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let rows: [Row<'_>; 4] = [
        ("GET", &[], 400),
        ("DELETE", &[], 405),
        (
            "POST",
            &[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")],
            400,
        ),
        (
            "POST",
            &[
                ("Connection", "Upgrade"),
                ("Upgrade", "SPDY/3.1"),
                ("X-Stream-Protocol-Version", "v9.channel.k8s.io"),
            ],
            403,
        ),
    ];
    for (method, headers, status) in rows {
        let url = server.exec_url(session()).unwrap();
        let answer = request(&mut connect(&url).await, method, &url, headers).await;
        assert_eq!(answer.status, status, "{method} {headers:?}");
        if status == 403 {
            let accepted = answer.header("X-Accepted-Stream-Protocol-Versions");
            assert_eq!(accepted, Some("v4.channel.k8s.io"));
        }
    }
    server.stop().await;
}
