//! What outlives what, and what goes wrong around a container.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::*;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{
    AttachConfig, ContainerPhase, ErrorCode, EventKind, ExitStatus, Namespaces, Stdin, StreamSet,
};

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn stat_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

#[test]
fn a_client_that_comes_back_finds_what_happened() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("sleep 0.3; echo late; exit 9")).await;
        let Pod {
            rpc,
            monitor,
            events,
            place,
        } = pod;
        drop((monitor, events));
        let log = place.path("c1.log");
        eventually("late", || {
            (log_lines(&log) == ["stdout F late"]).then_some(())
        })
        .await;
        let (monitor, events) = Monitor::connect(&rpc, &place.config.run_directory)
            .await
            .unwrap();
        let pod = Pod {
            rpc,
            monitor,
            events,
            place,
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(ContainerPhase::Exited { exit, .. }) = pod.phase("c1").await {
                assert_eq!(exit.status, ExitStatus::Code(9));
                break;
            }
            assert!(std::time::Instant::now() < deadline);
        }
        pod.close().await;
    });
}

#[test]
fn a_call_whose_client_goes_away_is_carried_to_its_end() {
    alone(async || {
        let pod = Pod::new("runc").await;
        pod.run("c1", script("trap '' TERM; while :; do sleep 1; done"))
            .await;
        let trace = trace();
        let grace = Duration::from_millis(300);
        let stop = pod.monitor.stop(&trace, "c1", 15, grace);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), stop)
                .await
                .is_err()
        );
        let Pod {
            rpc,
            monitor,
            events,
            place,
        } = pod;
        drop((monitor, events));
        let (monitor, events) = Monitor::connect(&rpc, &place.config.run_directory)
            .await
            .unwrap();
        let mut pod = Pod {
            rpc,
            monitor,
            events,
            place,
        };
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Signal(9));
        pod.close().await;
    });
}

#[test]
fn a_shared_pid_namespace_has_an_init_that_reaps() {
    with_each_runtime(async |runtime| {
        let mut place = Place::new(runtime);
        place.config.namespaces = Namespaces {
            pid: true,
            ..pod_namespaces()
        };
        place.config.hostname = "inside".into();
        place.config.sysctls = vec![("net.ipv4.ip_forward".into(), "1".into())];
        let mut pod = place.spawn().await.unwrap();
        let init = pod.monitor.welcome().pod_pid.unwrap();
        let named = || stat_of(init).contains("(pod-init)").then_some(());
        eventually("the init has its name", named).await;
        // An orphan that ends, and one that stays and holds the pipe.
        let text = "hostname; (sleep 0.1 &); setsid sleep 3000 & echo $$; exit 2";
        pod.run("c1", script(text)).await;
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Code(2));
        let log = pod.log("c1");
        assert_eq!(log[0], "stdout F inside");
        assert_ne!(log[1], "stdout F 1");
        let zombies = || {
            std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))
                .unwrap()
                .is_empty()
                .then_some(())
        };
        eventually("the init has reaped", zombies).await;
        pod.close().await;
        eventually("the init is gone", || (!alive(init)).then_some(())).await;
    });
}

#[test]
fn no_orphan_stays_a_zombie() {
    alone(async || {
        let pod = Pod::new("runc").await;
        pod.run("c1", script("exec sleep 1000")).await;
        let exec = pod.exec_config("c1", &["/bin/sh", "-c", "(sleep 0.05 &) ; exit 0"]);
        for _ in 0..5 {
            let exec = pod.monitor.exec(&trace(), &exec).await.unwrap();
            exec.process.wait().await.unwrap();
        }
        let monitor = pod.monitor.pid();
        let only = || {
            let children = format!("/proc/{monitor}/task/{monitor}/children");
            let children = std::fs::read_to_string(children).unwrap();
            (children.split_whitespace().count() == 1).then_some(())
        };
        eventually("one child is left", only).await;
        pod.close().await;
    });
}

#[test]
fn what_memory_kills_is_marked_and_its_sibling_is_not() {
    with_each_runtime(async |runtime| {
        let mut pod = Pod::new(runtime).await;
        let limited = |script| Container {
            memory: Some(16 << 20),
            ..common::script(script)
        };
        pod.run("sibling", limited("exec sleep 1000")).await;
        pod.run("hungry", limited("x=xxxxxxxx; while :; do x=$x$x; done"))
            .await;
        let mut ooms = Vec::new();
        let exit = loop {
            let event = pod.event().await;
            match event.kind {
                EventKind::Oom => ooms.push(event.container_id),
                EventKind::Exited(exit) => break exit,
                EventKind::Created(_)
                | EventKind::Started(_)
                | EventKind::LogLost { .. }
                | EventKind::StdinClosed
                | EventKind::Deleted => {}
            }
        };
        assert!(exit.oom_killed, "{exit:?}");
        assert_eq!(ooms, ["hungry"]);
        pod.monitor.kill(&trace(), "sibling", 9).await.unwrap();
        assert!(!pod.exit("sibling").await.oom_killed);
        pod.close().await;
    });
}

#[test]
fn a_runtime_that_hangs_is_killed_and_undone() {
    alone(async || {
        let mut place = Place::new("runc");
        let calls = place.path("calls");
        let script = format!(
            "echo \"$@\" >> {}; case \"$*\" in *delete*) exit 0;; esac; sleep 4000 & sleep 4000",
            calls.display()
        );
        place.fake_runtime(&script);
        place.config.runtime.timeout = Duration::from_millis(300);
        let pod = place.spawn().await.unwrap();
        let config = pod.container("c1", common::script("true"));
        let error = pod.monitor.create(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::DeadlineExceeded), "{error}");
        let calls = std::fs::read_to_string(calls).unwrap();
        assert!(
            calls.lines().last().unwrap().ends_with("delete --force c1"),
            "{calls}"
        );
        assert_eq!(pod.phase("c1").await, None);
        let monitor = pod.monitor.pid();
        let none = || {
            let children = format!("/proc/{monitor}/task/{monitor}/children");
            std::fs::read_to_string(children)
                .unwrap()
                .is_empty()
                .then_some(())
        };
        eventually("the runtime and its children are gone", none).await;
        pod.close().await;
    });
}

#[test]
fn a_start_that_hangs_is_killed_and_so_is_its_container() {
    alone(async || {
        let mut place = Place::new("runc");
        place.fake_runtime(
            r#"for word; do [ "$word" != start ] || { sleep 4000 & exec sleep 4000; }; done; exec runc "$@""#,
        );
        place.config.runtime.timeout = Duration::from_secs(1);
        let mut pod = place.spawn().await.unwrap();
        pod.create("c1", script("exec sleep 1000")).await;
        let error = pod.monitor.start(&trace(), "c1").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::DeadlineExceeded), "{error}");
        assert!(error.to_string().contains("start took longer"), "{error}");
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Signal(9));
        let monitor = pod.monitor.pid();
        let none = || {
            let children = format!("/proc/{monitor}/task/{monitor}/children");
            let children = std::fs::read_to_string(children).unwrap();
            children.is_empty().then_some(())
        };
        eventually("the runtime and its children are gone", none).await;
        pod.close().await;
    });
}

#[test]
fn a_full_disk_stops_no_container_and_is_told() {
    alone(async || {
        let mut pod = Pod::new("runc").await;
        let disk = pod.place.path("disk");
        std::fs::create_dir(&disk).unwrap();
        // Mounted after the monitor was started in the same mount namespace, so it sees it.
        let (tmpfs, options) = (Some("tmpfs"), Some("size=64k"));
        nix::mount::mount(tmpfs, &disk, tmpfs, nix::mount::MsFlags::empty(), options).unwrap();
        let filler = disk.join("filler");
        std::fs::write(&filler, vec![0; 48 * 1024]).unwrap();
        let mut config = pod.container("c1", script("seq 1 5000; read go; echo back"));
        config.stdin = Stdin::Open;
        config.log_path = Some(disk.join("log"));
        pod.monitor.create(&trace(), &config).await.unwrap();
        let attach = AttachConfig {
            container_id: "c1".into(),
            streams: StreamSet {
                stdin: true,
                stdout: true,
                stderr: false,
            },
        };
        let attached = pod.monitor.attach(&trace(), &attach).await.unwrap();
        pod.monitor.start(&trace(), "c1").await.unwrap();
        // Clients get what the log was offered: there is nothing left that could fill it again.
        read_until(attached.streams.stdout.as_ref().unwrap(), "\n5000\n").await;
        let mut losses = Vec::new();
        std::fs::remove_file(filler).unwrap();
        write(attached.streams.stdin.as_ref().unwrap(), b"go\n");
        let exit = loop {
            match pod.event().await.kind {
                EventKind::LogLost { bytes } => losses.push(bytes),
                EventKind::Exited(exit) => break exit,
                EventKind::Created(_)
                | EventKind::Started(_)
                | EventKind::Oom
                | EventKind::StdinClosed
                | EventKind::Deleted => {}
            }
        };
        assert_eq!(exit.status, ExitStatus::Code(0));
        let log = log_lines(&disk.join("log"));
        assert_eq!(log.last().unwrap(), "stdout F back");
        let lost = losses.last().unwrap();
        let marks = log
            .iter()
            .filter(|line| line.contains("bytes of output are missing"));
        assert!(marks.count() >= 1);
        let state = pod.monitor.state(&trace()).await.unwrap();
        assert_eq!(state.containers[0].log_bytes_lost, *lost);
        let written: usize = log
            .iter()
            .filter_map(|line| line.strip_prefix("stdout F "))
            .map(str::len)
            .sum();
        let all: usize = (1..=5000).map(|n| n.to_string().len()).sum::<usize>() + "back".len();
        assert_eq!(written + usize::try_from(*lost).unwrap(), all);
        nix::mount::umount(&disk).unwrap();
        pod.close().await;
    });
}

#[test]
fn a_runtime_that_is_missing_is_named() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.runtime.path = "/no/such/runtime".into();
        let pod = place.spawn().await.unwrap();
        let config = pod.container("c1", script("true"));
        let error = pod.monitor.create(&trace(), &config).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RuntimeMissing), "{error}");
        assert!(error.to_string().contains("/no/such/runtime"), "{error}");
        pod.close().await;
    });
}

#[test]
fn a_pod_that_cannot_be_set_up_says_why_and_ends() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.namespaces = pod_namespaces();
        place.config.sysctls = vec![("net.no.such.parameter".into(), "1".into())];
        let run_directory = place.config.run_directory.clone();
        let Err(error) = place.spawn().await else {
            panic!("it was set up");
        };
        assert_eq!(error.code(), Some(ErrorCode::Io), "{error}");
        assert_eq!(
            std::fs::read_dir(run_directory).map_or(0, Iterator::count),
            0
        );
    });
}

#[test]
fn a_user_namespace_owns_the_others() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.namespaces = Namespaces {
            pid: true,
            uid_mappings: vec![mapping()],
            gid_mappings: vec![mapping()],
            ..pod_namespaces()
        };
        place.config.hostname = "mapped".into();
        let pod = place.spawn().await.unwrap();
        let init = pod.monitor.welcome().pod_pid.unwrap();
        let map = std::fs::read_to_string(format!("/proc/{init}/uid_map")).unwrap();
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", "100000", "65536"]
        );
        for name in ["net", "ipc", "uts", "user", "pid"] {
            let pin = pod.place.config.run_directory.join("ns").join(name);
            let own = std::fs::metadata(format!("/proc/{init}/ns/{name}")).unwrap();
            let pinned =
                std::fs::metadata(format!("/proc/{}/root{}", pod.monitor.pid(), pin.display()))
                    .unwrap();
            use std::os::unix::fs::MetadataExt;
            assert_eq!(own.ino(), pinned.ino(), "{name}");
        }
        pod.close().await;
    });
}

#[test]
fn a_paused_container_is_thawed_by_a_stop() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run(
            "c1",
            script("trap 'exit 6' TERM; while :; do sleep 0.05; done"),
        )
        .await;
        pod.monitor.pause(&trace(), "c1").await.unwrap();
        assert!(matches!(
            pod.phase("c1").await,
            Some(ContainerPhase::Paused { .. })
        ));
        let exec = pod.exec_config("c1", &["/bin/true"]);
        let error = pod.monitor.exec(&trace(), &exec).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::FailedPrecondition));
        let grace = Duration::from_secs(20);
        let exit = pod.monitor.stop(&trace(), "c1", 15, grace).await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(6));
        pod.close().await;
    });
}

#[test]
fn resources_are_changed() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        pod.run("c1", script("exec sleep 1000")).await;
        let resources = br#"{"cpu":{"shares":77}}"#;
        pod.monitor.update(&trace(), "c1", resources).await.unwrap();
        // The files of v1 and v2; 77 shares are a weight of 3 to 9, by the formula of the OCI runtime.
        let read = |file: &str| {
            let groups = pod.place.cgroups();
            let mut files = groups.into_iter().map(|group| group.join("c1").join(file));
            let text = files.find_map(|file| std::fs::read_to_string(file).ok())?;
            text.trim().parse::<u32>().ok()
        };
        match read("cpu.shares") {
            Some(shares) => assert_eq!(shares, 77),
            None => assert!(matches!(read("cpu.weight"), Some(3..=9))),
        }
        let error = pod
            .monitor
            .update(&trace(), "c1", b"nonsense")
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::RuntimeFailed), "{error}");
        pod.close().await;
    });
}
