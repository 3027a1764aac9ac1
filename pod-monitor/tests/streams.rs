//! What containers write and read: logs, terminals, attached clients, exec streams.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::*;
use pod_monitor_client::schema::{
    AttachConfig, AttachEnd, ErrorCode, ExitStatus, Stdin, StreamSet, TerminalSize,
};

const BOTH: StreamSet = StreamSet {
    stdin: false,
    stdout: true,
    stderr: true,
};

const ALL: StreamSet = StreamSet {
    stdin: true,
    ..BOTH
};

fn attach(id: &str, streams: StreamSet) -> AttachConfig {
    AttachConfig {
        container_id: id.into(),
        streams,
    }
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    with_each_runtime(async |runtime| {
        let mut pod = Pod::new(runtime).await;
        let container = Container {
            stdin: Stdin::Open,
            ..script("while read -r line; do echo \"$line\"; done")
        };
        pod.run("c1", container).await;
        let attached = pod
            .monitor
            .attach(&trace(), &attach("c1", ALL))
            .await
            .unwrap();
        let stdin = attached.streams.stdin.as_ref().unwrap();
        write(stdin, b"one\n");
        eventually("one", || (pod.log("c1") == ["stdout F one"]).then_some(())).await;
        let old = pod.place.path("old.log");
        std::fs::rename(pod.log_path("c1"), &old).unwrap();
        // A directory in the way: the old file stays in use.
        std::fs::create_dir(pod.log_path("c1")).unwrap();
        let error = pod.monitor.reopen_log(&trace(), "c1").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Io));
        write(stdin, b"two\n");
        eventually("two", || (log_lines(&old).len() == 2).then_some(())).await;
        std::fs::remove_dir(pod.log_path("c1")).unwrap();
        pod.monitor.reopen_log(&trace(), "c1").await.unwrap();
        write(stdin, b"three\n");
        eventually("three", || {
            (pod.log("c1") == ["stdout F three"]).then_some(())
        })
        .await;
        pod.monitor.kill(&trace(), "c1", 9).await.unwrap();
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Signal(9));
        assert_eq!(log_lines(&old), ["stdout F one", "stdout F two"]);
        pod.close().await;
    });
}

#[test]
fn a_prompt_is_written_when_nothing_follows_and_a_long_line_in_pieces() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.limits.log_line_bytes = 100;
        let mut pod = place.spawn().await.unwrap();
        let text = "printf 'login: '; sleep 0.5; head -c 250 /dev/zero | tr '\\0' x; echo";
        pod.run("c1", script(text)).await;
        pod.exit("c1").await;
        let x = |count| "x".repeat(count);
        let expect = [
            "stdout P login: ".to_owned(),
            format!("stdout P {}", x(100)),
            format!("stdout P {}", x(100)),
            format!("stdout F {}", x(50)),
        ];
        assert_eq!(pod.log("c1"), expect);
        pod.close().await;
    });
}

#[test]
fn two_clients_see_every_byte_and_both_may_write() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        let container = Container {
            stdin: Stdin::Open,
            ..script("read a; read b; echo \"$a $b\" >&2; seq 1 200000")
        };
        pod.run("c1", container).await;
        let one = pod
            .monitor
            .attach(&trace(), &attach("c1", ALL))
            .await
            .unwrap();
        let two = pod
            .monitor
            .attach(&trace(), &attach("c1", ALL))
            .await
            .unwrap();
        assert!(!one.terminal);
        write(one.streams.stdin.as_ref().unwrap(), b"first\n");
        write(two.streams.stdin.as_ref().unwrap(), b"second\n");
        let expect: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        let (one_out, two_out, one_err, two_err) = tokio::join!(
            read_all(one.streams.stdout.unwrap()),
            read_all(two.streams.stdout.unwrap()),
            read_all(one.streams.stderr.unwrap()),
            read_all(two.streams.stderr.unwrap()),
        );
        assert!(one_out == expect && two_out == expect);
        for line in [one_err, two_err] {
            assert!(
                line == "first second\n" || line == "second first\n",
                "{line}"
            );
        }
        assert_eq!(one.end.wait().await.unwrap(), AttachEnd::ContainerExited);
        assert_eq!(two.end.wait().await.unwrap(), AttachEnd::ContainerExited);
        assert_eq!(pod.log("c1").len(), 200_001);
        pod.close().await;
    });
}

#[test]
fn a_client_that_stalls_is_dropped_and_one_that_leaves_is_forgotten() {
    alone(async || {
        let mut pod = Pod::new("runc").await;
        pod.create("c1", script("seq 1 200000")).await;
        let stalled = pod
            .monitor
            .attach(&trace(), &attach("c1", BOTH))
            .await
            .unwrap();
        let gone = pod
            .monitor
            .attach(&trace(), &attach("c1", BOTH))
            .await
            .unwrap();
        drop(gone.streams);
        assert_eq!(gone.end.wait().await.unwrap(), AttachEnd::Detached);
        pod.monitor.start(&trace(), "c1").await.unwrap();
        assert_eq!(stalled.end.wait().await.unwrap(), AttachEnd::Stalled);
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Code(0));
        assert_eq!(pod.log("c1").len(), 200_000);
        pod.close().await;
    });
}

#[test]
fn input_ends_with_the_first_writer_only_where_it_should() {
    alone(async || {
        for (mode, ends) in [(Stdin::Once, true), (Stdin::Open, false)] {
            let mut pod = Pod::new("runc").await;
            let container = Container {
                stdin: mode,
                ..script("cat; echo end")
            };
            pod.run("c1", container).await;
            let silent = pod
                .monitor
                .attach(&trace(), &attach("c1", ALL))
                .await
                .unwrap();
            drop(silent.streams);
            silent.end.wait().await.unwrap();
            let writer = pod
                .monitor
                .attach(&trace(), &attach("c1", ALL))
                .await
                .unwrap();
            write(writer.streams.stdin.as_ref().unwrap(), b"text\n");
            drop(writer.streams);
            writer.end.wait().await.unwrap();
            eventually("text", || {
                pod.log("c1")
                    .contains(&"stdout F text".into())
                    .then_some(())
            })
            .await;
            if ends {
                assert_eq!(pod.exit("c1").await.status, ExitStatus::Code(0));
                assert_eq!(pod.log("c1"), ["stdout F text", "stdout F end"]);
            } else {
                let again = pod
                    .monitor
                    .attach(&trace(), &attach("c1", ALL))
                    .await
                    .unwrap();
                write(again.streams.stdin.as_ref().unwrap(), b"more\n");
                read_until(again.streams.stdout.as_ref().unwrap(), "more\n").await;
            }
            pod.close().await;
        }
    });
}

#[test]
fn a_terminal_is_one_stream_with_a_size() {
    with_each_runtime(async |runtime| {
        let mut pod = Pod::new(runtime).await;
        let container = Container {
            terminal: true,
            stdin: Stdin::Open,
            ..script("read go; stty size; echo err >&2; read go; exit 4")
        };
        pod.run("c1", container).await;
        let size = TerminalSize {
            columns: 91,
            rows: 37,
        };
        pod.monitor.resize(&trace(), "c1", size).await.unwrap();
        let attached = pod
            .monitor
            .attach(&trace(), &attach("c1", ALL))
            .await
            .unwrap();
        assert!(attached.terminal && attached.streams.stderr.is_none());
        let stdin = attached.streams.stdin.as_ref().unwrap();
        let stdout = attached.streams.stdout.as_ref().unwrap();
        write(stdin, b"go\n");
        let text = read_until(stdout, "err\r\n").await;
        assert!(text.contains("37 91\r\n"), "{text:?}");
        write(stdin, b"go\n");
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Code(4));
        assert!(pod.log("c1").contains(&"stdout F 37 91\r".to_owned()));
        pod.close().await;
    });
}

#[test]
fn an_exec_with_a_terminal_hands_it_over() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("exec sleep 1000")).await;
        let script = "read go; stty size; read never";
        let mut config = pod.exec_config("c1", &[]);
        config.process = process(&["/bin/sh", "-c", script], true).into_bytes();
        config.terminal = true;
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        let size = TerminalSize {
            columns: 70,
            rows: 20,
        };
        exec.process.resize(size).await.unwrap();
        let terminal = exec.streams.terminal.unwrap();
        write(&terminal, b"go\n");
        read_until(&terminal, "20 70\r\n").await;
        // Who closes the terminal hangs up.
        drop(terminal);
        let exit = exec.process.wait().await.unwrap();
        assert!(
            matches!(exit.status, ExitStatus::Signal(1) | ExitStatus::Code(_)),
            "{exit:?}"
        );
        pod.close().await;
    });
}

#[test]
fn an_exec_whose_time_is_over_is_killed_with_all_that_it_started() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("exec sleep 1000")).await;
        let script = "setsid sleep 2000 & sleep 2000 & echo ready; sleep 2000";
        let mut config = pod.exec_config("c1", &["/bin/sh", "-c", script]);
        config.timeout = Some(Duration::from_millis(300));
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        // The pipe ends when the last who could write is gone.
        assert_eq!(read_all(exec.streams.stdout.unwrap()).await, "ready\n");
        let exit = exec.process.wait().await.unwrap();
        assert_eq!(exit.status, ExitStatus::TimedOut);
        pod.close().await;
    });
}

#[test]
fn an_exec_of_what_does_not_exist_is_refused_with_the_cause() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("exec sleep 1000")).await;
        let config = pod.exec_config("c1", &["/no/such/program"]);
        let error = pod.monitor.exec(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RuntimeFailed), "{error}");
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        pod.close().await;
    });
}

#[test]
fn reopen_resize_and_attach_during_an_exec_are_the_containers() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        let talk =
            |who: &str| format!("while read -r line; do echo \"{who} $line\"; stty size; done");
        let container_talk = talk("container");
        let container = Container {
            terminal: true,
            stdin: Stdin::Open,
            ..script(&container_talk)
        };
        pod.run("c1", container).await;
        let mut config = pod.exec_config("c1", &[]);
        config.process = process(&["/bin/sh", "-c", &talk("exec")], true).into_bytes();
        config.terminal = true;
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        let size = |columns, rows| TerminalSize { columns, rows };
        exec.process.resize(size(70, 20)).await.unwrap();
        pod.monitor
            .resize(&trace(), "c1", size(91, 37))
            .await
            .unwrap();
        let attached = pod
            .monitor
            .attach(&trace(), &attach("c1", ALL))
            .await
            .unwrap();
        let old = pod.place.path("old.log");
        std::fs::rename(pod.log_path("c1"), &old).unwrap();
        pod.monitor.reopen_log(&trace(), "c1").await.unwrap();
        let terminal = exec.streams.terminal.unwrap();
        write(&terminal, b"one\n");
        let text = read_until(&terminal, "20 70\r\n").await;
        assert!(text.contains("exec one\r\n"), "{text:?}");
        write(attached.streams.stdin.as_ref().unwrap(), b"two\n");
        let text = read_until(attached.streams.stdout.as_ref().unwrap(), "37 91\r\n").await;
        assert!(text.contains("container two\r\n"), "{text:?}");
        assert!(!text.contains("exec"), "{text:?}");
        let log = eventually("the container's size in its new log", || {
            let log = pod.log("c1");
            log.contains(&"stdout F 37 91\r".into()).then_some(log)
        });
        let lines = [log.await, log_lines(&old)].concat();
        assert!(!lines.iter().any(|line| line.contains("exec")), "{lines:?}");
        pod.close().await;
    });
}
