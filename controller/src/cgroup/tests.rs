use std::collections::BTreeSet;

use super::*;
use crate::store::v1::PodRecord;

pub(super) fn facts(version: CgroupVersion) -> CgroupFacts {
    CgroupFacts {
        version,
        hybrid: false,
        controllers: BTreeSet::new(),
        swap: false,
        hugepage_sizes: BTreeSet::new(),
    }
}

#[test]
fn v1_makes_and_removes_a_directory_in_each_hierarchy() {
    let mount = tempfile::tempdir().unwrap();
    for name in ["memory", "pids", "devices", "not-a-hierarchy"] {
        std::fs::create_dir(mount.path().join(name)).unwrap();
    }
    for name in ["memory", "pids", "devices"] {
        std::fs::write(mount.path().join(name).join("cgroup.procs"), "").unwrap();
    }
    let cgroups = Cgroups::new(
        mount.path(),
        &facts(CgroupVersion::V1),
        Driver::Cgroupfs,
        Monitors::default(),
    )
    .unwrap();
    let parent = cgroups.parent("", "p1");
    assert_eq!(parent, "/husk/p1");
    let monitor = cgroups.monitor(&parent, "p1");
    let procs = cgroups.make(&monitor).unwrap();
    let directory = "husk/p1/pod-monitor-p1/tasks";
    assert_eq!(
        procs,
        ["memory", "pids"].map(|root| mount.path().join(root).join(directory))
    );
    // A container's leftover in a hierarchy that the monitor is not in.
    std::fs::create_dir_all(mount.path().join("devices/husk/p1/c1")).unwrap();
    cgroups.remove(&monitor, &parent).unwrap();
    for root in ["memory", "pids", "devices"] {
        assert!(!mount.path().join(root).join("husk/p1").exists(), "{root}");
    }
    cgroups.remove(&monitor, &parent).unwrap();
}

#[test]
fn a_monitor_is_in_co_mounted_hierarchies_once() {
    let mount = tempfile::tempdir().unwrap();
    for name in ["cpu,cpuacct", "memory", "net_cls,net_prio", "cpuset"] {
        std::fs::create_dir(mount.path().join(name)).unwrap();
        std::fs::write(mount.path().join(name).join("cgroup.procs"), "").unwrap();
    }
    let facts = facts(CgroupVersion::V1);
    let cgroups =
        Cgroups::new(mount.path(), &facts, Driver::Cgroupfs, Monitors::default()).unwrap();
    let monitor = cgroups.monitor("/pod", "p1");
    assert_eq!(
        cgroups.make(&monitor).unwrap(),
        ["cpu,cpuacct", "memory"]
            .map(|root| mount.path().join(root).join("pod/pod-monitor-p1/tasks"))
    );
}

#[test]
fn v2_hands_missing_controllers_down_to_the_monitors_parent() {
    let mount = tempfile::tempdir().unwrap();
    // (cgroup, what it has, what it hands down, and that afterwards)
    let table = [
        ("", "memory pids io", "pids", "+memory"),
        ("kubepods", "cpu io", "", "+cpu"),
        ("kubepods/pod7", "memory", "memory", "memory"),
        ("kubepods/pod7/pod-monitor-p1", "memory", "", ""),
    ];
    for (cgroup, available, enabled, _) in table {
        let directory = mount.path().join(cgroup);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("cgroup.controllers"), available).unwrap();
        std::fs::write(directory.join("cgroup.subtree_control"), enabled).unwrap();
    }
    let monitors = Monitors {
        parent: None,
        memory_limit: 1 << 20,
    };
    let facts = facts(CgroupVersion::V2);
    let cgroups = Cgroups::new(mount.path(), &facts, Driver::Cgroupfs, monitors).unwrap();
    let made = cgroups.make(&cgroups.monitor("/kubepods/pod7", "p1"));
    assert!(made.is_ok(), "a missing memory.max is no failure: {made:?}");
    for (cgroup, _, _, expected) in table {
        let file = mount.path().join(cgroup).join("cgroup.subtree_control");
        assert_eq!(std::fs::read_to_string(file).unwrap(), expected, "{cgroup}");
    }
}

#[test]
fn monitors_can_have_one_parent_for_all() {
    let mount = tempfile::tempdir().unwrap();
    let monitors = Monitors {
        parent: Some("/husk-monitors".into()),
        memory_limit: 0,
    };
    let facts = facts(CgroupVersion::V2);
    let cgroups = Cgroups::new(mount.path(), &facts, Driver::Cgroupfs, monitors).unwrap();
    let parent = cgroups.monitor_parent("/kubepods/pod7");
    let kept = |monitor_parent: &str| PodRecord {
        id: "p1".into(),
        cgroup_parent: "/kubepods/pod7".into(),
        monitor_parent: monitor_parent.into(),
        ..PodRecord::default()
    };
    // A pod that was made under another setting keeps its place.
    for (record, expect) in [
        (kept(&parent), "husk-monitors/pod-monitor-p1"),
        (kept("/before"), "before/pod-monitor-p1"),
        (kept(""), "husk-monitors/pod-monitor-p1"),
    ] {
        let expect = MonitorCgroup::Directory(expect.into());
        assert_eq!(record.monitor_cgroup(&cgroups), expect);
    }
}

#[test]
fn the_kubelets_parent_is_not_ours_to_remove() {
    let mount = tempfile::tempdir().unwrap();
    let cgroups = Cgroups::new(
        mount.path(),
        &facts(CgroupVersion::V2),
        Driver::Cgroupfs,
        Monitors::default(),
    )
    .unwrap();
    let parent = cgroups.parent("/kubepods/pod7", "p1");
    let monitor = cgroups.monitor(&parent, "p1");
    let procs = cgroups.make(&monitor).unwrap();
    assert_eq!(procs.len(), 1);
    cgroups.remove(&monitor, &parent).unwrap();
    assert!(mount.path().join("kubepods/pod7").exists());
    assert_eq!(
        cgroups.container(&parent, "c"),
        CgroupPath::Cgroupfs("/kubepods/pod7/c".into())
    );
}

#[test]
fn what_runs_in_a_scope_may_be_one_cgroup_below() {
    let mount = tempfile::tempdir().unwrap();
    let path = "pods.slice/husk-c1.scope";
    let scope = mount.path().join(path);
    std::fs::create_dir_all(&scope).unwrap();
    std::fs::write(scope.join("cgroup.procs"), "7\n").unwrap();
    let facts = facts(CgroupVersion::V2);
    let of = |driver| Cgroups::new(mount.path(), &facts, driver, Monitors::default()).unwrap();
    let systemd = of(Driver::Systemd(Systemd::default()));
    let inner = || systemd.inner_path("pods.slice", "c1");
    assert_eq!(inner(), Path::new(path));
    // A directory of the container's own making.
    std::fs::create_dir(scope.join("container")).unwrap();
    assert_eq!(inner(), Path::new(path));
    std::fs::write(scope.join("cgroup.procs"), "").unwrap();
    assert_eq!(inner(), Path::new(path).join("container"));
    let cgroupfs = of(Driver::Cgroupfs);
    assert_eq!(cgroupfs.inner_path("/p", "c1"), Path::new("p/c1"));
}
