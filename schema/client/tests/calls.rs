//! Every call, against a monitor without containers.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper fails its test by panicking"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use pod_monitor_client::fake::{ExecEnd, ExecScript, Fake, Operation, Output};
use pod_monitor_client::schema::{
    AttachConfig, AttachEnd, ContainerConfig, ContainerPhase, Error, ErrorCode, EventKind,
    ExecConfig, ExitStatus, StartConfig, Stdin, StreamSet, TerminalSize, TraceContext, layout,
};
use pod_monitor_client::{Events, Monitor, MonitorError, Rpc};
use tempfile::TempDir;

struct Bench {
    fake: Fake,
    rpc: Rpc,
    monitor: Monitor,
    events: Events,
    _directory: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let rpc = Rpc::start("test/1").unwrap();
        let fake = Fake::start(&rpc, start_config(directory.path()))
            .await
            .unwrap();
        let (monitor, events) = fake
            .connect(&rpc.clone().with_trace(&trace()))
            .await
            .unwrap();
        Self {
            fake,
            rpc,
            monitor,
            events,
            _directory: directory,
        }
    }

    async fn running(&self, id: &str) {
        self.monitor.create(&trace(), &container(id)).await.unwrap();
        self.monitor.start(&trace(), id).await.unwrap();
    }

    /// Waits until so many calls of the kind have arrived.
    async fn arrived(&self, operation: Operation, count: usize) {
        until(|| {
            let calls = self.fake.calls();
            calls.iter().filter(|c| c.operation == operation).count() >= count
        })
        .await;
    }
}

fn start_config(run_directory: &Path) -> StartConfig {
    StartConfig {
        id: "pod".into(),
        run_directory: run_directory.into(),
        ..StartConfig::default()
    }
}

fn trace() -> TraceContext {
    TraceContext {
        request_id: "request-1".into(),
        traceparent: "00-1-2-01".into(),
    }
}

fn container(id: &str) -> ContainerConfig {
    ContainerConfig {
        id: id.into(),
        bundle: "/bundle".into(),
        terminal: true,
        stdin: Stdin::Open,
        log_path: None,
        memory_events: true,
    }
}

fn all_streams() -> StreamSet {
    StreamSet {
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

fn exec_config(id: &str) -> ExecConfig {
    ExecConfig {
        container_id: id.into(),
        process: b"{}".to_vec(),
        terminal: false,
        streams: all_streams(),
        size: None,
        timeout: None,
    }
}

/// Waits for a state, for as long as a test may hang.
async fn until(mut reached: impl FnMut() -> bool) {
    let waited = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .unwrap();
}

async fn read_all(descriptor: Option<OwnedFd>) -> Vec<u8> {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        File::from(descriptor.unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_restored_container_runs_at_once() {
    let bench = Bench::new().await;
    let directories = (Path::new("/images"), Path::new("/work"));
    let restored = bench
        .monitor
        .restore(&trace(), &container("c"), directories)
        .await
        .unwrap();
    let state = bench.monitor.state(&trace()).await.unwrap();
    assert_eq!(state.containers[0].pid, restored.pid);
    let phase = state.containers[0].phase;
    assert!(matches!(phase, ContainerPhase::Running { .. }), "{phase:?}");
}

#[tokio::test]
async fn a_life_from_create_to_shutdown() {
    let bench = Bench::new().await;
    let (monitor, trace) = (&bench.monitor, trace());
    assert_eq!(monitor.welcome().pod_id, "pod");
    let created = monitor.create(&trace, &container("c")).await.unwrap();
    let started = monitor.start(&trace, "c").await.unwrap();
    let size = TerminalSize {
        columns: 80,
        rows: 25,
    };
    monitor.resize(&trace, "c", size).await.unwrap();
    monitor.reopen_log(&trace, "c").await.unwrap();
    monitor.update(&trace, "c", b"{}").await.unwrap();
    let directories = (Path::new("/images"), Path::new("/work"));
    let checkpoint = monitor.checkpoint(&trace, "c", directories, None);
    checkpoint.await.unwrap();
    monitor.pause(&trace, "c").await.unwrap();
    monitor.resume(&trace, "c").await.unwrap();
    monitor.kill(&trace, "c", 0).await.unwrap();
    let state = monitor.state(&trace).await.unwrap();
    assert_eq!(state, bench.fake.state());
    assert_eq!(state.containers[0].pid, created.pid);
    assert_eq!(
        state.containers[0].phase,
        ContainerPhase::Running {
            started_at: started.at
        }
    );
    let grace = Duration::from_secs(60);
    let exit = monitor.stop(&trace, "c", 15, grace).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(15));
    assert_eq!(
        monitor.stop(&trace, "c", 9, grace).await.unwrap(),
        exit,
        "a stop of what has stopped says how it ended"
    );
    monitor.delete(&trace, "c", false).await.unwrap();
    monitor.delete(&trace, "c", false).await.unwrap();
    monitor.shutdown(&trace, false).await.unwrap();
    monitor.ended().await;
    bench.fake.stopped().await;
    let calls = bench.fake.calls();
    let traced = calls.iter().filter(|call| call.id == "c");
    assert!(traced.clone().all(|call| call.trace == trace));
    assert_eq!(traced.count(), 13);
    let rest = calls.iter().filter(|call| call.id.is_empty());
    let mut untraced = rest.filter(|call| call.trace != trace);
    let hello = untraced.next().map(|call| call.operation);
    assert_eq!(hello, Some(Operation::Hello), "it has no field for a trace");
    assert_eq!(untraced.next(), None);
    assert!(!bench.fake.run_directory().join(layout::RPC_SOCKET).exists());
}

#[tokio::test]
async fn refusals_carry_their_code() {
    let bench = Bench::new().await;
    let (monitor, trace) = (&bench.monitor, trace());
    let code = |error: MonitorError| error.code().unwrap();
    let unknown = monitor.start(&trace, "x").await.unwrap_err();
    assert_eq!(unknown.to_string(), "start x: no such container");
    assert_eq!(code(unknown), ErrorCode::NotFound);
    bench.running("c").await;
    let again = monitor.create(&trace, &container("c")).await.unwrap_err();
    assert_eq!(code(again), ErrorCode::AlreadyExists);
    let busy = monitor.shutdown(&trace, false).await.unwrap_err();
    assert_eq!(code(busy), ErrorCode::FailedPrecondition);
    let injected = Error::new(ErrorCode::RuntimeFailed, "create", "d", "no such file");
    bench.fake.fail(Operation::Create, injected.clone());
    match monitor.create(&trace, &container("d")).await {
        Err(MonitorError::Refused(error)) => assert_eq!(error, injected),
        other => panic!("{other:?}"),
    }
    monitor.create(&trace, &container("d")).await.unwrap();
    monitor.shutdown(&trace, true).await.unwrap();
}

#[tokio::test]
async fn a_stop_kills_what_does_not_listen() {
    let bench = Bench::new().await;
    bench.running("c").await;
    bench.fake.ignore_signals("c").unwrap();
    let stopped = bench
        .monitor
        .stop(&trace(), "c", 15, Duration::from_millis(20))
        .await;
    assert_eq!(stopped.unwrap().status, ExitStatus::Signal(9));
}

#[tokio::test]
async fn events_arrive_in_order_even_for_a_slow_reader() {
    let mut bench = Bench::new().await;
    // More than all queues between the fake's own and the reader hold.
    let rounds = 200;
    for round in 0..rounds {
        let id = format!("c{round}");
        bench.running(&id).await;
        bench.fake.exit(&id, ExitStatus::Code(3)).unwrap();
        bench.monitor.delete(&trace(), &id, false).await.unwrap();
    }
    for sequence in 1..=rounds * 4 {
        let event = bench.events.recv().await.unwrap();
        assert_eq!(event.sequence, sequence);
        assert_eq!(event.container_id, format!("c{}", (sequence - 1) / 4));
        let fits = match sequence % 4 {
            1 => matches!(event.kind, EventKind::Created(_)),
            2 => matches!(event.kind, EventKind::Started(_)),
            3 => {
                matches!(event.kind, EventKind::Exited(exit) if exit.status == ExitStatus::Code(3))
            }
            _ => matches!(event.kind, EventKind::Deleted),
        };
        assert!(fits, "{event:?}");
    }
}

#[tokio::test]
async fn who_comes_back_finds_what_happened() {
    let mut bench = Bench::new().await;
    bench.running("c").await;
    bench.fake.disconnect();
    bench.monitor.disconnected().await;
    while bench.events.recv().await.is_some() {}
    bench.fake.exit("c", ExitStatus::Code(7)).unwrap();
    let (monitor, mut events) = bench.fake.connect(&bench.rpc).await.unwrap();
    let state = monitor.state(&trace()).await.unwrap();
    assert_eq!(state.last_event, 3);
    assert!(matches!(
        state.containers[0].phase,
        ContainerPhase::Exited { exit, .. } if exit.status == ExitStatus::Code(7)
    ));
    monitor.delete(&trace(), "c", false).await.unwrap();
    assert_eq!(events.recv().await.unwrap().sequence, 4);
}

#[tokio::test]
async fn every_subscriber_gets_every_event() {
    let mut bench = Bench::new().await;
    let (_other, mut others) = bench.fake.connect(&bench.rpc).await.unwrap();
    bench.running("c").await;
    for _ in 0..2 {
        assert_eq!(bench.events.recv().await, others.recv().await);
    }
}

#[tokio::test]
async fn calls_in_flight_end_with_the_connection() {
    let mut bench = Bench::new().await;
    bench.running("c").await;
    bench.fake.hold(Operation::Create);
    bench.fake.next_exec(ExecScript {
        end: ExecEnd::Never,
        ..ExecScript::default()
    });
    let exec = bench
        .monitor
        .exec(&trace(), &exec_config("c"))
        .await
        .unwrap();
    let (ctx, config) = (trace(), container("late"));
    let create = bench.monitor.create(&ctx, &config);
    let breaking = async {
        bench.arrived(Operation::Create, 2).await;
        bench.fake.disconnect();
    };
    let (created, waited, ()) = tokio::join!(create, exec.process.wait(), breaking);
    assert!(
        matches!(created, Err(MonitorError::Disconnected { .. })),
        "{created:?}"
    );
    assert!(
        matches!(waited, Err(MonitorError::Disconnected { .. })),
        "{waited:?}"
    );
    let after = bench.monitor.state(&trace()).await;
    assert!(
        matches!(after, Err(MonitorError::Disconnected { .. })),
        "{after:?}"
    );
    while bench.events.recv().await.is_some() {}
    // The monitor carries it out all the same.
    bench.fake.release(Operation::Create);
    until(|| bench.fake.state().containers.len() == 2).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_is_carried_to_its_end() {
    let bench = Bench::new().await;
    bench.fake.hold(Operation::Create);
    let (ctx, config) = (trace(), container("c"));
    tokio::select! {
        created = bench.monitor.create(&ctx, &config) => panic!("{created:?}"),
        () = bench.arrived(Operation::Create, 1) => {}
    }
    let Bench {
        fake,
        monitor,
        events,
        ..
    } = &bench;
    fake.release(Operation::Create);
    until(|| fake.state().containers.len() == 1).await;
    let _ = (monitor, events);
}

#[tokio::test]
async fn a_thousand_calls_overlap() {
    let bench = Bench::new().await;
    bench.fake.hold(Operation::State);
    let ctx = trace();
    let calls = join_all((0..1000).map(|_| bench.monitor.state(&ctx)));
    let releasing = async {
        bench.arrived(Operation::State, 1000).await;
        bench.fake.release(Operation::State);
    };
    let (answers, ()) = tokio::join!(calls, releasing);
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn handles_keep_the_connection_open_and_the_last_one_closes_it() {
    let Bench {
        fake,
        rpc: _rpc,
        monitor,
        events,
        _directory,
    } = Bench::new().await;
    monitor.create(&trace(), &container("c")).await.unwrap();
    monitor.start(&trace(), "c").await.unwrap();
    fake.next_exec(ExecScript {
        end: ExecEnd::InputClosed,
        ..ExecScript::default()
    });
    let mut exec = monitor.exec(&trace(), &exec_config("c")).await.unwrap();
    drop((monitor, events));
    let waiting = exec.process.wait();
    drop(exec.streams.stdin.take());
    assert_eq!(waiting.await.unwrap().status, ExitStatus::Code(0));
}

#[tokio::test]
async fn an_exec_reads_writes_and_ends() {
    let bench = Bench::new().await;
    bench.running("c").await;
    let big: Vec<u8> = (0..8_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
    bench.fake.next_exec(ExecScript {
        stdout: big.clone(),
        stderr: b"oops\0".to_vec(),
        end: ExecEnd::InputClosed,
        status: ExitStatus::Code(42),
    });
    let exec = bench
        .monitor
        .exec(&trace(), &exec_config("c"))
        .await
        .unwrap();
    assert!(exec.streams.terminal.is_none());
    let mut stdin = File::from(exec.streams.stdin.unwrap());
    stdin.write_all(b"input\0").unwrap();
    drop(stdin);
    let (stdout, stderr) =
        tokio::join!(read_all(exec.streams.stdout), read_all(exec.streams.stderr));
    assert_eq!(stdout.len(), big.len() + 6);
    assert!(stdout.strip_prefix(&big[..]) == Some(b"input\0"));
    assert_eq!(stderr, b"oops\0");
    let exit = exec.process.wait().await.unwrap();
    assert_eq!(exit.status, ExitStatus::Code(42));
    assert_eq!(
        exec.process.wait().await.unwrap(),
        exit,
        "it can be asked again"
    );
    let late = exec.process.kill(15).await.unwrap_err();
    assert_eq!(late.code(), Some(ErrorCode::FailedPrecondition));
}

#[tokio::test]
async fn an_exec_is_killed_or_its_time_is_over() {
    let bench = Bench::new().await;
    bench.running("c").await;
    let endless = ExecScript {
        end: ExecEnd::Never,
        ..ExecScript::default()
    };
    bench.fake.next_exec(endless.clone());
    let killed = bench
        .monitor
        .exec(&trace(), &exec_config("c"))
        .await
        .unwrap();
    killed.process.kill(10).await.unwrap();
    let exit = killed.process.wait().await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(10));

    bench.fake.next_exec(endless.clone());
    let short = ExecConfig {
        timeout: Some(Duration::from_millis(10)),
        ..exec_config("c")
    };
    let over = bench.monitor.exec(&trace(), &short).await.unwrap();
    let exit = over.process.wait().await.unwrap();
    assert_eq!(exit.status, ExitStatus::TimedOut);

    bench.fake.next_exec(endless);
    let outlived = bench
        .monitor
        .exec(&trace(), &exec_config("c"))
        .await
        .unwrap();
    bench.fake.exit("c", ExitStatus::Code(0)).unwrap();
    let exit = outlived.process.wait().await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(9));
}

#[tokio::test]
async fn an_exec_with_a_terminal_has_one_stream() {
    let bench = Bench::new().await;
    bench.running("c").await;
    bench.fake.next_exec(ExecScript {
        stdout: b"$ ".to_vec(),
        ..ExecScript::default()
    });
    let config = ExecConfig {
        terminal: true,
        size: Some(TerminalSize {
            columns: 1,
            rows: 1,
        }),
        ..exec_config("c")
    };
    let exec = bench.monitor.exec(&trace(), &config).await.unwrap();
    assert!(exec.streams.stdin.is_none() && exec.streams.stdout.is_none());
    let size = TerminalSize {
        columns: 99,
        rows: 9,
    };
    exec.process.resize(size).await.unwrap();
    assert_eq!(read_all(exec.streams.terminal).await, b"$ ");
}

#[tokio::test]
async fn two_attached_clients_each_get_everything() {
    let bench = Bench::new().await;
    bench.running("c").await;
    let config = AttachConfig {
        container_id: "c".into(),
        streams: all_streams(),
    };
    let one = bench.monitor.attach(&trace(), &config).await.unwrap();
    let two = bench.monitor.attach(&trace(), &config).await.unwrap();
    assert!(one.terminal);
    let mut stdin = File::from(one.streams.stdin.unwrap());
    stdin.write_all(b"typed").unwrap();
    until(|| bench.fake.input("c") == b"typed").await;
    for (output, bytes) in [(Output::Stdout, "out"), (Output::Stderr, "err")] {
        let written = bench.fake.write_output("c", output, bytes.as_bytes());
        written.await.unwrap();
    }
    bench.fake.exit("c", ExitStatus::Code(0)).unwrap();
    for streams in [
        (one.streams.stdout, one.streams.stderr),
        (two.streams.stdout, two.streams.stderr),
    ] {
        assert_eq!(read_all(streams.0).await, b"out");
        assert_eq!(read_all(streams.1).await, b"err");
    }
    assert_eq!(one.end.wait().await.unwrap(), AttachEnd::ContainerExited);
    assert_eq!(two.end.wait().await.unwrap(), AttachEnd::ContainerExited);
}

#[tokio::test]
async fn streams_are_not_handed_to_who_has_no_token() {
    use std::os::unix::net::UnixStream;
    let bench = Bench::new().await;
    let socket = bench.fake.run_directory().join(layout::STREAMS_SOCKET);
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&[0; 16]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer.await.unwrap(), b"");
}

#[tokio::test]
async fn only_our_user_can_open_the_sockets() {
    let bench = Bench::new().await;
    for name in [layout::RPC_SOCKET, layout::STREAMS_SOCKET] {
        let metadata = bench.fake.run_directory().join(name).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_run_directory_may_be_deeper_than_a_socket_address_is_long() {
    let directory = TempDir::new().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let rpc = Rpc::start("test/1").unwrap();
    let fake = Fake::start(&rpc, start_config(&deep)).await.unwrap();
    let (monitor, _events) = fake.connect(&rpc).await.unwrap();
    monitor.state(&trace()).await.unwrap();
}

#[tokio::test]
async fn connecting_says_why_it_fails() {
    let bench = Bench::new().await;
    let nothing = TempDir::new().unwrap();
    let absent = Monitor::connect(&bench.rpc, nothing.path())
        .await
        .unwrap_err();
    assert!(
        matches!(&absent, MonitorError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound),
        "{absent:?}"
    );
    let unfit = Error::new(ErrorCode::Io, "unshare", "pod", "no space left");
    bench.fake.fail(Operation::Hello, unfit.clone());
    match bench.fake.connect(&bench.rpc).await {
        Err(MonitorError::Refused(error)) => assert_eq!(error, unfit),
        other => panic!("{other:?}"),
    }
    bench.fake.hold(Operation::Hello);
    let hasty = bench
        .rpc
        .clone()
        .with_handshake_limit(Duration::from_millis(30));
    let stuck = bench.fake.connect(&hasty).await.unwrap_err();
    assert!(matches!(stuck, MonitorError::Timeout { .. }), "{stuck:?}");
}

#[tokio::test]
async fn memory_and_log_trouble_is_told() {
    let mut bench = Bench::new().await;
    bench.running("c").await;
    bench.fake.lose_log("c", 10).unwrap();
    bench.fake.lose_log("c", 5).unwrap();
    bench.fake.oom("c").unwrap();
    bench.fake.exit("c", ExitStatus::Signal(9)).unwrap();
    let mut kinds = Vec::new();
    for _ in 0..6 {
        kinds.push(bench.events.recv().await.unwrap().kind);
    }
    assert_eq!(kinds[2], EventKind::LogLost { bytes: 10 });
    assert_eq!(kinds[3], EventKind::LogLost { bytes: 15 });
    assert_eq!(kinds[4], EventKind::Oom);
    assert!(matches!(kinds[5], EventKind::Exited(exit) if exit.oom_killed));
    let state = bench.monitor.state(&trace()).await.unwrap();
    assert_eq!(state.containers[0].log_bytes_lost, 15);
}

/// Answers whoever connects with the bytes, and with the end of the stream.
fn babble(directory: &Path, bytes: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener =
        std::os::unix::net::UnixListener::bind(directory.join(layout::RPC_SOCKET)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the client has closed its end.
        let mut ignored = Vec::new();
        let _ = stream.read_to_end(&mut ignored);
    })
}

#[tokio::test]
async fn whoever_does_not_speak_the_protocol_is_left() {
    let rows: [(&str, &[u8]); 4] = [
        ("silence", b""),
        ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("a frame of 512 MiB", &[0, 0, 0, 0, 0, 0, 0, 4]),
        (
            "a frame that ends early",
            &[0, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3],
        ),
    ];
    let rpc = Rpc::start("test/1").unwrap();
    for (name, bytes) in rows {
        let directory = TempDir::new().unwrap();
        let babbler = babble(directory.path(), bytes);
        let error = Monitor::connect(&rpc, directory.path()).await.unwrap_err();
        let gone = matches!(
            error,
            MonitorError::Disconnected { .. } | MonitorError::Protocol { .. }
        );
        assert!(gone, "{name}: {error:?}");
        tokio::task::spawn_blocking(|| babbler.join().unwrap())
            .await
            .unwrap();
    }
}
