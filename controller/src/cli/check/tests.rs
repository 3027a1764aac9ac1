//! Hosts as values, and what is found wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::facts::*;
use super::findings::{Finding, Verdict, all};
use super::table;
use crate::config::CgroupDriver;

fn set(text: &str) -> BTreeSet<String> {
    words(text)
}

/// A host with which nothing is wrong.
fn sound() -> Facts {
    let conf = CniConf {
        file: PathBuf::from("/etc/cni/net.d/10-pods.conflist"),
        name: "pods".to_owned(),
        plugins: set("bridge host-local portmap"),
    };
    Facts {
        kernel: "6.18.4-cloud".to_owned(),
        privilege: Privilege {
            root: true,
            systemd: true,
        },
        cgroup: Cgroup::V2(set("cpu cpuset io memory pids hugetlb")),
        driver: CgroupDriver::Auto,
        filesystems: set("tmpfs overlay"),
        syscalls: Syscalls {
            pidfd_open: true,
            openat2: true,
            fsopen: true,
        },
        security: Security {
            seccomp: true,
            apparmor: true,
            selinux: false,
            user_namespaces: 1000,
        },
        runtimes: Runtimes {
            default: "auto".to_owned(),
            handlers: BTreeMap::from([
                ("crun".to_owned(), Ok("crun version 1.20".to_owned())),
                ("runc".to_owned(), Ok("runc version 1.3.0".to_owned())),
            ]),
        },
        network: Network {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin")],
            conf: Some(Ok(conf)),
            missing: BTreeSet::new(),
        },
        sysctls: BTreeMap::from([
            ("fs.inotify.max_user_instances", 8192),
            ("fs.pipe-user-pages-soft", 0),
            ("kernel.keys.maxkeys", 20_000),
            ("kernel.keys.maxbytes", 2_000_000),
            ("net.ipv6.neigh.default.gc_thresh3", 16_384),
            ("net.ipv4.ip_local_port_range", 45_536),
            ("kernel.threads-max", 4_194_304),
            ("net.ipv4.neigh.default.gc_thresh3", 16_384),
            ("kernel.pid_max", 4_194_304),
            ("net.ipv4.ip_forward", 1),
            ("net.bridge.bridge-nf-call-iptables", 1),
        ]),
        open_files: 1_048_576,
        criu: Some("CRIU 4.1".to_owned()),
        monitor: Monitor {
            candidates: vec![PathBuf::from("/usr/libexec/husk/pod-monitor")],
            found: Some(PathBuf::from("/usr/libexec/husk/pod-monitor")),
        },
    }
}

/// The findings that are not in order, as "verdict check: found | fix".
fn amiss(facts: &Facts) -> Vec<String> {
    let line = |finding: &Finding| {
        let fix = finding.fix.as_deref().unwrap_or("NO FIX");
        format!(
            "{:?} {}: {} | {fix}",
            finding.verdict, finding.check, finding.found
        )
    };
    let findings = all(facts);
    let wrong = findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Ok);
    wrong.map(line).collect()
}

#[test]
fn nothing_is_amiss_with_a_sound_host() {
    assert_eq!(amiss(&sound()), Vec::<String>::new());
}

/// Changes a sound host and expects exactly these lines, each by its beginning and its end.
fn check(name: &str, change: impl FnOnce(&mut Facts), expected: &[(&str, &str)]) {
    let mut facts = sound();
    change(&mut facts);
    let found = amiss(&facts);
    assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
    for (line, (begin, end)) in found.iter().zip(expected) {
        assert!(line.starts_with(begin), "{name}: {line}\n  wanted: {begin}");
        assert!(line.ends_with(end), "{name}: {line}\n  wanted: {end}");
    }
}

const UNIFY: &str = "| boot with systemd.unified_cgroup_hierarchy=1";
const V1: &str = "cpu cpuacct cpuset devices freezer memory pids blkio";

#[test]
fn control_groups() {
    check(
        "no root",
        |f| f.privilege.root = false,
        &[("Fail root:", "root service")],
    );
    check(
        "v1",
        |f| f.cgroup = Cgroup::V1(set(V1)),
        &[("Warn cgroup.version: cgroup v1", UNIFY)],
    );
    check(
        "no memory",
        |f| f.cgroup = Cgroup::V2(set("cpu cpuset io pids")),
        &[(
            "Fail cgroup.controllers: missing: memory",
            "/sys/fs/cgroup/cgroup.subtree_control",
        )],
    );
    check(
        "no io",
        |f| f.cgroup = Cgroup::V2(set("cpu cpuset memory pids")),
        &[(
            "Warn cgroup.controllers: missing: io",
            "cgroup.subtree_control",
        )],
    );
    check(
        "none",
        |f| f.cgroup = Cgroup::Missing,
        &[
            ("Fail cgroup.version", "/sys/fs/cgroup"),
            ("Fail cgroup.controllers", "/sys/fs/cgroup"),
        ],
    );
    check(
        "systemd asked for, not there",
        |f| {
            f.driver = CgroupDriver::Systemd;
            f.privilege.systemd = false;
        },
        &[("Fail cgroup.driver", "\"cgroupfs\" or \"auto\"")],
    );
    check(
        "two writers",
        |f| f.driver = CgroupDriver::Cgroupfs,
        &[("Warn cgroup.driver", "\"auto\"")],
    );
}

#[test]
fn crun_refuses_a_hybrid_host_unless_the_second_tree_is_empty() {
    let hybrid = |unified: &str| Cgroup::Hybrid {
        v1: set(V1),
        unified: set(unified),
    };
    check(
        "hybrid",
        |f| f.cgroup = hybrid("hugetlb"),
        &[
            (
                "Warn cgroup.version: hybrid: cgroup v1, but v2 has the controllers hugetlb",
                UNIFY,
            ),
            (
                "Warn runtime.crun: crun version 1.20: refuses hybrid",
                "without /sys/fs/cgroup/unified",
            ),
        ],
    );
    check(
        "hybrid in name",
        |f| f.cgroup = hybrid(""),
        &[("Warn cgroup.version", UNIFY)],
    );
    check(
        "crun alone",
        |f| {
            f.cgroup = hybrid("hugetlb");
            f.runtimes.handlers.remove("runc");
        },
        &[
            ("Warn cgroup.version", UNIFY),
            ("Warn runtime.crun", "unified"),
            ("Fail runtime.default: neither", "install runc"),
        ],
    );
}

#[test]
fn kernels() {
    let lacks_info = (
        "Warn kernel.pidfd_info: Linux 6.12.1 is older than 6.15",
        "Linux 6.15 or newer",
    );
    check("6.12", |f| f.kernel = "6.12.1".to_owned(), &[lacks_info]);
    check(
        "5.15",
        |f| f.kernel = "5.15.0-generic".to_owned(),
        &[
            ("Warn kernel.overlay_layers", "6.7 or newer"),
            ("Warn kernel.idmapped_mounts", "5.19 or newer"),
            ("Warn kernel.pidfd_info", "6.15 or newer"),
        ],
    );
    check(
        "no pidfd",
        |f| f.syscalls.pidfd_open = false,
        &[("Fail kernel.pidfd", "5.3 or newer")],
    );
    check(
        "no openat2",
        |f| f.syscalls.openat2 = false,
        &[("Fail kernel.openat2", "5.6 or newer")],
    );
    check(
        "no fsopen",
        |f| f.syscalls.fsopen = false,
        &[("Fail kernel.mount_api", "5.2 or newer")],
    );
    check(
        "no overlay",
        |f| f.filesystems = set("tmpfs"),
        &[("Fail overlay", "/etc/modules-load.d/husk.conf")],
    );
    check(
        "no seccomp",
        |f| f.security.seccomp = false,
        &[("Fail security.seccomp", "CONFIG_SECCOMP_FILTER=y")],
    );
    check("no AppArmor is fine", |f| f.security.apparmor = false, &[]);
    check(
        "SELinux",
        |f| f.security.selinux = true,
        &[("Fail security.selinux: enabled", "selinux=0")],
    );
    check(
        "no userns",
        |f| f.security.user_namespaces = 0,
        &[(
            "Warn security.user_namespaces",
            "sysctl -w user.max_user_namespaces=65536",
        )],
    );
}

#[test]
fn runtimes_and_monitor() {
    let gone = || Err("there is no program crun".to_owned());
    check(
        "no crun",
        |f| drop(f.runtimes.handlers.insert("crun".to_owned(), gone())),
        &[(
            "Warn runtime.crun: there is no program crun",
            "set runtime.handlers.crun.path",
        )],
    );
    check(
        "crun asked for",
        |f| {
            f.runtimes.handlers.insert("crun".to_owned(), gone());
            f.runtimes.default = "crun".to_owned();
        },
        &[
            ("Warn runtime.crun", "path"),
            ("Fail runtime.default: crun does not work", "\"auto\""),
        ],
    );
    check(
        "no monitor",
        |f| f.monitor.found = None,
        &[(
            "Fail monitor: no pod-monitor at /usr/libexec",
            "set monitor.path",
        )],
    );
    check(
        "no criu",
        |f| f.criu = None,
        &[("Warn criu", "apt-get install criu")],
    );
}

#[test]
fn networks() {
    check(
        "no conf",
        |f| f.network.conf = None,
        &[(
            "Warn network.cni: no network configuration in /etc/cni/net.d",
            ".conflist file into /etc/cni/net.d",
        )],
    );
    check(
        "bad conf",
        |f| f.network.conf = Some(Err("/etc/cni/net.d/1.conf: it has no name".to_owned())),
        &[(
            "Fail network.cni: /etc/cni/net.d/1.conf: it has no name",
            "mend the file, or take it away",
        )],
    );
    check(
        "no plugin",
        |f| f.network.missing = set("portmap"),
        &[(
            "Fail network.cni: network pods from /etc/cni/net.d/10-pods.conflist: no plugin portmap in /opt/cni/bin",
            "set network.bin_dirs",
        )],
    );
    check(
        "no forwarding",
        |f| f.sysctls.extend([("net.ipv4.ip_forward", 0)]),
        &[("Warn network.ip_forward", "sysctl -w net.ipv4.ip_forward=1")],
    );
    check(
        "no br_netfilter",
        |f| f.sysctls.retain(|name, _| !name.starts_with("net.bridge.")),
        &[(
            "Warn network.br_netfilter: br_netfilter is not loaded",
            "husk.conf",
        )],
    );
}

#[test]
fn every_limit_has_its_sysctl_as_the_fix() {
    let cases = [
        ("fs.inotify.max_user_instances", 128, "8192"),
        ("fs.pipe-user-pages-soft", 16_384, "0"),
        ("kernel.keys.maxkeys", 200, "20000"),
        ("kernel.keys.maxbytes", 20_000, "2000000"),
        ("net.ipv6.neigh.default.gc_thresh3", 1024, "16384"),
        ("net.ipv4.ip_local_port_range", 28_232, "'20000 65535'"),
        ("kernel.threads-max", 32_768, "4194304"),
        ("net.ipv4.neigh.default.gc_thresh3", 1024, "16384"),
        ("kernel.pid_max", 32_768, "4194304"),
    ];
    for (sysctl, value, wanted) in cases {
        let fix = format!("| sysctl -w {sysctl}={wanted}");
        check(
            sysctl,
            |f| f.sysctls.extend([(sysctl, value)]),
            &[("Warn limits.", &fix)],
        );
    }
    check(
        "few files",
        |f| f.open_files = 1024,
        &[("Warn limits.open_files", "before husk")],
    );
}

#[test]
fn the_table_has_the_fix_below_the_finding() {
    let mut facts = sound();
    facts.criu = None;
    let text = table(&all(&facts));
    let lines: Vec<&str> = text.lines().rev().take(2).collect();
    assert!(lines[1].starts_with("warn  criu "), "{text}");
    assert!(
        lines[0]
            .trim_start()
            .starts_with("fix: apt-get install criu"),
        "{text}"
    );
    assert!(text.starts_with("ok    root "), "{text}");
}
