//! Memory has bounds: ten thousand sessions leave nothing behind, and a side that
//! does not read makes nothing grow.
//!
//! A test program of its own with one test, because it counts what its process has.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test"
)]

#[path = "e2e/client.rs"]
#[expect(
    dead_code,
    reason = "made for the end-to-end tests, which use all of it"
)]
mod client;

use std::sync::Arc;

use husk_streaming::{
    BoxFuture, Config, Opened, Opener, RemoteSession, Server, SessionError, Stdio, StreamSet,
};

use crate::client::{Client, PATIENCE};

const SESSIONS: usize = 10_000;

/// Sessions before the first count: pools and allocators have their size by then.
const WARM_UP: usize = 1_000;

const AT_ONCE: usize = 8;

fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").expect("a scheme").1;
    &rest[rest.find('/').expect("a path")..]
}

/// Bytes that a connection may hold back, with some for the allocator.
const HELD_KIB: u64 = 8 * 1024;

/// A process that says one line, without the cost of a real one.
struct Line;

impl Opener for Line {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async {
            let (stdin_end, stdin) = rustix::pipe::pipe().unwrap();
            let (stdout, stdout_end) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&stdout_end, b"line\n").unwrap();
            Ok(Opened {
                stdio: Stdio::Pipes {
                    stdin: Some(stdin),
                    stdout: Some(stdout),
                    stderr: None,
                    resize: None,
                },
                exit: Box::pin(async move {
                    drop((stdin_end, stdout_end));
                    Ok(0)
                }),
                abandon: None,
            })
        })
    }
}

/// One session; every third client leaves without waiting for anything.
async fn session(server: &Server, number: usize) {
    let streams = StreamSet {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: false,
    };
    let session = RemoteSession {
        streams,
        opener: Box::new(Line),
    };
    let url = server.exec_url(session).expect("room");
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [error, _stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    if number.is_multiple_of(3) {
        return;
    }
    let [out, _] = client.collect([stdout, error]).await;
    assert_eq!(out, b"line\n");
}

async fn sessions(server: &Arc<Server>, count: usize) {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let server = Arc::clone(server);
        workers.spawn(async move {
            for number in (worker..count).step_by(AT_ONCE) {
                session(&server, number).await;
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("every session ends as it should");
    }
}

#[derive(Debug)]
struct Footprint {
    fds: usize,
    tasks: usize,
    rss_kib: u64,
}

fn footprint() -> Footprint {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    Footprint {
        fds: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        rss_kib: rss.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// The footprint once the last connections have noticed their end.
async fn settled(expected: Option<&Footprint>) -> Footprint {
    for _ in 0..2_000 {
        let now = footprint();
        let before = expected.map_or((usize::MAX, 1), |before| (before.fds, before.tasks));
        if now.fds <= before.0 && now.tasks <= before.1 {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("before {expected:?}, and now {:?}", footprint());
}

/// A process that writes without end and never reads.
struct Flood;

impl Opener for Flood {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async {
            let (unread, stdin) = rustix::pipe::pipe().unwrap();
            let zeros = std::fs::File::open("/dev/zero").unwrap();
            Ok(Opened {
                stdio: Stdio::Pipes {
                    stdin: Some(stdin),
                    stdout: Some(zeros.into()),
                    stderr: None,
                    resize: None,
                },
                exit: Box::pin(async move {
                    let _unread = unread;
                    std::future::pending().await
                }),
                abandon: None,
            })
        })
    }
}

/// A client that only sends, to a process that only writes: both get stuck, and nothing
/// grows. The client reads nothing either, so the server's output is stuck, too.
async fn stalled(server: &Server) {
    let streams = StreamSet {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: false,
    };
    let session = RemoteSession {
        streams,
        opener: Box::new(Flood),
    };
    let url = server.exec_url(session).expect("room");
    let mut client = Client::upgrade(&url, "v4.channel.k8s.io").await;
    let [_, stdin, _] = client.open(["error", "stdin", "stdout"]).await;
    let block = vec![0; 256 * 1024];
    let mut sent = 0;
    let before = footprint();
    let quiet = std::time::Duration::from_millis(500);
    while tokio::time::timeout(quiet, client.data(stdin, &block))
        .await
        .is_ok()
    {
        sent += block.len();
        assert!(sent < 64 * 1024 * 1024, "nobody reads, and yet it is taken");
    }
    let grown = footprint().rss_kib.saturating_sub(before.rss_kib);
    assert!(grown < HELD_KIB, "{grown} KiB after {sent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_fds_and_tasks_stay_flat() {
    let any = "127.0.0.1:0".parse().unwrap();
    let server = Arc::new(
        Server::start(Config::new(any))
            .await
            .expect("server starts"),
    );
    let stalled = tokio::time::timeout(PATIENCE, stalled(&server)).await;
    stalled.expect("it does not take long to get stuck");
    sessions(&server, WARM_UP).await;
    let before = settled(None).await;
    sessions(&server, SESSIONS).await;
    let after = settled(Some(&before)).await;
    let grown = after.rss_kib.saturating_sub(before.rss_kib);
    assert!(grown < 4 * 1024, "{grown} KiB more: {before:?}, {after:?}");
    Arc::into_inner(server).expect("the only one").stop().await;
}
