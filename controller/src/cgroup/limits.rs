//! Limits of a whole pod, written to its cgroup where that is ours.
//!
//! A kubelet names a parent, makes it and limits it by itself; nobody but us does that for a parent
//! of our own. Processor time and memory add up over a pod, so those are what a pod can be limited in.
//!
//! Deliberately absent: limits of containers, which the OCI runtime writes.

use std::io;
use std::path::PathBuf;

use husk_cri_api::v1::LinuxContainerResources;

use super::{Cgroups, relative, write_existing};
use crate::spec::CgroupVersion;

/// The kernel's default period, in microseconds.
const PERIOD: i64 = 100_000;

/// One file of a cgroup and what goes into it.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// What a pod and its overhead need together; a number that one of both leaves open stays open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    shares: Option<i64>,
    /// Quota, and its period.
    quota: Option<(i64, i64)>,
    memory: Option<i64>,
}

impl Cgroups {
    /// Limits a pod's own cgroup to its resources and overhead; says whether it has one.
    ///
    /// # Errors
    /// The first file that the kernel refuses, by name.
    pub fn limit_pod(
        &self,
        parent: &str,
        resources: &LinuxContainerResources,
        overhead: &LinuxContainerResources,
    ) -> Result<bool, (PathBuf, io::Error)> {
        if !Self::is_own(parent) {
            return Ok(false);
        }
        for setting in settings(self.version, sum(resources, overhead)) {
            // A host without the controller cannot limit by it; its containers' specs say so too.
            let Some(root) = self.root(setting.controller) else {
                continue;
            };
            let directory = root.join(relative(parent));
            std::fs::create_dir_all(&directory)
                .and_then(|()| write_existing(&directory, setting.file, &setting.value))
                .map_err(|error| (directory.join(setting.file), error))?;
        }
        Ok(true)
    }
}

fn sum(resources: &LinuxContainerResources, overhead: &LinuxContainerResources) -> Sum {
    // An overhead that says nothing adds nothing; resources that say nothing leave all open.
    let both = |resources: i64, overhead: i64| {
        (resources > 0).then(|| resources.saturating_add(overhead.max(0)))
    };
    let period = |of: &LinuxContainerResources| {
        if of.cpu_period > 0 {
            of.cpu_period
        } else {
            PERIOD
        }
    };
    let scaled = overhead.cpu_quota.max(0).saturating_mul(period(resources)) / period(overhead);
    Sum {
        shares: both(resources.cpu_shares, overhead.cpu_shares),
        quota: both(resources.cpu_quota, scaled).map(|quota| (quota, period(resources))),
        memory: both(
            resources.memory_limit_in_bytes,
            overhead.memory_limit_in_bytes,
        ),
    }
}

fn settings(version: CgroupVersion, sum: Sum) -> Vec<Setting> {
    let setting = |controller, file, value: String| Setting {
        controller,
        file,
        value,
    };
    let mut settings = Vec::new();
    if let Some(shares) = sum.shares {
        settings.push(match version {
            CgroupVersion::V1 => setting("cpu", "cpu.shares", shares.to_string()),
            CgroupVersion::V2 => setting("cpu", "cpu.weight", weight(shares).to_string()),
        });
    }
    let quota = sum.quota.unwrap_or((-1, PERIOD));
    match (version, quota) {
        (CgroupVersion::V1, (quota, period)) => {
            settings.push(setting("cpu", "cpu.cfs_period_us", period.to_string()));
            settings.push(setting("cpu", "cpu.cfs_quota_us", quota.to_string()));
        }
        (CgroupVersion::V2, (-1, period)) => {
            settings.push(setting("cpu", "cpu.max", format!("max {period}")));
        }
        (CgroupVersion::V2, (quota, period)) => {
            settings.push(setting("cpu", "cpu.max", format!("{quota} {period}")));
        }
    }
    let limit = |none: &str| {
        sum.memory
            .map_or_else(|| none.to_owned(), |limit| limit.to_string())
    };
    settings.push(match version {
        CgroupVersion::V1 => setting("memory", "memory.limit_in_bytes", limit("-1")),
        CgroupVersion::V2 => setting("memory", "memory.max", limit("max")),
    });
    settings
}

/// 2 to 262144 shares on the scale of 1 to 10000, as OCI runtimes convert them.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::super::{Driver, Monitors};
    use super::*;

    fn asked(cpu_shares: i64, cpu_quota: i64, memory: i64) -> LinuxContainerResources {
        LinuxContainerResources {
            cpu_shares,
            cpu_quota,
            cpu_period: if cpu_quota == 0 { 0 } else { 50_000 },
            memory_limit_in_bytes: memory,
            ..Default::default()
        }
    }

    fn lines(version: CgroupVersion, sum: Sum) -> Vec<String> {
        let line = |it: Setting| format!("{}={}", it.file, it.value);
        settings(version, sum).into_iter().map(line).collect()
    }

    #[test]
    fn resources_and_overhead_add_up() {
        let overhead = LinuxContainerResources {
            cpu_quota: 10_000,
            cpu_period: 100_000,
            ..asked(102, 0, 1 << 20)
        };
        let all = sum(&asked(512, 25_000, 64 << 20), &overhead);
        assert_eq!(
            lines(CgroupVersion::V1, all),
            [
                "cpu.shares=614",
                "cpu.cfs_period_us=50000",
                "cpu.cfs_quota_us=30000",
                "memory.limit_in_bytes=68157440"
            ]
        );
        assert_eq!(
            lines(CgroupVersion::V2, all),
            [
                "cpu.weight=24",
                "cpu.max=30000 50000",
                "memory.max=68157440"
            ]
        );
        let open = sum(&asked(0, 0, 0), &overhead);
        assert_eq!(
            lines(CgroupVersion::V2, open),
            ["cpu.max=max 100000", "memory.max=max"]
        );
        assert_eq!(
            lines(CgroupVersion::V1, open),
            [
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=-1"
            ]
        );
    }

    #[test]
    fn shares_keep_their_ends_as_weights() {
        for (shares, expect) in [
            (0, 1),
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (1 << 40, 10_000),
        ] {
            assert_eq!(weight(shares), expect, "{shares}");
        }
    }

    #[test]
    fn only_a_cgroup_of_ours_is_written() {
        let mount = tempfile::tempdir().unwrap();
        let pod = mount.path().join("husk/p1");
        std::fs::create_dir_all(&pod).unwrap();
        for file in ["cpu.weight", "cpu.max", "memory.max"] {
            std::fs::write(pod.join(file), "").unwrap();
        }
        let facts = facts(CgroupVersion::V2);
        let cgroups =
            Cgroups::new(mount.path(), &facts, Driver::Cgroupfs, Monitors::default()).unwrap();
        let (resources, none) = (asked(1024, 0, 4096), LinuxContainerResources::default());
        assert!(
            !cgroups
                .limit_pod("/kubepods/p1", &resources, &none)
                .unwrap()
        );
        assert!(!mount.path().join("kubepods").exists());
        assert!(cgroups.limit_pod("/husk/p1", &resources, &none).unwrap());
        assert_eq!(
            std::fs::read_to_string(pod.join("memory.max")).unwrap(),
            "4096"
        );
        std::fs::remove_file(pod.join("memory.max")).unwrap();
        let (path, _) = cgroups
            .limit_pod("/husk/p1", &resources, &none)
            .unwrap_err();
        assert!(path.ends_with("husk/p1/memory.max"));
    }
}
