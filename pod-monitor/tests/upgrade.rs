//! A monitor becomes another program while its containers run.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::*;
use pod_monitor_client::schema::{
    AttachConfig, AttachEnd, ErrorCode, ExitStatus, Stdin, StreamSet,
};
use pod_monitor_client::{MonitorError, Program};

/// Counts in bursts, since an upgrade in the middle of one is what could lose something.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while true; do sleep 0.01; \
                     while echo $i; i=$((i+1)); [ $((i % 50)) != 0 ]; do :; done; done";
const OUTPUT: StreamSet = StreamSet {
    stdin: false,
    stdout: true,
    stderr: false,
};

#[cfg(test)]
impl Pod {
    async fn upgrade(&mut self, program: &Program) -> Result<(), MonitorError> {
        let pid = self.monitor.pid();
        self.events = self.monitor.upgrade(&self.rpc, &trace(), program).await?;
        let state = self.monitor.state(&trace()).await?;
        assert_eq!(self.monitor.pid(), pid);
        assert!(!state.containers.is_empty());
        Ok(())
    }

    async fn attach(&self, id: &str, streams: StreamSet) -> pod_monitor_client::Attachment {
        let attach = AttachConfig {
            container_id: id.into(),
            streams,
        };
        self.monitor.attach(&trace(), &attach).await.unwrap()
    }
}

/// The program that another build is made of, as far as the kernel sees: another file.
#[cfg(test)]
fn other() -> Program {
    seal_program()
}

#[cfg(test)]
fn assert_counts(log: &[String]) {
    for (number, line) in log.iter().enumerate() {
        assert_eq!(line, &format!("stdout F {number}"));
    }
}

#[cfg(test)]
fn executable(pod: &Pod) -> std::path::PathBuf {
    std::fs::canonicalize(format!("/proc/{}/exe", pod.monitor.pid()))
        .unwrap_or_else(|_| std::fs::read_link(format!("/proc/{}/exe", pod.monitor.pid())).unwrap())
}

#[test]
fn no_line_is_lost_or_doubled_and_sessions_stay() {
    with_each_runtime(async |runtime| {
        let mut pod = Pod::new(runtime).await;
        pod.run("loud", script(COUNT)).await;
        let echo = Container {
            stdin: Stdin::Open,
            ..script("while read -r line; do echo \"got $line\"; done")
        };
        pod.run("echo", echo).await;
        let all = StreamSet {
            stdin: true,
            ..OUTPUT
        };
        let attached = pod.attach("echo", all).await;
        let config = pod.exec_config("echo", &["/bin/sh", "-c", "read x; echo $x; exit 9"]);
        let mut config = config;
        config.streams.stdin = true;
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        let wait = {
            let process = exec.process.clone();
            tokio::spawn(async move { process.wait().await })
        };
        let mut descriptors = 0;
        for round in 0..5 {
            let before = pod.log("loud").len();
            pod.upgrade(&other()).await.unwrap();
            eventually("more lines", || {
                (pod.log("loud").len() > before).then_some(())
            })
            .await;
            let stdin = attached.streams.stdin.as_ref().unwrap();
            write(stdin, b"x\n");
            read_until(attached.streams.stdout.as_ref().unwrap(), "got x").await;
            let now = fds(&pod);
            assert!(
                round == 0 || now == descriptors,
                "{now} after {descriptors}"
            );
            descriptors = now;
        }
        write(exec.streams.stdin.as_ref().unwrap(), b"hello\n");
        assert_eq!(read_all(exec.streams.stdout.unwrap()).await, "hello\n");
        let exit = wait.await.unwrap().unwrap();
        assert_eq!(exit.status, ExitStatus::Code(9));
        let grace = Duration::from_secs(20);
        let exit = pod.monitor.stop(&trace(), "loud", 15, grace).await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        assert_counts(&pod.log("loud"));
        drop(attached.streams);
        assert_eq!(attached.end.wait().await.unwrap(), AttachEnd::Detached);
        pod.close().await;
    });
}

#[test]
fn a_line_that_has_not_ended_and_bytes_that_a_client_owes_go_along() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.limits.log_flush_ms = 60_000;
        place.config.limits.attach_stall_ms = 60_000;
        let mut pod = place.spawn().await.unwrap();
        let halves = "printf one; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo two";
        pod.run("halves", script(halves)).await;
        let much = Container {
            stdin: Stdin::Open,
            ..script("read x; seq 1 60000")
        };
        pod.run("much", much).await;
        let all = StreamSet {
            stdin: true,
            ..OUTPUT
        };
        let attached = pod.attach("much", all).await;
        write(attached.streams.stdin.as_ref().unwrap(), b"go\n");
        // The client's pipe is full, so the monitor holds what it owes.
        let pipe = attached.streams.stdout.as_ref().unwrap();
        let room = rustix::pipe::fcntl_getpipe_size(pipe).unwrap();
        let full = || {
            let waiting = rustix::io::ioctl_fionread(pipe).unwrap();
            (waiting > (room - 4096) as u64).then_some(())
        };
        eventually("a full pipe", full).await;
        pod.upgrade(&other()).await.unwrap();
        pod.upgrade(&other()).await.unwrap();
        let all = read_all(attached.streams.stdout.unwrap()).await;
        let expected: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
        assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
        std::fs::write(pod.place.path("rootfs/tmp/go"), "").unwrap();
        pod.exit("halves").await;
        assert_eq!(pod.log("halves"), ["stdout F onetwo"]);
        assert_eq!(pod.log("much").len(), 60_000);
        pod.close().await;
    });
}

#[test]
fn what_is_no_program_changes_nothing() {
    alone(async || {
        let mut pod = Pod::new("runc").await;
        pod.run("c1", script(COUNT)).await;
        let before = executable(&pod);
        let open = fds(&pod);
        let text = Program::seal("/etc/passwd".as_ref()).unwrap();
        let error = pod.upgrade(&text).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Io), "{error}");
        assert_eq!((executable(&pod), fds(&pod)), (before, open));
        // Nothing of the monitor's reaches the programs that it starts.
        for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", pod.monitor.pid())).unwrap() {
            let entry = entry.unwrap();
            let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap_or("0").trim(), 8).unwrap();
            assert!(number < 3 || flags & 0o2_000_000 != 0, "{number}: {info}");
        }
        let grace = Duration::from_secs(20);
        let exit = pod.monitor.stop(&trace(), "c1", 15, grace).await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        assert_counts(&pod.log("c1"));
        pod.close().await;
    });
}

#[test]
fn an_upgrade_waits_for_calls_and_gives_up_on_long_ones() {
    alone(async || {
        let mut pod = Pod::new("runc").await;
        pod.run(
            "c1",
            script("trap '' TERM; while true; do sleep 0.05; done"),
        )
        .await;
        let stop = {
            let monitor = pod.monitor.clone();
            let grace = Duration::from_secs(600);
            tokio::spawn(async move { monitor.stop(&trace(), "c1", 15, grace).await })
        };
        // The stop is under way when its signal has been sent, which is when its state can be asked.
        pod.phase("c1").await;
        let error = pod.upgrade(&other()).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::FailedPrecondition), "{error}");
        pod.monitor.kill(&trace(), "c1", 9).await.unwrap();
        let exit = stop.await.unwrap().unwrap();
        assert_eq!(exit.status, ExitStatus::Signal(9));
        pod.upgrade(&other()).await.unwrap();
        pod.monitor.delete(&trace(), "c1", false).await.unwrap();
        pod.close().await;
    });
}
