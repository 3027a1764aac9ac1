use std::fs;

use super::*;

const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 master:2 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/a,name=systemd
";
const HYBRID: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A tree with the files of a plain host; each entry of `files` replaces or adds one.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
    let directory = tempfile::tempdir().unwrap();
    let plain = [
        (
            "proc/self/status",
            "Name:\tx\nCapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n",
        ),
        ("proc/self/oom_score_adj", "-50\n"),
        ("proc/self/mountinfo", V1),
        ("proc/sys/kernel/osrelease", "6.12.5-amd64\n"),
        ("proc/sys/kernel/hostname", "node-1\n"),
        ("dev/nothing", ""),
    ];
    for (path, content) in plain.iter().chain(files) {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let at = |name: &str| directory.path().join(name);
    let roots = Roots {
        proc: at("proc"),
        sys: at("sys"),
        dev: at("dev"),
    };
    (directory, roots)
}

fn facts_of(files: &[(&str, &str)]) -> HostFacts {
    let (_directory, roots) = host(files);
    read(&roots).unwrap()
}

fn names(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn a_v1_host() {
    let facts = facts_of(&[("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "")]);
    assert_eq!(facts.cgroups.version, CgroupVersion::V1);
    assert!(!facts.cgroups.hybrid);
    assert!(facts.cgroups.swap);
    assert_eq!(
        names(&facts.cgroups.controllers),
        ["cpu", "cpuacct", "memory"]
    );
    assert!(facts.cgroups.hugepage_sizes.is_empty());
    assert_eq!(
        facts.kernel,
        KernelVersion {
            major: 6,
            minor: 12
        }
    );
    assert_eq!(facts.hostname, "node-1");
    assert!(!facts.seccomp && !facts.selinux && facts.apparmor.is_none());
}

#[test]
fn user_namespaces_need_a_kernel_that_maps_every_mount() {
    for (kernel, limit, expect) in [
        ("6.3.0", "96343\n", true),
        ("6.2.16", "96343\n", false),
        ("5.19.1", "96343\n", false),
        ("6.12.5", "0\n", false),
    ] {
        let facts = facts_of(&[
            ("proc/sys/kernel/osrelease", kernel),
            ("proc/sys/user/max_user_namespaces", limit),
        ]);
        assert_eq!(facts.user_namespaces, expect, "{kernel} {limit}");
    }
    assert!(!facts_of(&[]).user_namespaces, "the kernel has none at all");
}

#[test]
fn a_hybrid_host_is_v1_and_counts_as_hybrid_where_v2_has_controllers() {
    let mounts = format!("{V1}{HYBRID}");
    let controllers = "sys/fs/cgroup/unified/cgroup.controllers";
    for (unified, expect) in [("hugetlb\n", true), ("\n", false)] {
        let facts = facts_of(&[("proc/self/mountinfo", &mounts), (controllers, unified)]);
        assert_eq!(facts.cgroups.version, CgroupVersion::V1);
        assert_eq!(facts.cgroups.hybrid, expect, "{unified:?}");
        assert!(!facts.cgroups.swap);
    }
}

#[test]
fn a_v2_host() {
    let facts = facts_of(&[
        ("proc/self/mountinfo", V2),
        (
            "sys/fs/cgroup/cgroup.controllers",
            "cpuset cpu io memory hugetlb pids\n",
        ),
        ("sys/fs/cgroup/system.slice/memory.swap.max", "max\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/x", ""),
        ("sys/kernel/mm/hugepages/hugepages-1048576kB/x", ""),
        ("sys/kernel/mm/hugepages/hugepages-64kB/x", ""),
    ]);
    assert_eq!(facts.cgroups.version, CgroupVersion::V2);
    assert!(facts.cgroups.swap);
    assert!(facts.cgroups.controllers.contains("hugetlb"));
    assert_eq!(names(&facts.cgroups.hugepage_sizes), ["1GB", "2MB", "64KB"]);
}

#[test]
fn a_host_without_cgroups_is_refused() {
    let (_directory, roots) = host(&[("proc/self/mountinfo", "")]);
    assert!(matches!(read(&roots), Err(HostError::NoCgroups)));
}

#[test]
fn the_oom_floor_follows_the_capability() {
    assert_eq!(facts_of(&[]).oom_score_adj_floor, -50);
    let all = "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nSeccomp:\t0\n";
    let facts = facts_of(&[("proc/self/status", all)]);
    assert_eq!(facts.oom_score_adj_floor, -1000);
    assert!(facts.seccomp);
    assert_eq!(facts.bounding.len(), 41);
}

#[test]
fn mandatory_access_control_is_found() {
    let facts = facts_of(&[
        ("sys/module/apparmor/parameters/enabled", "Y\n"),
        ("sys/fs/selinux/enforce", "1"),
    ]);
    assert!(facts.apparmor.is_some() && facts.selinux);
    assert!(
        facts_of(&[("sys/module/apparmor/parameters/enabled", "N\n")])
            .apparmor
            .is_none()
    );
}

#[test]
fn kernel_releases() {
    for (release, expected) in [
        ("6.1.0-18-amd64", Some((6, 1))),
        ("7.0-rc3", Some((7, 0))),
        ("6.18.44-fc-v445\n", Some((6, 18))),
        ("six", None),
        ("", None),
    ] {
        let version = kernel_version(release).map(|version| (version.major, version.minor));
        assert_eq!(version, expected, "{release}");
    }
}

#[test]
fn this_host_has_facts() {
    let facts = facts().unwrap();
    let null = facts
        .devices
        .iter()
        .find(|device| device.container_path == Path::new("/dev/null"));
    assert_eq!(
        null.map(|device| (device.major, device.minor)),
        Some((1, 3))
    );
    assert!(
        facts
            .devices
            .iter()
            .all(|device| device.container_path != Path::new("/dev/ptmx"))
    );
    assert!(!facts.hostname.is_empty());
}

#[test]
fn requested_devices_are_looked_up() {
    let device = |host: &str, permissions: &str| husk_cri_api::v1::Device {
        container_path: "/dev/mine".to_owned(),
        host_path: host.to_owned(),
        permissions: permissions.to_owned(),
    };
    let found = resolve_device(&device("/dev/zero", "r")).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (
            found[0].major,
            found[0].minor,
            found[0].permissions.as_str()
        ),
        (1, 5, "r")
    );
    assert_eq!(found[0].container_path, Path::new("/dev/mine"));
    assert_eq!(
        resolve_device(&device("/dev/zero", "")).unwrap()[0].permissions,
        "rwm"
    );
    assert!(matches!(
        resolve_device(&device("/dev/absent", "")),
        Err(HostError::Read { .. })
    ));
    let plain = tempfile::NamedTempFile::new().unwrap();
    let path = plain.path().to_str().unwrap();
    assert!(matches!(
        resolve_device(&device(path, "")),
        Err(HostError::NotADevice { .. })
    ));
}
