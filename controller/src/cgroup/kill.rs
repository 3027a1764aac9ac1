//! The end of what runs in a cgroup: every process in it and below it, in every hierarchy.
//!
//! Deliberately absent: whether it should end, and gentle signals (`container/`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::{Cgroups, MonitorCgroup, remove_tree, systemd, walk, write_existing};

/// How long the kernel is given to end the processes of a cgroup.
const LIMIT: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks at a cgroup.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

impl Cgroups {
    /// Kills every process of a container, and waits at most 2 s for their end. What is left then
    /// is logged. The caller's own process is spared.
    pub async fn kill_container(&self, parent: &str, id: &str) {
        kill_trees(&self.trees(&self.container_path(parent, id))).await;
    }

    /// Kills a monitor and what it started in its own cgroup, as [`Self::kill_container`] does.
    pub async fn kill_monitor(&self, cgroup: &MonitorCgroup) {
        kill_trees(&self.trees(&monitor_path(cgroup))).await;
    }

    /// Kills what a dead monitor had started in its own cgroup: calls of the OCI runtime. The pod's
    /// init, which is there too, is spared. Waits at most 2 s for their end, for what they still make
    /// would be nobody's.
    pub async fn kill_calls(&self, cgroup: &MonitorCgroup, init: u32) {
        let trees = self.trees(&monitor_path(cgroup));
        let spared = [Pid::this().as_raw().unsigned_abs(), init];
        wait_for_end(|| {
            trees
                .iter()
                .filter(|tree| {
                    let mut pids = processes(tree);
                    pids.retain(|pid| !spared.contains(&pid.unsigned_abs()));
                    signal(tree, &pids);
                    !pids.is_empty()
                })
                .collect()
        })
        .await;
    }

    /// Removes the empty cgroups of a container, those below it first. One that is gone already
    /// counts as removed.
    ///
    /// # Errors
    /// The first that cannot be removed; `EBUSY` where a process is left. The rest is tried.
    pub fn remove_container(&self, parent: &str, id: &str) -> io::Result<()> {
        self.trees(&self.container_path(parent, id))
            .iter()
            .map(|tree| remove_tree(tree))
            .fold(Ok(()), Result::and)
    }

    fn trees(&self, path: &Path) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(path)).collect()
    }
}

fn monitor_path(cgroup: &MonitorCgroup) -> PathBuf {
    match cgroup {
        MonitorCgroup::Directory(path) => path.clone(),
        MonitorCgroup::Scope { slice, name } => systemd::slice_path(slice).join(name),
    }
}

async fn kill_trees(trees: &[PathBuf]) {
    wait_for_end(|| trees.iter().filter(|tree| strike(tree) > 0).collect()).await;
}

/// Kills until nothing is left that is to be killed: a process may fork between the look and the
/// signal. `strike` kills, and answers where it saw anything.
async fn wait_for_end<'a>(strike: impl Fn() -> Vec<&'a PathBuf>) {
    let deadline = Instant::now() + LIMIT;
    let (mut pause, longest) = PAUSES;
    loop {
        let left = strike();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(cgroups = ?left, "processes outlive SIGKILL");
            return;
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

/// Kills what runs in a cgroup and answers how many processes other than ours were seen.
fn strike(tree: &Path) -> usize {
    let mut pids = processes(tree);
    let seen = pids.len();
    let own = Pid::this().as_raw();
    pids.retain(|pid| *pid != own);
    // cgroup.kill takes all of the tree, so it must not be written where we are in it.
    if !pids.is_empty() && (seen > pids.len() || write_existing(tree, "cgroup.kill", "1").is_err())
    {
        signal(tree, &pids);
    }
    pids.len()
}

/// Without `cgroup.kill`: v1, and v2 before Linux 5.14.
fn signal(tree: &Path, pids: &[i32]) {
    // A process of a pid namespace that is not below ours has the number 0 here, which would be
    // our own process group for kill(2).
    for pid in pids.iter().filter(|pid| **pid > 0) {
        if let Err(error) = kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            tracing::debug!(pid, %error, "a process is gone before its signal");
        }
    }
    // On v1 a frozen process does not die before it is thawed (cgroups(7), freezer).
    let _ = write_existing(tree, "freezer.state", "THAWED");
}

/// The processes of a cgroup and those below it.
fn processes(tree: &Path) -> Vec<i32> {
    let lists = walk::tree(tree)
        .filter_map(|directory| std::fs::read_to_string(directory.join("cgroup.procs")).ok());
    let numbers = |list: String| {
        let numbers = list.lines().map(str::parse::<i32>);
        numbers.filter_map(Result::ok).collect::<Vec<_>>()
    };
    lists.flat_map(numbers).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::ExitStatusExt;

    use super::super::{Driver, Monitors, Systemd};
    use super::*;
    use crate::spec::{CgroupFacts, CgroupVersion};

    fn cgroups(mount: &Path, version: CgroupVersion, driver: Driver) -> Cgroups {
        let facts = CgroupFacts {
            version,
            hybrid: false,
            controllers: BTreeSet::new(),
            swap: false,
            hugepage_sizes: BTreeSet::new(),
        };
        for name in ["memory", "pids"] {
            if version == CgroupVersion::V1 {
                std::fs::create_dir_all(mount.join(name)).unwrap();
                std::fs::write(mount.join(name).join("cgroup.procs"), "").unwrap();
            }
        }
        Cgroups::new(mount, &facts, driver, Monitors::default()).unwrap()
    }

    /// A file of the kernel's in a cgroup, with the directories above it.
    fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "something must run to be killed, and ends with the test"
    )]
    fn sleeper() -> tokio::process::Child {
        tokio::process::Command::new("sleep")
            .arg("600")
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn v1_kills_in_every_hierarchy_and_below_but_not_ourselves() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = cgroups(mount.path(), CgroupVersion::V1, Driver::Cgroupfs);
        let own = std::process::id();
        let mut ends = Vec::new();
        for place in ["memory/pod/c1", "pids/pod/c1/inner"] {
            let mut child = sleeper();
            let text = format!("{own}\n0\n{}\n", child.id().unwrap());
            let procs = file(&mount.path().join(place), "cgroup.procs", &text);
            ends.push(tokio::spawn(async move {
                let end = child.wait().await.unwrap();
                std::fs::write(procs, format!("{own}\n")).unwrap();
                end.signal()
            }));
        }
        let mut spared = sleeper();
        let text = format!("{}\n", spared.id().unwrap());
        file(&mount.path().join("memory/pod/c2"), "cgroup.procs", &text);
        cgroups.kill_container("/pod", "c1").await;
        for end in ends {
            assert!(end.is_finished(), "the kill waited for the last process");
            assert_eq!(end.await.unwrap(), Some(Signal::SIGKILL as i32));
        }
        assert_eq!(
            spared.try_wait().unwrap(),
            None,
            "another container runs on"
        );
    }

    #[tokio::test]
    async fn v2_kills_by_the_kernels_file_also_below_the_scope() {
        let mount = tempfile::tempdir().unwrap();
        let systemd = Driver::Systemd(Systemd::default());
        let container = "kubepods.slice/kubepods-pod7.slice/husk-c1.scope";
        let monitor = "kubepods.slice/kubepods-pod7.slice/pod-monitor-p1.scope";
        let cgroups = cgroups(mount.path(), CgroupVersion::V2, systemd);
        for scope in [container, monitor] {
            let scope = mount.path().join(scope);
            let kills = file(&scope, "cgroup.kill", "");
            let procs = file(&scope.join("container"), "cgroup.procs", "0\n");
            let kernel = tokio::spawn(async move {
                while std::fs::read_to_string(&kills).unwrap() != "1" {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                std::fs::write(procs, "").unwrap();
            });
            if scope.ends_with("husk-c1.scope") {
                cgroups.kill_container("kubepods-pod7.slice", "c1").await;
            } else {
                let monitor = cgroups.monitor("kubepods-pod7.slice", "p1");
                cgroups.kill_monitor(&monitor).await;
            }
            assert!(kernel.is_finished(), "the kill waited for the end");
        }
    }

    #[tokio::test]
    async fn a_process_that_does_not_die_is_left_after_the_limit() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = cgroups(mount.path(), CgroupVersion::V1, Driver::Cgroupfs);
        file(&mount.path().join("pids/pod/c1"), "cgroup.procs", "0\n");
        let begin = Instant::now();
        cgroups.kill_container("/pod", "c1").await;
        assert!(begin.elapsed() >= LIMIT);
    }

    #[test]
    fn removal_takes_inner_cgroups_first_and_reports_a_busy_one() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = cgroups(mount.path(), CgroupVersion::V1, Driver::Cgroupfs);
        for place in ["memory/pod/c1", "pids/pod/c1/a/b"] {
            std::fs::create_dir_all(mount.path().join(place)).unwrap();
        }
        // A file keeps a directory as a process keeps a cgroup.
        let busy = file(&mount.path().join("memory/pod/c1/a"), "busy", "");
        assert!(cgroups.remove_container("/pod", "c1").is_err());
        assert!(
            !mount.path().join("pids/pod/c1").exists(),
            "the rest is tried"
        );
        std::fs::remove_file(busy).unwrap();
        for attempt in ["left", "gone"] {
            assert!(cgroups.remove_container("/pod", "c1").is_ok(), "{attempt}");
        }
        assert!(!mount.path().join("memory/pod/c1").exists());
        assert!(mount.path().join("memory/pod").exists());
    }
}
