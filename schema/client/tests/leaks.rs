//! Nothing stays open. In a program of its own, for it counts the descriptors of the process.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper fails its test by panicking"
)]

use std::time::Duration;

use pod_monitor_client::fake::{Fake, Operation};
use pod_monitor_client::schema::{
    AttachConfig, ContainerConfig, ExecConfig, StartConfig, Stdin, StreamSet, TraceContext,
};
use pod_monitor_client::{Monitor, Rpc};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

async fn settles(expect: usize, mut count: impl FnMut() -> usize) {
    let settled = tokio::time::timeout(Duration::from_secs(10), async {
        while count() != expect {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let settled = settled.await;
    assert!(settled.is_ok(), "{} instead of {expect}", count());
}

async fn use_streams(monitor: &Monitor, trace: &TraceContext, rounds: usize) {
    let streams = StreamSet {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let exec = ExecConfig {
        container_id: "c".into(),
        process: Vec::new(),
        terminal: false,
        streams,
        size: None,
        timeout: None,
    };
    let attach = AttachConfig {
        container_id: "c".into(),
        streams,
    };
    for _ in 0..rounds {
        let exec = monitor.exec(trace, &exec).await.unwrap();
        exec.process.wait().await.unwrap();
        monitor.attach(trace, &attach).await.unwrap();
    }
}

#[tokio::test]
async fn execs_attachments_connections_and_threads_leave_nothing_open() {
    let trace = TraceContext::default();
    let (before, threads_before) = (open_descriptors(), threads());
    let directory = tempfile::tempdir().unwrap();
    let rpc = Rpc::start("test/1").unwrap();
    let config = StartConfig {
        run_directory: directory.path().into(),
        ..StartConfig::default()
    };
    let fake = Fake::start(&rpc, config).await.unwrap();
    let with_fake = open_descriptors();
    for id in ["c", "d"] {
        let (monitor, _events) = fake.connect(&rpc).await.unwrap();
        let container = ContainerConfig {
            id: id.into(),
            bundle: "/b".into(),
            terminal: false,
            stdin: Stdin::Open,
            log_path: None,
            memory_events: false,
        };
        monitor.create(&trace, &container).await.unwrap();
        monitor.start(&trace, id).await.unwrap();
        if id == "c" {
            use_streams(&monitor, &trace, 300).await;
            monitor.delete(&trace, "c", true).await.unwrap();
        }
    }
    fake.hold(Operation::Hello);
    let hasty = rpc.clone().with_handshake_limit(Duration::from_millis(1));
    for _ in 0..20 {
        fake.connect(&hasty).await.unwrap_err();
    }
    settles(with_fake, open_descriptors).await;
    drop(hasty);
    drop(fake);
    drop(rpc);
    settles(threads_before, threads).await;
    settles(before, open_descriptors).await;
}
