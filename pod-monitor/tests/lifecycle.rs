//! A container from its creation to its removal, with every runtime.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::*;
use pod_monitor_client::schema::{
    AttachConfig, ContainerPhase, ErrorCode, EventKind, ExitStatus, StreamSet, TerminalSize,
    TraceContext,
};

#[test]
fn a_container_runs_writes_its_log_and_exits_with_its_code() {
    with_each_runtime(async |runtime| {
        let mut pod = Pod::new(runtime).await;
        pod.create("c1", script("echo out; echo err >&2; printf tail; exit 3"))
            .await;
        assert_eq!(pod.phase("c1").await, Some(ContainerPhase::Created));
        pod.monitor.start(&trace(), "c1").await.unwrap();
        let mut kinds = Vec::new();
        let exit = loop {
            let event = pod.event().await;
            assert_eq!(event.sequence, kinds.len() as u64 + 1);
            match event.kind {
                EventKind::Created(_) => kinds.push("created"),
                EventKind::Started(_) => kinds.push("started"),
                EventKind::Exited(exit) => break exit,
                other @ (EventKind::Oom
                | EventKind::LogLost { .. }
                | EventKind::Deleted
                | EventKind::StdinClosed) => panic!("{other:?}"),
            }
        };
        assert_eq!(kinds, ["created", "started"]);
        assert_eq!(exit.status, ExitStatus::Code(3));
        // The event comes after the log's tail.
        let mut log = pod.log("c1");
        log.sort();
        assert_eq!(log, ["stderr F err", "stdout F out", "stdout P tail"]);
        let phase = pod.phase("c1").await.unwrap();
        assert!(matches!(phase, ContainerPhase::Exited { exit: kept, .. } if kept == exit));
        pod.monitor.delete(&trace(), "c1", false).await.unwrap();
        assert_eq!(pod.event().await.kind, EventKind::Deleted);
        assert_eq!(pod.phase("c1").await, None);
        pod.monitor.delete(&trace(), "c1", false).await.unwrap();
        pod.close().await;
    });
}

#[test]
fn an_exec_gets_its_streams_and_its_code() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("exec sleep 1000")).await;
        let mut config = pod.exec_config("c1", &["/bin/sh", "-c", "cat; echo err >&2; exit 7"]);
        config.streams.stdin = true;
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        let stdin = exec.streams.stdin.unwrap();
        nix::unistd::write(&stdin, b"hello").unwrap();
        drop(stdin);
        assert_eq!(read_all(exec.streams.stdout.unwrap()).await, "hello");
        assert_eq!(read_all(exec.streams.stderr.unwrap()).await, "err\n");
        let exit = exec.process.wait().await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        pod.close().await;
    });
}

#[test]
fn a_stop_kills_when_the_grace_is_over() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run(
            "deaf",
            script("trap '' TERM; echo ready; while :; do sleep 1; done"),
        )
        .await;
        pod.run(
            "polite",
            script("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"),
        )
        .await;
        for id in ["deaf", "polite"] {
            eventually("ready", || {
                (pod.log(id) == ["stdout F ready"]).then_some(())
            })
            .await;
        }
        let trace = trace();
        let stop = |id, grace| {
            pod.monitor
                .stop(&trace, id, 15, Duration::from_millis(grace))
        };
        let polite = stop("polite", 60_000).await.unwrap();
        assert_eq!(polite.status, ExitStatus::Code(5));
        // The first would wait for an hour; the second has the shorter deadline.
        let (long, short) = tokio::join!(stop("deaf", 3_600_000), stop("deaf", 100));
        assert_eq!(long.unwrap().status, ExitStatus::Signal(9));
        assert_eq!(short.unwrap().status, ExitStatus::Signal(9));
        assert_eq!(stop("deaf", 1).await.unwrap().status, ExitStatus::Signal(9));
        let killed = pod.monitor.kill(&trace, "deaf", 15).await.unwrap_err();
        assert_eq!(killed.code(), Some(ErrorCode::FailedPrecondition));
        pod.close().await;
    });
}

#[test]
fn what_the_runtime_refuses_is_told_and_leaves_nothing() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        let mut config = pod.container("c1", script("true"));
        std::fs::write(config.bundle.join("config.json"), "{}").unwrap();
        let error = pod.monitor.create(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RuntimeFailed), "{error}");
        assert!(!error.to_string().contains("did not say"), "{error}");
        assert_eq!(pod.phase("c1").await, None);
        assert!(!pod.log_path("c1").exists());
        config.bundle = pod.place.path("nowhere");
        let error = pod.monitor.create(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RuntimeFailed), "{error}");
        // The id is free again.
        pod.create("c1", script("true")).await;
        let error = pod.monitor.create(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::AlreadyExists), "{error}");
        let error = pod.monitor.shutdown(&trace(), false).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::FailedPrecondition), "{error}");
        pod.close().await;
    });
}

#[test]
fn unknown_ids_are_not_found() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let none = |result: Result<(), pod_monitor_client::MonitorError>| {
            assert_eq!(result.unwrap_err().code(), Some(ErrorCode::NotFound));
        };
        none(pod.monitor.start(&trace(), "x").await.map(drop));
        none(pod.monitor.kill(&trace(), "x", 15).await);
        none(
            pod.monitor
                .stop(&trace(), "x", 15, Duration::ZERO)
                .await
                .map(drop),
        );
        none(pod.monitor.reopen_log(&trace(), "x").await);
        none(
            pod.monitor
                .exec(&trace(), &pod.exec_config("x", &["true"]))
                .await
                .map(drop),
        );
        pod.monitor.delete(&trace(), "x", true).await.unwrap();
        pod.close().await;
    });
}

#[test]
fn the_line_of_a_call_that_fails_names_its_request() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let request = |name: &str| TraceContext {
            request_id: format!("r-{name}"),
            ..TraceContext::default()
        };
        let streams = StreamSet {
            stdin: false,
            stdout: true,
            stderr: false,
        };
        let attach = AttachConfig {
            container_id: "none".into(),
            streams,
        };
        let size = TerminalSize {
            columns: 80,
            rows: 24,
        };
        let monitor = &pod.monitor;
        let failures = [
            monitor.start(&request("start"), "none").await.err(),
            monitor.attach(&request("attach"), &attach).await.err(),
            monitor.resize(&request("resize"), "none", size).await.err(),
            monitor.reopen_log(&request("reopen"), "none").await.err(),
        ];
        assert!(failures.iter().all(Option::is_some), "{failures:?}");
        monitor.state(&request("state")).await.unwrap();
        let said = std::fs::read_to_string(pod.place.path("monitor.log")).unwrap();
        let expect = [
            "pod-monitor: start none: no container has this id (request r-start)",
            "pod-monitor: attach none: no container has this id (request r-attach)",
            "pod-monitor: resize none: no container has this id (request r-resize)",
            "pod-monitor: reopen log none: no container has this id (request r-reopen)",
        ];
        // Nothing of the call that did not fail.
        assert_eq!(said.lines().collect::<Vec<_>>(), expect);
        pod.close().await;
    });
}

#[test]
fn a_forced_end_deletes_all_containers_at_once() {
    alone(async || {
        let mut place = Place::new("runc");
        let deletes = place.path("deletes");
        std::fs::create_dir(&deletes).unwrap();
        // No delete gets on before all three have come.
        place.fake_runtime(&format!(
            "case \"$*\" in *' delete '*) : > {0}/$$
            while [ $(ls {0} | wc -l) -lt 3 ]; do sleep 0.01; done;; esac
            exec runc \"$@\"",
            deletes.display()
        ));
        let pod = place.spawn().await.unwrap();
        for id in ["c1", "c2", "c3"] {
            pod.run(id, script("exec sleep 1000")).await;
        }
        pod.close().await;
    });
}
