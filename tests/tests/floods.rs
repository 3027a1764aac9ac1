//! More than is reasonable: what is malformed, endless or left by the thousand costs neither memory nor time for long.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use husk_tests::client::expect_error;
use husk_tests::process::{Process, monitors};
use husk_tests::volume::Volume;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, NodeOptions, Pod, container, settings, wait_for};
use nix::sys::signal::Signal;
use tonic::Code;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

async fn node() -> Result<Option<Arc<Node>>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    Ok(Some(Arc::new(Node::start(NodeOptions::default()).await?)))
}

/// Private memory of a process, in KB.
fn memory(pid: u32) -> Result<u64> {
    Process::find(pid)
        .context("the process is gone")?
        .private_memory()
}

#[tokio::test]
async fn endless_output_of_a_command_costs_no_more_memory_than_its_cap() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let pod = Pod::run(node.clone(), node.host_pod("endless")).await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    pod.client.shell(&id, "true").await?;
    let daemon = node.daemon().context("no daemon")?;
    let monitor = monitors(&pod.id).first().context("no monitor")?.pid;
    let before = (memory(daemon)?, memory(monitor)?);
    let flood = "yes standard output & exec yes standard error >&2";
    let mut peak = before;
    {
        let words = ["/bin/sh", "-c", flood];
        let mut command = std::pin::pin!(pod.client.exec(&id, &words, 4));
        let ended = loop {
            let pause = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                ended = &mut command => break ended,
                () = pause => peak = (peak.0.max(memory(daemon)?), peak.1.max(memory(monitor)?)),
            }
        };
        expect_error(ended, &[Code::DeadlineExceeded], &["4 s"])?;
    }
    // 16 MiB of each stream, in buffers that double as they grow.
    let grown = peak.0.saturating_sub(before.0);
    ensure!(grown < 80 << 10, "the daemon has grown by {grown} KB");
    let grown = peak.1.saturating_sub(before.1);
    ensure!(grown < 256, "the monitor has grown by {grown} KB");
    wait_for("the daemon gives the memory back", DEADLINE, async || {
        (memory(daemon).ok()? < before.0 + (8 << 10)).then_some(())
    })
    .await?;
    let left = pod.client.shell(&id, "pgrep yes | wc -l").await?;
    assert_eq!(left, "0", "the flood runs on");
    pod.delete().await
}

#[tokio::test]
async fn ten_thousand_stale_run_directories_are_removed_and_delay_no_start() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    // In memory, as the run directory of a node is.
    node.end_daemon(Signal::SIGTERM)?;
    let run = Volume::memory(&node, &node.directory().join("run"), 256)?;
    node.launch().await?;
    let mut pod = Pod::run(node.clone(), node.host_pod("alive")).await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    node.end_daemon(Signal::SIGKILL)?;
    let pods = run.seen(&run.path.join("pods"))?;
    for number in 0..10_000 {
        let stale = pods.join(format!("{number:064x}"));
        fs::create_dir_all(stale.join("containers"))?;
        fs::write(stale.join("cgroup-parent"), node.cgroup_parent())?;
    }
    let begin = Instant::now();
    node.launch().await?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(15), "the start took {took:?}");
    pod.client = node.client().await?;
    assert_eq!(pod.client.shell(&id, "echo alive").await?, "alive");
    wait_for("the stale directories are gone", 4 * DEADLINE, async || {
        (fs::read_dir(&pods).ok()?.take(2).count() == 1).then_some(())
    })
    .await?;
    pod.delete().await
}

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a gRPC call, uncompressed but for what HPACK has in its static table.
fn call_headers(path: &str) -> Vec<u8> {
    let literal = |index: &[u8], text: &str| {
        let length = u8::try_from(text.len()).unwrap_or(127);
        [index, &[length], text.as_bytes()].concat()
    };
    // POST, http, and by number: path 4, authority 1, content-type 31.
    let parts = [
        vec![0x83, 0x86],
        literal(&[0x04], path),
        literal(&[0x01], "x"),
        literal(&[0x0f, 0x10], "application/grpc"),
    ];
    parts.concat()
}

/// Bytes without any sense, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    next.take(length).collect()
}

/// What is sent to the daemon in place of gRPC.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let open = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let version = frame(
        HEADERS,
        END_HEADERS,
        1,
        &call_headers("/runtime.v1.RuntimeService/Version"),
    );
    let reset = |number: u32| {
        let headers = call_headers("/runtime.v1.RuntimeService/ListContainers");
        let begin = frame(HEADERS, END_HEADERS, number, &headers);
        [begin, frame(RST_STREAM, 0, number, &[0, 0, 0, 8])].concat()
    };
    let resets = (0..5_000).flat_map(|number| reset(number * 2 + 1));
    let with = |more: &[u8]| [open.as_slice(), more].concat();
    vec![
        ("noise", noise(1 << 20)),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("noise after the preface", with(&noise(1 << 20))),
        (
            "a frame that claims 16 MiB",
            with(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]),
        ),
        (
            "settings of no whole entry",
            with(&frame(SETTINGS, 0, 0, &[1, 2, 3])),
        ),
        (
            "headers that do not decompress",
            with(&frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
        ),
        (
            "a message that claims 4 GiB",
            with(&[version, frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff])].concat()),
        ),
        (
            "five thousand calls that are reset",
            with(&resets.collect::<Vec<u8>>()),
        ),
    ]
}

/// Sends all and reads until the daemon hangs up, or has nothing more to say.
fn converse(socket: &std::path::Path, bytes: &[u8]) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    // It may hang up before it has all.
    let _cut_off = stream.write_all(bytes);
    let mut answer = [0; 4096];
    while stream.read(&mut answer).is_ok_and(|read| read > 0) {}
    Ok(())
}

/// Messages as the bytes that they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        bytes::Buf::advance(buffer, bytes::Buf::remaining(buffer));
        Ok(Some(()))
    }
}

/// A call whose message is not what the call takes.
async fn nonsense(client: &Client, call: &'static str, message: Vec<u8>) -> Result<Code> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(call);
    let answer = grpc.unary(tonic::Request::new(message), path, Raw).await;
    Ok(answer.map_or_else(|status| status.code(), |_answer| Code::Ok))
}

#[tokio::test]
async fn malformed_grpc_ends_its_own_connection_and_costs_nothing_lasting() -> Result<()> {
    let Some(node) = node().await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let pod = client.run_pod(&node.host_pod("witness")).await?;
    let daemon = node.daemon().context("no daemon")?;
    converse(&node.socket(), &malformed()[0].1)?;
    let before = memory(daemon)?;
    let sockets = || {
        Process::find(daemon)?
            .descriptors()
            .ok()?
            .get("socket")
            .copied()
    };
    let open = sockets();
    for (what, bytes) in malformed() {
        converse(&node.socket(), &bytes)?;
        let version = tokio::time::timeout(Duration::from_secs(2), client.version()).await;
        version.with_context(|| format!("another client waits after {what}"))??;
    }
    for call in [
        "/runtime.v1.RuntimeService/RunPodSandbox",
        "/runtime.v1.RuntimeService/CreateContainer",
        "/runtime.v1.ImageService/PullImage",
    ] {
        for message in [
            vec![0xff; 100],
            noise(10_000),
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            let code = nonsense(&client, call, message).await?;
            ensure!(code == Code::Internal, "{call}: {code:?}");
        }
        let code = nonsense(&client, call, vec![0; 32 << 20]).await?;
        ensure!(code == Code::OutOfRange, "{call} of 32 MiB: {code:?}");
    }
    assert!(client.pod_status(&pod).await.is_ok());
    client.delete_pod(&pod).await?;
    let given_back = wait_for("connections are closed", DEADLINE / 3, async || {
        (sockets()? <= open?).then_some(())
    });
    let given_back = given_back.await;
    given_back.with_context(|| format!("{open:?} sockets became {:?}", sockets()))?;
    let grown = memory(daemon)?.saturating_sub(before);
    ensure!(grown < 16 << 10, "the daemon has grown by {grown} KB");
    Ok(())
}
