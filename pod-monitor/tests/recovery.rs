//! What whoever comes back to a pod can rely on: nothing is lost, and nothing is out of reach.

#[cfg(test)]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use kernel::{new_cgroup, processes, runs};
use pod_monitor_client::schema::Namespaces;
use pod_monitor_client::{Monitor, clear_run_directory};

#[cfg(test)]
mod kernel {
    //! What the kernel says of processes, and a cgroup.

    use super::*;

    /// Whether the process exists and is no zombie.
    pub(crate) fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim().chars().next());
        state.is_some_and(|state| !"ZX".contains(state))
    }

    pub(crate) fn processes(cgroup: &Path) -> Vec<u32> {
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// A cgroup for the monitor beside those of the pod's containers, in the first hierarchy where one
    /// can be made. It goes with the place.
    pub(crate) fn new_cgroup(place: &Place) -> PathBuf {
        ["pids", "unified", ""]
            .iter()
            .map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy))
            .filter(|hierarchy| hierarchy.join("cgroup.procs").exists())
            .map(|hierarchy| hierarchy.join(&place.cgroup[1..]).join("monitor"))
            .find(|cgroup| fs::create_dir_all(cgroup).is_ok())
            .expect("no cgroup can be made")
    }
}

#[test]
fn a_delete_waits_for_the_create_that_is_under_way() {
    alone(async || {
        let mut place = Place::new("runc");
        let (begun, go) = (place.path("begun"), place.path("go"));
        place.fake_runtime(&format!(
            "case \"$*\" in *' create '*) : > {}
            while [ ! -e {} ]; do sleep 0.01; done;; esac
            exec runc \"$@\"",
            begun.display(),
            go.display()
        ));
        let pod = place.spawn().await.unwrap();
        let config = pod.container("c1", script("exec sleep 1000"));
        let trace = trace();
        tokio::select! {
            made = pod.monitor.create(&trace, &config) => panic!("{made:?}"),
            () = eventually("it is being made", || begun.exists().then_some(())) => {}
        }
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
        let pod = Pod {
            rpc,
            monitor,
            events,
            place,
        };
        // Not there yet; who does not find it deletes what it may once have asked for.
        assert_eq!(pod.phase("c1").await, None);
        {
            let mut delete = std::pin::pin!(pod.monitor.delete(&trace, "c1", true));
            let early = tokio::time::timeout(Duration::from_millis(100), &mut delete).await;
            assert!(early.is_err(), "{early:?}");
            fs::write(&go, "").unwrap();
            delete.await.unwrap();
        }
        assert_eq!(pod.phase("c1").await, None);
        assert_eq!(count(pod.place.path("oci")), 0, "the runtime still has it");
        pod.close().await;
    });
}

#[test]
fn the_init_outlives_its_monitor_and_ends_with_its_cgroup() {
    with_each_runtime(async |runtime| {
        let mut place = Place::new(runtime);
        place.config.namespaces = Namespaces {
            pid: true,
            ..pod_namespaces()
        };
        let cgroup = new_cgroup(&place);
        place.monitor_cgroup = Some(cgroup.clone());
        let pod = place.spawn().await.unwrap();
        let init = pod.monitor.welcome().pod_pid.unwrap();
        let made = {
            let config = pod.container("c1", script("exec sleep 1000"));
            pod.monitor.create(&trace(), &config).await.unwrap()
        };
        pod.monitor.start(&trace(), "c1").await.unwrap();
        let mut both = [pod.monitor.pid(), init];
        both.sort_unstable();
        let mut inside = processes(&cgroup);
        inside.sort_unstable();
        assert_eq!(inside, both);
        pod.monitor.kill_process().unwrap();
        pod.monitor.ended().await;
        assert_eq!(processes(&cgroup), [init]);
        let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap();
        assert_eq!(name, "pod-init\n");
        // Who lives on could be adopted.
        assert!(runs(init) && runs(made.pid));
        for pid in processes(&cgroup) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        eventually("the init has ended", || (!runs(init)).then_some(())).await;
        eventually("so has the container", || (!runs(made.pid)).then_some(())).await;
        clear_run_directory(&pod.place.config.run_directory).unwrap();
        assert_eq!(count(&pod.place.config.run_directory), 0);
    });
}
