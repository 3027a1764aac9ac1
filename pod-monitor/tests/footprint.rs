//! What a monitor costs. The numbers of a release build are held by the workspace's budgets; here
//! is what must hold for any build.

#[cfg(test)]
mod common;

use std::path::Path;

use common::*;

/// Kilobytes of memory that a process shares with nobody.
fn private(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

fn count(path: impl AsRef<Path>) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn a_monitor_is_one_thread_and_keeps_nothing_of_what_is_over() {
    alone(async || {
        // Shares the program's pages with the one that is looked at.
        let other = Pod::new("runc").await;
        let mut pod = Pod::new("runc").await;
        let pid = pod.monitor.pid();
        let fds = || count(format!("/proc/{pid}/fd"));
        let start = fds();
        println!("private at the start: {} KB", private(pid));
        for id in ["c1", "c2", "c3"] {
            pod.run(id, script("echo up; exec sleep 1000")).await;
            eventually("up", || (pod.log(id) == ["stdout F up"]).then_some(())).await;
        }
        let running = fds();
        println!(
            "private with 3 containers: {} KB, {running} fds",
            private(pid)
        );
        for _ in 0..20 {
            let exec = pod.exec_config("c1", &["/bin/echo", "x"]);
            let exec = pod.monitor.exec(&trace(), &exec).await.unwrap();
            read_all(exec.streams.stdout.unwrap()).await;
            exec.process.wait().await.unwrap();
        }
        assert_eq!(count(format!("/proc/{pid}/task")), 1);
        eventually("the execs' descriptors are closed", || {
            (fds() == running).then_some(())
        })
        .await;
        println!("private after 20 execs: {} KB", private(pid));
        pod.run("loud", script("head -c 50000000 /dev/zero | tr '\\0' x"))
            .await;
        pod.exit("loud").await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        println!("private after 50 MB of log: {} KB", private(pid));
        for id in ["c1", "c2", "c3", "loud"] {
            pod.monitor.delete(&trace(), id, true).await.unwrap();
        }
        eventually("all descriptors are closed", || {
            (fds() == start).then_some(())
        })
        .await;
        println!("private at the end: {} KB", private(pid));
        pod.close().await;
        other.close().await;
    });
}
