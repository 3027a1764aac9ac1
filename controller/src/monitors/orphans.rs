//! What dead monitors leave to the daemon: it is a child subreaper, so their children become its own, and
//! with them every process that loses its parent in a container without a PID namespace of its own.
//!
//! Most of the daemon's children are awaited by whoever started them. A child that has been a zombie for
//! a whole round is nobody's, for those who wait do so at once. There are rounds only after a child has
//! ended and while there are zombies: an idle daemon is not woken.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

/// How long a child may be a zombie at least before it counts as nobody's.
const ROUND: Duration = Duration::from_secs(10);

/// Reaps them for ever.
pub async fn reap() {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, "nobody's children stay zombies: SIGCHLD cannot be heard");
            return;
        }
    };
    loop {
        let mut zombies = round(&HashSet::new());
        while !zombies.is_empty() {
            tokio::time::sleep(ROUND).await;
            zombies = round(&zombies);
        }
        if ended.recv().await.is_none() {
            return;
        }
        // By then those who wait have taken theirs, and many that end at once are one round.
        tokio::time::sleep(ROUND).await;
    }
}

/// Reaps those that were zombies before, and answers those that are zombies now.
fn round(before: &HashSet<i32>) -> HashSet<i32> {
    if !any_zombie() {
        return HashSet::new();
    }
    let mut zombies: HashSet<i32> = children()
        .into_iter()
        .filter(|pid| is_zombie(*pid))
        .collect();
    zombies.retain(|pid| !(before.contains(pid) && take(*pid)));
    zombies
}

/// One call in place of many, for nearly always there is none.
fn any_zombie() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::All, look), Ok(Some(_)))
}

fn take(pid: i32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let pid = Pid::from_raw(pid).map(WaitId::Pid);
    pid.is_some_and(|pid| matches!(rustix::process::waitid(pid, options), Ok(Some(_))))
}

/// The children of all threads (proc_pid_task(5)); none where the kernel does not list them.
fn children() -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let parse = |list: String| -> Vec<i32> {
        let words = list.split_ascii_whitespace();
        words.filter_map(|pid| pid.parse().ok()).collect()
    };
    lists.flat_map(parse).collect()
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        clippy::zombie_processes,
        reason = "the test needs a child that nobody awaits"
    )]
    fn a_zombie_is_reaped_in_the_second_round() {
        let child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while !is_zombie(pid) {
            std::thread::yield_now();
        }
        let first = round(&HashSet::new());
        assert!(first.contains(&pid) && is_zombie(pid));
        let second = round(&HashSet::from([pid]));
        assert!(!second.contains(&pid) && !is_zombie(pid));
    }
}
