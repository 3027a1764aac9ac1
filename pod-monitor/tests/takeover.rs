//! A monitor is killed, and another one goes on with its containers.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::*;
use pod_monitor_client::schema::{
    AttachConfig, ContainerConfig, ContainerPhase, EventKind, Exit, ExitStatus, Stdin, StreamSet,
};
use pod_monitor_client::{Escrow, HandedOver, Handover};

/// Counts lines for ever, and exits with 7 when it is told to.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done";

/// A container as its client knows it.
struct Known {
    config: ContainerConfig,
    escrow: Escrow,
}

#[cfg(test)]
impl Pod {
    async fn run_escrowed(&self, id: &str, container: Container<'_>) -> Known {
        let config = self.container(id, container);
        self.monitor.create(&trace(), &config).await.unwrap();
        let escrow = self.monitor.escrow(&trace(), id).await.unwrap();
        self.monitor.start(&trace(), id).await.unwrap();
        Known { config, escrow }
    }

    /// Kills the monitor, waits for its end, and does `meanwhile` before the next one starts.
    async fn replace(self, known: &[&Known], meanwhile: impl AsyncFnOnce(&Place)) -> Pod {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let state = self.monitor.state(&trace()).await.unwrap();
        let pod_pid = self.monitor.welcome().pod_pid;
        self.monitor.kill_process().unwrap();
        self.monitor.ended().await;
        meanwhile(&self.place).await;
        let containers = state.containers.into_iter().map(|state| {
            let known = known
                .iter()
                .find(|known| known.config.id == state.id)
                .unwrap();
            HandedOver {
                config: known.config.clone(),
                escrow: known.escrow.try_clone().unwrap(),
                state,
            }
        });
        let handover = Handover {
            pod_pid,
            containers: containers.collect(),
        };
        let pod = self.place.spawn_with(Some(handover)).await.unwrap();
        for known in known {
            pod.settle_when_reaped(known);
        }
        pod
    }

    /// How the container ended, once it has.
    async fn ended(&self, id: &str) -> Exit {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(ContainerPhase::Exited { exit, .. }) = self.phase(id).await {
                return exit;
            }
            assert!(std::time::Instant::now() < deadline, "{id} does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What whoever inherits the children of a dead monitor does.
    fn settle_when_reaped(&self, known: &Known) {
        let (rpc, monitor, id) = (
            self.rpc.clone(),
            self.monitor.clone(),
            known.config.id.clone(),
        );
        let Some(process) = &known.escrow.process else {
            return;
        };
        let process = process.try_clone().unwrap();
        tokio::spawn(async move {
            let status = rpc.reaped(process).await.unwrap();
            let exit = Exit {
                status,
                at: i64::MAX,
                oom_killed: false,
            };
            // Where an earlier such task was faster the monitor has it from the kernel.
            let _ = monitor.settle(&trace(), &id, exit).await;
        });
    }
}

/// Waits until there are more lines, and checks that none is doubled and at most what a monitor had
/// in its hand when it was killed is missing.
#[cfg(test)]
async fn goes_on(pod: &Pod, id: &str, kills: usize) {
    let before = pod.log(id).len();
    eventually("more lines", || {
        (pod.log(id).len() > before + 5).then_some(())
    })
    .await;
    let (mut next, mut gaps) = (0, 0);
    for line in pod.log(id) {
        let number: usize = line.strip_prefix("stdout F ").unwrap().parse().unwrap();
        assert!(number >= next, "{number} comes again");
        // Lines come apart, so that few are read at once.
        assert!(number - next <= 3, "{next} to {number} are missing");
        gaps += usize::from(number > next);
        next = number + 1;
    }
    assert!(gaps <= kills, "{gaps} gaps after {kills} kills");
}

#[test]
fn a_container_outlives_its_monitor_twice() {
    with_each_runtime(async |runtime| {
        let pod = Pod::new(runtime).await;
        let known = pod.run_escrowed("c1", script(COUNT)).await;
        goes_on(&pod, "c1", 0).await;
        let pod = pod.replace(&[&known], async |_| ()).await;
        goes_on(&pod, "c1", 1).await;
        let mut pod = pod.replace(&[&known], async |_| ()).await;
        goes_on(&pod, "c1", 2).await;
        // All that could be done before can be done now.
        let config = pod.exec_config("c1", &["/bin/echo", "hello"]);
        let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
        assert_eq!(read_all(exec.streams.stdout.unwrap()).await, "hello\n");
        assert_eq!(
            exec.process.wait().await.unwrap().status,
            ExitStatus::Code(0)
        );
        let old = pod.place.path("old.log");
        std::fs::rename(pod.log_path("c1"), &old).unwrap();
        pod.monitor.reopen_log(&trace(), "c1").await.unwrap();
        eventually("a new file", || (pod.log("c1").len() > 1).then_some(())).await;
        let grace = Duration::from_secs(20);
        let exit = pod.monitor.stop(&trace(), "c1", 15, grace).await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        assert_eq!(pod.exit("c1").await.status, ExitStatus::Code(7));
        let phase = pod.phase("c1").await.unwrap();
        assert!(matches!(phase, ContainerPhase::Exited { started_at: Some(at), .. } if at > 0));
        drop(known);
        pod.close().await;
    });
}

#[test]
fn what_ends_while_there_is_no_monitor_is_whole_when_there_is_one() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let text = "echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; seq 1 2000; exit 3";
        let known = pod.run_escrowed("c1", script(text)).await;
        eventually("first", || (pod.log("c1").len() == 1).then_some(())).await;
        let pod = pod
            .replace(&[&known], async |place: &Place| {
                std::fs::write(place.path("rootfs/tmp/go"), "").unwrap();
                let process = known.escrow.process.as_ref().unwrap();
                let fd = std::os::fd::AsFd::as_fd(process);
                let mut ended = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
                assert_eq!(nix::poll::poll(&mut ended, 20_000u16).unwrap(), 1);
            })
            .await;
        assert_eq!(pod.ended("c1").await.status, ExitStatus::Code(3));
        let log = pod.log("c1");
        assert_eq!((log.len(), log[0].as_str()), (2001, "stdout F first"));
        assert_eq!(log[2000], "stdout F 2000");
        pod.close().await;
    });
}

#[test]
fn a_terminal_and_an_open_input_outlive_the_monitor() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let echo = "while read -r line; do echo \"got $line\"; done; exit 4";
        let terminal = Container {
            terminal: true,
            stdin: Stdin::Open,
            ..script(echo)
        };
        let piped = Container {
            stdin: Stdin::Once,
            ..script(echo)
        };
        let terminal = pod.run_escrowed("tty", terminal).await;
        let mut piped = pod.run_escrowed("piped", piped).await;
        let mut pod = pod.replace(&[&terminal, &piped], async |_| ()).await;
        let streams = StreamSet {
            stdin: true,
            stdout: true,
            stderr: false,
        };
        for id in ["tty", "piped"] {
            let attach = AttachConfig {
                container_id: id.into(),
                streams,
            };
            let attached = pod.monitor.attach(&trace(), &attach).await.unwrap();
            write(attached.streams.stdin.as_ref().unwrap(), b"x\n");
            read_until(attached.streams.stdout.as_ref().unwrap(), "got x").await;
        }
        // The client has gone, so the input is closed as soon as the duplicate is, too.
        loop {
            let event = pod.event().await;
            if event.kind == EventKind::StdinClosed {
                assert_eq!(event.container_id, "piped");
                break;
            }
        }
        piped.escrow.stdin.take();
        assert_eq!(pod.exit("piped").await.status, ExitStatus::Code(4));
        pod.monitor.kill(&trace(), "tty", 9).await.unwrap();
        assert_eq!(pod.exit("tty").await.status, ExitStatus::Signal(9));
        drop((terminal, piped));
        pod.close().await;
    });
}

#[test]
fn a_container_whose_process_nobody_holds_is_lost_and_can_be_deleted() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let mut known = pod.run_escrowed("c1", script("exec sleep 1000")).await;
        known.escrow.process = None;
        let pod = pod.replace(&[&known], async |_| ()).await;
        // It may have ended before anybody subscribed.
        assert_eq!(pod.ended("c1").await.status, ExitStatus::Lost);
        pod.monitor.delete(&trace(), "c1", true).await.unwrap();
        drop(known);
        pod.close().await;
    });
}

#[test]
fn a_shared_pid_namespace_ends_with_the_monitor_that_took_it_over() {
    alone(async || {
        let mut place = Place::new("runc");
        place.config.namespaces.pid = true;
        let pod = place.spawn().await.unwrap();
        let init = pod.monitor.welcome().pod_pid.unwrap();
        let known = pod.run_escrowed("c1", script(COUNT)).await;
        let pod = pod.replace(&[&known], async |_| ()).await;
        assert_eq!(pod.monitor.welcome().pod_pid, Some(init));
        goes_on(&pod, "c1", 1).await;
        drop(known);
        pod.close().await;
        eventually("the init is gone", || {
            let state = std::fs::read_to_string(format!("/proc/{init}/stat")).ok();
            // A zombie is this process's to reap, which it is not here for.
            state.is_none_or(|stat| stat.contains(") Z ")).then_some(())
        })
        .await;
    });
}
