//! Every type, written, is the bytes in git; those bytes, read, are the value.
//!
//! The files are named after the protocol version that wrote them. A later version keeps reading
//! the files of earlier ones; it writes files of its own where its bytes differ.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper fails its test by panicking"
)]

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pod_monitor_schema::*;

/// Compares with `tests/golden/v1/<name>.bin`, which `write_missing` (the ignored test) makes. A
/// file that is there stays as an earlier version wrote it.
fn check<M: Message + PartialEq + Debug>(name: &str, value: &M, write: bool) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(name)
        .with_extension("bin");
    if write && !file.exists() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, to_bytes(value)).unwrap();
    }
    let golden = fs::read(&file).unwrap();
    assert_eq!(from_bytes::<M>(&golden).unwrap(), *value, "read {name}");
    assert_eq!(to_bytes(value), golden, "write {name}");
}

fn exit(status: ExitStatus) -> Exit {
    Exit {
        status,
        at: 1_700_000_000_123_456_789,
        oom_killed: status == ExitStatus::Signal(9),
    }
}

fn start_config() -> StartConfig {
    StartConfig {
        id: "p1".into(),
        run_directory: "/run/pods/p1".into(),
        runtime: RuntimeConfig {
            path: "/usr/bin/crun".into(),
            root: "/run/pods/crun".into(),
            options: vec!["--debug".into(), "--log=x".into()],
            systemd_cgroup: true,
            timeout: Duration::from_millis(12_345),
        },
        namespaces: Namespaces {
            net: true,
            ipc: false,
            uts: true,
            pid: true,
            uid_mappings: vec![IdMapping {
                container_id: 0,
                host_id: 100_000,
                length: 65_536,
            }],
            gid_mappings: vec![IdMapping {
                container_id: 1,
                host_id: 200_000,
                length: 2,
            }],
        },
        hostname: "web-0".into(),
        sysctls: vec![("net.ipv4.ip_forward".into(), "1".into())],
        limits: Limits {
            calls_in_flight: 1,
            message_bytes: 2,
            connections: 3,
            log_line_bytes: 4,
            log_flush_ms: 5,
            attach_stall_ms: 6,
            token_ms: 7,
        },
    }
}

fn state() -> PodState {
    let phases = [
        ContainerPhase::Created,
        ContainerPhase::Running { started_at: 5 },
        ContainerPhase::Paused { started_at: 6 },
        ContainerPhase::Exited {
            started_at: Some(7),
            exit: exit(ExitStatus::Code(1)),
        },
        ContainerPhase::Exited {
            started_at: None,
            exit: exit(ExitStatus::Lost),
        },
    ];
    PodState {
        containers: (1..)
            .zip(phases)
            .map(|(pid, phase)| ContainerState {
                id: format!("c{pid}"),
                pid,
                created_at: 4,
                phase,
                log_bytes_lost: 99,
                terminal: pid == 2,
            })
            .collect(),
        last_event: 12,
    }
}

fn resume() -> Resume {
    let output = |descriptor, unfinished: &[u8]| ResumedOutput {
        descriptor,
        unfinished: unfinished.to_vec(),
    };
    let container = |state: ContainerState| ResumedContainer {
        config: container_config(),
        state,
        process: Some(7),
        stdin: Some(8),
        terminal: None,
        stdout: output(Some(9), b"half a li"),
        stderr: output(Some(10), b""),
        log: ResumedLog {
            descriptor: Some(11),
            unmarked: Some((4096, 28)),
            torn: true,
        },
        oom_seen: true,
        oom_baseline: 2,
        clients: vec![ResumedClient {
            number: 3,
            stdin: Some(12),
            stdout: Some(13),
            stderr: None,
            wrote: true,
            unwritten: b"in".to_vec(),
            owed_stdout: b"out".to_vec(),
            owed_stderr: Vec::new(),
        }],
        escrowed: true,
    };
    Resume {
        containers: state().containers.into_iter().map(container).collect(),
        last_event: 12,
        pod_pid: Some(13),
        same_process: true,
        oom_score: Some("-998".into()),
        execs: vec![
            ResumedExec {
                pid: 77,
                terminal: Some(14),
                left: Some(Duration::from_millis(1500)),
            },
            ResumedExec {
                pid: 78,
                terminal: None,
                left: None,
            },
        ],
        attachments: 3,
    }
}

fn container_config() -> ContainerConfig {
    ContainerConfig {
        id: "c1".into(),
        bundle: "/run/pods/p1/c1".into(),
        terminal: true,
        stdin: Stdin::Once,
        log_path: Some("/var/log/pods/c1/0.log".into()),
        memory_events: true,
    }
}

fn events() -> Vec<(&'static str, EventKind)> {
    vec![
        ("created", EventKind::Created(Created { pid: 17, at: 1 })),
        ("started", EventKind::Started(Started { at: 2 })),
        ("exited", EventKind::Exited(exit(ExitStatus::Signal(9)))),
        ("oom", EventKind::Oom),
        ("log-lost", EventKind::LogLost { bytes: 4096 }),
        ("deleted", EventKind::Deleted),
        ("stdin-closed", EventKind::StdinClosed),
    ]
}

const CODES: [ErrorCode; 12] = [
    ErrorCode::Internal,
    ErrorCode::NotFound,
    ErrorCode::AlreadyExists,
    ErrorCode::InvalidArgument,
    ErrorCode::FailedPrecondition,
    ErrorCode::ResourceExhausted,
    ErrorCode::DeadlineExceeded,
    ErrorCode::RuntimeFailed,
    ErrorCode::RuntimeMissing,
    ErrorCode::Io,
    ErrorCode::Incompatible,
    ErrorCode::Unimplemented,
];

fn check_calls(write: bool) {
    let streams = StreamSet {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let container = container_config();
    check("container-config", &container, write);
    let unlogged = ContainerConfig {
        stdin: Stdin::Open,
        log_path: None,
        ..container
    };
    check("container-config-unlogged", &unlogged, write);
    let exec = ExecConfig {
        container_id: "c1".into(),
        process: b"{\"args\":[\"true\"]}".to_vec(),
        terminal: true,
        streams,
        size: Some(TerminalSize {
            columns: 80,
            rows: 25,
        }),
        timeout: Some(Duration::from_millis(1500)),
    };
    check("exec-config", &exec, write);
    let endless = ExecConfig {
        size: None,
        timeout: None,
        ..exec
    };
    check("exec-config-endless", &endless, write);
    let attach = AttachConfig {
        container_id: "c1".into(),
        streams,
    };
    check("attach-config", &attach, write);
}

fn check_all(write: bool) {
    check("start-config", &start_config(), write);
    check("pod-state", &state(), write);
    check("resume", &resume(), write);
    check("resume-empty", &Resume::default(), write);
    check_calls(write);
    for (name, status) in [
        ("exit-code", ExitStatus::Code(137)),
        ("exit-signal", ExitStatus::Signal(9)),
        ("exit-timed-out", ExitStatus::TimedOut),
        ("exit-lost", ExitStatus::Lost),
    ] {
        check(name, &exit(status), write);
    }
    for (sequence, (name, kind)) in (1..).zip(events()) {
        let event = Event {
            sequence,
            time: 1_700_000_000_000_000_001,
            container_id: "c1".into(),
            kind,
        };
        check(&format!("event-{name}"), &event, write);
    }
    for (number, code) in CODES.into_iter().enumerate() {
        let mut error = Error::new(code, "open log", "/var/log/x", "no space left");
        error.errno = (code == ErrorCode::Io).then_some(28);
        check(&format!("error-{number:02}"), &error, write);
    }
    let mut hello = Hello::new("runtime/1.2.3");
    (hello.version, hello.oldest_version) = (1, 1);
    check("hello", &hello, write);
    let welcome = Welcome {
        version: 1,
        capabilities: vec![capability::OOM_EVENTS.into(), capability::PAUSE.into()],
        monitor_version: "0.1.0".into(),
        pid: 12,
        pod_id: "p1".into(),
        pod_pid: Some(13),
    };
    check("welcome", &welcome, write);
    let trace = TraceContext {
        request_id: "r-1".into(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
    };
    check("trace-context", &trace, write);
}

#[test]
fn messages_are_the_bytes_in_git() {
    check_all(false);
}

#[test]
#[ignore = "writes into the source tree; run it once when a message is added"]
fn write_missing() {
    check_all(true);
}

#[test]
fn a_state_names_all_its_descriptors() {
    let numbers = resume().descriptors();
    assert_eq!(numbers.len(), 5 * 7 + 1);
    assert!(
        (7..=14).all(|number| numbers.contains(&number)),
        "{numbers:?}"
    );
}

#[test]
fn results_carry_a_value_or_an_error() {
    type CreatedResult = wire::result::Owned<wire::created::Owned>;
    let refused = Error::new(ErrorCode::NotFound, "create", "c1", "");
    for value in [Ok(Created { pid: 3, at: 4 }), Err(refused)] {
        let mut message = capnp::message::Builder::new_default();
        write_result(&value, message.init_root::<wire::result::Builder<'_, _>>());
        let reader = message
            .get_root_as_reader::<<CreatedResult as capnp::traits::Owned>::Reader<'_>>()
            .unwrap();
        assert_eq!(read_result::<Created>(reader).unwrap(), value);
    }
}

#[test]
fn code_of_a_newer_peer_is_read_as_internal() {
    let mut bytes = to_bytes(&Error::new(ErrorCode::NotFound, "o", "s", "d"));
    // The 8-byte frame header and the root pointer come first; the code is the first field.
    bytes[16] = 200;
    assert_eq!(
        from_bytes::<Error>(&bytes).unwrap().code,
        ErrorCode::Internal
    );
}

#[test]
fn paths_that_are_not_utf8_arrive_unchanged() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut config = start_config();
    config.run_directory = std::ffi::OsString::from_vec(vec![b'/', 0xff, b'x']).into();
    assert_eq!(
        from_bytes::<StartConfig>(&to_bytes(&config)).unwrap(),
        config
    );
}

#[test]
fn sub_millisecond_timeout_is_not_none() {
    let exec = ExecConfig {
        container_id: String::new(),
        process: Vec::new(),
        terminal: false,
        streams: StreamSet::default(),
        size: None,
        timeout: Some(Duration::from_micros(1)),
    };
    let read = from_bytes::<ExecConfig>(&to_bytes(&exec)).unwrap();
    assert_eq!(read.timeout, Some(Duration::from_millis(1)));
}

#[test]
fn garbage_is_an_error() {
    let good = to_bytes(&start_config());
    assert!(from_bytes::<StartConfig>(&good[..good.len() - 8]).is_err());
    assert!(from_bytes::<StartConfig>(&[]).is_err());
    let huge = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f];
    assert!(from_bytes::<StartConfig>(&huge).is_err());
}

/// Where a message's own struct begins: after the 8 bytes of the frame header, which has the length in words in its
/// second half, and the 8 of the root pointer, whose second half has the sizes of the struct's data and pointers (Cap'n
/// Proto's encoding specification, "Structs" and "Serialization Over a Stream").
const BODY: usize = 16;

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The message with only so many words of data and so many pointers, as a program wrote it that knew of no more fields.
/// What is left moves as a whole, so that pointers, which are relative, stay right.
fn of_fewer_fields(bytes: &[u8], words: u16, pointers: u16) -> Vec<u8> {
    let (kept, all) = (usize::from(words), usize::from(number(bytes, 12)));
    let mut older = bytes[..BODY + kept * 8].to_vec();
    older.extend_from_slice(&bytes[BODY + all * 8..]);
    let length = u32::try_from(older.len() / 8 - 1).unwrap();
    older[4..8].copy_from_slice(&length.to_le_bytes());
    older[12..14].copy_from_slice(&words.to_le_bytes());
    older[14..16].copy_from_slice(&pointers.to_le_bytes());
    older
}

#[test]
fn what_an_older_program_did_not_write_has_its_default() {
    let bytes = to_bytes(&resume());
    let (words, pointers) = (number(&bytes, 12), number(&bytes, 14));
    assert!(words > 1 && pointers > 1, "{words} and {pointers}");
    for words in 0..=words {
        for pointers in 0..=pointers {
            let older: Resume = from_bytes(&of_fewer_fields(&bytes, words, pointers)).unwrap();
            let known = match pointers {
                0 => Vec::new(),
                _ => resume().containers,
            };
            assert_eq!(older.containers, known, "{words} and {pointers}");
            let last_event = if words > 0 { 12 } else { 0 };
            assert_eq!(older.last_event, last_event, "{words} and {pointers}");
        }
    }
    let first: Resume = from_bytes(&of_fewer_fields(&bytes, 1, 1)).unwrap();
    assert_eq!((first.oom_score, first.execs), (None, Vec::new()));
    assert_eq!((first.pod_pid, first.attachments), (None, 0));
}
