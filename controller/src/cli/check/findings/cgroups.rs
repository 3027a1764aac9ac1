//! Control groups: version, controllers, driver.

use super::{Finding, fail, ok, warn};
use crate::cli::check::facts::{Cgroup, Facts};
use crate::config::CgroupDriver;

/// The way out of cgroup v1.
pub(super) const UNIFY: &str = "boot with systemd.unified_cgroup_hierarchy=1";

pub(super) fn version(facts: &Facts) -> Finding {
    let check = "cgroup.version";
    match &facts.cgroup {
        Cgroup::V2(_) => ok(check, "cgroup v2"),
        Cgroup::V1(_) => warn(
            check,
            "cgroup v1, which the kubelet refuses by default since v1.35",
            UNIFY,
        ),
        Cgroup::Hybrid { unified, .. } if unified.is_empty() => {
            warn(check, "cgroup v1 with an empty tree of v2 beside it", UNIFY)
        }
        Cgroup::Hybrid { unified, .. } => {
            let names: Vec<&str> = unified.iter().map(String::as_str).collect();
            let found = format!(
                "hybrid: cgroup v1, but v2 has the controllers {}",
                names.join(" ")
            );
            warn(check, found, UNIFY)
        }
        Cgroup::Missing => fail(
            check,
            "no cgroup file system at /sys/fs/cgroup",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
}

pub(super) fn controllers(facts: &Facts) -> Finding {
    let check = "cgroup.controllers";
    let (have, wanted, fix) = match &facts.cgroup {
        Cgroup::V2(have) => (
            have,
            ["cpu", "cpuset", "io", "memory", "pids"].as_slice(),
            "echo +cpu +cpuset +io +memory +pids > /sys/fs/cgroup/cgroup.subtree_control",
        ),
        Cgroup::V1(have) | Cgroup::Hybrid { v1: have, .. } => (
            have,
            [
                "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
            ]
            .as_slice(),
            "remove cgroup_disable=… from the kernel's command line and mount the controllers",
        ),
        Cgroup::Missing => return fail(check, "none", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    };
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| !have.contains(*name))
        .collect();
    if missing.is_empty() {
        return ok(check, wanted.join(" "));
    }
    let found = format!("missing: {}", missing.join(" "));
    if missing.contains(&"memory") || missing.contains(&"cpu") || missing.contains(&"pids") {
        fail(check, found, fix)
    } else {
        warn(check, found, fix)
    }
}

pub(super) fn driver(facts: &Facts) -> Finding {
    let check = "cgroup.driver";
    match (facts.driver, facts.privilege.systemd) {
        (CgroupDriver::Systemd, false) => fail(
            check,
            "systemd is configured, but is not the init system",
            "set cgroup.driver to \"cgroupfs\" or \"auto\"",
        ),
        (CgroupDriver::Cgroupfs, true) => warn(
            check,
            "cgroupfs is configured on a host whose cgroups systemd manages: two writers in one tree",
            "set cgroup.driver to \"systemd\" or \"auto\"",
        ),
        (CgroupDriver::Systemd | CgroupDriver::Auto, true) => ok(check, "systemd"),
        (CgroupDriver::Cgroupfs | CgroupDriver::Auto, false) => ok(check, "cgroupfs"),
    }
}
