//! Whole cgroups of both versions, as directories of files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::cgroup::{Cgroups, Driver, Monitors};
use crate::spec::CgroupFacts;
use crate::stats::files::Kept;
use crate::stats::parse::Pressure;

const V1_FILES: [(&str, &str); 14] = [
    ("cpuacct/p/c/cpuacct.usage", "5000\n"),
    ("cpuacct/p/c/cpuacct.usage_user", "4000\n"),
    ("cpuacct/p/c/cpuacct.usage_sys", "1000\n"),
    (
        "cpu/p/c/cpu.stat",
        "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n",
    ),
    ("memory/p/c/memory.usage_in_bytes", "10000\n"),
    (
        "memory/p/c/memory.stat",
        "total_rss 11\ntotal_inactive_file 4000\ntotal_pgfault 5\ntotal_pgmajfault 1\n",
    ),
    ("memory/p/c/memory.max_usage_in_bytes", "20000\n"),
    ("memory/p/c/memory.failcnt", "7\n"),
    ("memory/p/c/memory.kmem.usage_in_bytes", "8\n"),
    (
        "memory/p/c/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    ),
    (
        "memory/p/c/memory.memsw.limit_in_bytes",
        "9223372036854771712\n",
    ),
    (
        "blkio/p/c/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    ),
    (
        "blkio/p/c/blkio.throttle.io_serviced_recursive",
        "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
    ),
    ("pids/p/c/pids.current", "6\n"),
];

const V2_FILES: [(&str, &str); 10] = [
    (
        "p/c/cpu.stat",
        "usage_usec 5\nuser_usec 4\nsystem_usec 1\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
    ),
    ("p/c/memory.current", "10000\n"),
    (
        "p/c/memory.stat",
        "anon 11\ninactive_file 4000\nkernel 8\npgfault 5\npgmajfault 1\n",
    ),
    ("p/c/memory.peak", "20000\n"),
    (
        "p/c/memory.events",
        "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\n",
    ),
    ("p/c/memory.swap.current", "0\n"),
    (
        "p/c/io.stat",
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    ),
    ("p/c/pids.current", "6\n"),
    (
        "p/c/memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ),
    ("p/c/pids.max", "max\n"),
];

fn write(mount: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = mount.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn cgroups(mount: &Path, version: CgroupVersion) -> Cgroups {
    if version == V1 {
        for name in ["cpu", "cpuacct", "memory", "blkio", "pids"] {
            write(mount, &[(&format!("{name}/cgroup.procs"), "")]);
        }
    }
    let facts = CgroupFacts {
        version,
        hybrid: false,
        controllers: BTreeSet::new(),
        swap: false,
        hugepage_sizes: BTreeSet::new(),
    };
    Cgroups::new(mount, &facts, Driver::Cgroupfs, Monitors::default()).unwrap()
}

fn pool(is_empty: bool) -> Pool {
    Pool {
        sizes: vec!["2MB".into()],
        is_empty,
    }
}

#[test]
fn both_versions_say_the_same() {
    for (version, files) in [(V1, &V1_FILES[..]), (V2, &V2_FILES[..])] {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), files);
        let cgroups = cgroups(mount.path(), version);
        let mut desk = Desk::new(&cgroups);
        let kept = Arc::new(Kept::new(64));
        let mut meter = Meter::new(CgroupFiles::new("p/c".into(), kept.clone()));
        let usage = meter.usage(&mut desk, 1);
        assert_eq!(usage.cpu.unwrap().total, 5000, "{version:?}");
        let memory = usage.memory.unwrap();
        assert_eq!((memory.usage, memory.working_set), (10000, 6000));
        let counts = (
            memory.anonymous,
            memory.page_faults,
            memory.major_page_faults,
        );
        assert_eq!(counts, (11, 5, 1), "{version:?}");
        assert_eq!(usage.swap, Some(0), "{version:?}");
        assert_eq!(meter.tasks(&mut desk), Some(6), "{version:?}");
        let stalled = memory.pressure.map(|it: Pressure| it.some.total);
        assert_eq!(stalled, (version == V2).then_some(9000));
        assert_eq!((usage.io_pressure, kept.open() > 0), (None, true));

        let details = meter.details(&mut desk, &Pool::default());
        let cpu = (
            details.cpu_user,
            details.cpu_system,
            details.throttled_periods,
        );
        assert_eq!(cpu, (4000, 1000, 3), "{version:?}");
        let memory = (
            details.kernel,
            details.peak,
            details.limit_hits,
            details.oom_kills,
        );
        assert_eq!(memory, (8, 20000, 7, 2), "{version:?}");
        let (_, io) = &details.devices[0];
        let bytes = (io.read_bytes, io.written_bytes, io.reads, io.writes);
        assert_eq!(
            (bytes, details.tasks_limit),
            ((1, 2, 3, 4), 0),
            "{version:?}"
        );
    }
}

#[test]
fn processes_are_counted_in_the_cgroups_below_too() {
    let mount = tempfile::tempdir().unwrap();
    let files = [
        ("pids/p/c/cgroup.procs", "1\n2\n"),
        ("pids/p/c/init.scope/cgroup.procs", "3\n"),
        ("pids/p/c/system.slice/a.service/cgroup.procs", "4\n5\n"),
        ("pids/p/other/cgroup.procs", "6\n"),
    ];
    write(mount.path(), &files);
    let cgroups = cgroups(mount.path(), V1);
    let mut desk = Desk::new(&cgroups);
    let files = CgroupFiles::new("p/c".into(), Arc::new(Kept::new(64)));
    let mut found = Meter::new(files).processes(&mut desk);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3, 4, 5]);
}

#[test]
fn no_more_cgroups_are_looked_into_than_the_bound() {
    let mount = tempfile::tempdir().unwrap();
    let bound = format!("pids/p/c/{}cgroup.procs", "d/".repeat(MOST_BELOW));
    let beyond = format!("pids/p/c/{}cgroup.procs", "d/".repeat(MOST_BELOW + 1));
    write(mount.path(), &[(&bound, "7\n"), (&beyond, "8\n")]);
    let cgroups = cgroups(mount.path(), V1);
    let files = CgroupFiles::new("p/c".into(), Arc::new(Kept::new(64)));
    let found = Meter::new(files).processes(&mut Desk::new(&cgroups));
    assert_eq!(found, [7]);
}

#[test]
fn a_scope_limits_what_is_below_it() {
    let mount = tempfile::tempdir().unwrap();
    write(mount.path(), &[("p/c.scope/pids.max", "99\n")]);
    let cgroups = cgroups(mount.path(), V2);
    let limit = |own: &str| {
        write(mount.path(), &[("p/c.scope/container/pids.max", own)]);
        let path = "p/c.scope/container".into();
        let files = CgroupFiles::new(path, Arc::new(Kept::new(64)));
        Meter::new(files).tasks_limit(&mut Desk::new(&cgroups))
    };
    assert_eq!(
        (limit("max\n"), limit("20\n"), limit("200\n")),
        (99, 20, 99)
    );
}

#[test]
fn a_cgroup_that_is_gone_is_no_error() {
    let mount = tempfile::tempdir().unwrap();
    for version in [V1, V2] {
        let cgroups = cgroups(mount.path(), version);
        let mut desk = Desk::new(&cgroups);
        let kept = Arc::new(Kept::new(64));
        let mut meter = Meter::new(CgroupFiles::new("p/gone".into(), kept.clone()));
        let usage = meter.usage(&mut desk, 1);
        assert_eq!((usage.cpu, usage.memory, usage.swap), (None, None, None));
        assert_eq!(meter.details(&mut desk, &pool(true)), Details::default());
        assert_eq!((meter.processes(&mut desk), kept.open()), (Vec::new(), 0));
    }
}

#[test]
fn huge_pages_are_read_once_while_the_host_has_none() {
    let mount = tempfile::tempdir().unwrap();
    let usage = |bytes: &str| write(mount.path(), &[("p/c/hugetlb.2MB.current", bytes)]);
    let cgroups = cgroups(mount.path(), V2);
    let mut desk = Desk::new(&cgroups);
    let mut meter = Meter::new(CgroupFiles::new("p/c".into(), Arc::new(Kept::new(64))));
    let rows = [
        ("1", true, 1),
        ("2", true, 1),
        ("3", false, 3),
        ("4", true, 3),
    ];
    for (text, is_empty, expected) in rows {
        usage(text);
        let found = meter.details(&mut desk, &pool(is_empty)).huge_pages;
        assert_eq!(found.first().map(|it| it.usage), Some(expected), "{text}");
    }
}

#[test]
fn a_pool_is_empty_without_pages_of_any_size() {
    let pages = tempfile::tempdir().unwrap();
    assert!(Pool::look(&pages.path().join("none"), Vec::new()).is_empty);
    let rows = [("0", "0", true), ("0", "1", false), ("1", "0", false)];
    for (there, more, expected) in rows {
        write(
            pages.path(),
            &[
                ("hugepages-2048kB/nr_hugepages", there),
                ("hugepages-2048kB/nr_overcommit_hugepages", more),
                ("hugepages-1048576kB/nr_hugepages", "0"),
                ("hugepages-1048576kB/nr_overcommit_hugepages", "0"),
            ],
        );
        let found = Pool::look(pages.path(), Vec::new());
        assert_eq!(found.is_empty, expected, "{there} {more}");
    }
}
