//! Which files of which version say what.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::files::{CgroupFile, CgroupFiles, Desk};
use super::parse::{self, CpuTime, MemoryParts, Throttling};
use super::usage::{Cpu, CpuWindow, Details, HugePages, Memory, Usage};
use crate::cgroup::below;
use crate::spec::CgroupVersion;
use crate::spec::CgroupVersion::{V1, V2};

const fn file(controller: &'static str, name: &'static str) -> CgroupFile {
    CgroupFile { controller, name }
}

const CPU_USAGE_V1: CgroupFile = file("cpuacct", "cpuacct.usage");
const CPU_USER_V1: CgroupFile = file("cpuacct", "cpuacct.usage_user");
const CPU_SYSTEM_V1: CgroupFile = file("cpuacct", "cpuacct.usage_sys");
const CPU_STAT: CgroupFile = file("cpu", "cpu.stat");
const CPU_PRESSURE: CgroupFile = file("cpu", "cpu.pressure");
const MEMORY_STAT: CgroupFile = file("memory", "memory.stat");
const MEMORY_USAGE_V1: CgroupFile = file("memory", "memory.usage_in_bytes");
const MEMORY_USAGE_V2: CgroupFile = file("memory", "memory.current");
const MEMORY_PRESSURE: CgroupFile = file("memory", "memory.pressure");
const MEMORY_PEAK_V1: CgroupFile = file("memory", "memory.max_usage_in_bytes");
const MEMORY_PEAK_V2: CgroupFile = file("memory", "memory.peak");
const MEMORY_HITS_V1: CgroupFile = file("memory", "memory.failcnt");
const MEMORY_EVENTS_V2: CgroupFile = file("memory", "memory.events");
const MEMORY_KERNEL_V1: CgroupFile = file("memory", "memory.kmem.usage_in_bytes");
const MEMORY_SWAP_LIMIT_V1: CgroupFile = file("memory", "memory.memsw.limit_in_bytes");
const OOM_V1: CgroupFile = file("memory", "memory.oom_control");
const SWAP_V2: CgroupFile = file("memory", "memory.swap.current");
const IO_PRESSURE: CgroupFile = file("io", "io.pressure");
const IO_V2: CgroupFile = file("io", "io.stat");
const IO_BYTES_V1: CgroupFile = file("blkio", "blkio.throttle.io_service_bytes_recursive");
const IO_REQUESTS_V1: CgroupFile = file("blkio", "blkio.throttle.io_serviced_recursive");
const TASKS: CgroupFile = file("pids", "pids.current");
const TASKS_LIMIT: CgroupFile = file("pids", "pids.max");
const SCOPES_TASKS_LIMIT: CgroupFile = file("pids", "../pids.max");
const PROCESSES: CgroupFile = file("pids", "cgroup.procs");
/// How many of a container's processes are looked at, and how many cgroups below its own.
const MOST_PROCESSES: usize = 4096;
const MOST_BELOW: usize = 256;

/// One cgroup, and what is remembered of it between two questions.
#[derive(Debug)]
pub(super) struct Meter {
    files: CgroupFiles,
    window: CpuWindow,
    /// What the last [`Meter::usage`] found beyond its answer: details need not read it again.
    parts: MemoryParts,
    /// Whether version 1 accounts for swap.
    swap: Option<bool>,
    huge_pages: Option<Vec<HugePages>>,
}

impl Meter {
    pub(super) fn new(files: CgroupFiles) -> Self {
        Self {
            files,
            window: CpuWindow::default(),
            parts: MemoryParts::default(),
            swap: None,
            huge_pages: None,
        }
    }

    /// What lists tell.
    pub(super) fn usage(&mut self, desk: &mut Desk<'_>, at: i64) -> Usage {
        let version = desk.cgroups.version();
        let cpu = self.cpu(desk, version, at);
        let (memory, swap) = self.memory(desk, version);
        Usage {
            at,
            cpu,
            memory,
            swap,
            io_pressure: self.pressure(desk, version, IO_PRESSURE),
            tasks: None,
        }
    }

    /// The count of processes and threads, which lists tell of pods only.
    pub(super) fn tasks(&mut self, desk: &mut Desk<'_>) -> Option<u64> {
        self.files.read(desk, TASKS).and_then(parse::number)
    }

    fn cpu(&mut self, desk: &mut Desk<'_>, version: CgroupVersion, at: i64) -> Option<Cpu> {
        let total = match version {
            V1 => parse::number(self.files.read(desk, CPU_USAGE_V1)?)?,
            V2 => parse::cpu_v2(self.files.read(desk, CPU_STAT)?)?.0.usage,
        };
        Some(Cpu {
            total,
            nano_cores: self.window.rate(at, total),
            pressure: self.pressure(desk, version, CPU_PRESSURE),
        })
    }

    fn memory(
        &mut self,
        desk: &mut Desk<'_>,
        version: CgroupVersion,
    ) -> (Option<Memory>, Option<u64>) {
        let usage = match version {
            V1 => self.files.read(desk, MEMORY_USAGE_V1),
            V2 => self.files.read(desk, MEMORY_USAGE_V2),
        };
        let Some(usage) = usage.and_then(parse::number) else {
            return (None, None);
        };
        let parts = self.parts(desk, version);
        self.parts = parts;
        let swap = match version {
            V1 => self.swap_v1(desk, parts),
            V2 => self.files.read(desk, SWAP_V2).and_then(parse::number),
        };
        let memory = Memory {
            usage,
            working_set: usage.saturating_sub(parts.inactive_file),
            anonymous: parts.anonymous,
            page_faults: parts.page_faults,
            major_page_faults: parts.major_page_faults,
            pressure: self.pressure(desk, version, MEMORY_PRESSURE),
        };
        (Some(memory), swap)
    }

    fn parts(&mut self, desk: &mut Desk<'_>, version: CgroupVersion) -> MemoryParts {
        let stat = self.files.read(desk, MEMORY_STAT).unwrap_or_default();
        match version {
            V1 => parse::memory_v1(stat),
            V2 => parse::memory_v2(stat),
        }
    }

    /// Version 1 has the line also where swap is not accounted for; the limit's file tells.
    fn swap_v1(&mut self, desk: &Desk<'_>, parts: MemoryParts) -> Option<u64> {
        if parts.swap > 0 {
            return Some(parts.swap);
        }
        if self.swap.is_none() {
            let directory = self.files.directory(desk.cgroups, "memory")?;
            self.swap = Some(directory.join(MEMORY_SWAP_LIMIT_V1.name).exists());
        }
        self.swap.filter(|accounted| *accounted).map(|_| 0)
    }

    fn pressure(
        &mut self,
        desk: &mut Desk<'_>,
        version: CgroupVersion,
        file: CgroupFile,
    ) -> Option<parse::Pressure> {
        match version {
            V1 => None,
            V2 => self.files.read(desk, file).and_then(parse::pressure),
        }
    }

    /// What metrics tell beyond that, of the cgroup alone; asked for right after the usage.
    pub(super) fn details(&mut self, desk: &mut Desk<'_>, pool: &Pool) -> Details {
        let version = desk.cgroups.version();
        let (time, throttling) = self.cpu_details(desk, version);
        let parts = self.parts;
        let mut details = Details {
            cpu_user: time.user,
            cpu_system: time.system,
            periods: throttling.periods,
            throttled_periods: throttling.throttled,
            throttled: throttling.time,
            cache: parts.cache,
            mapped_file: parts.mapped_file,
            active_file: parts.active_file,
            inactive_file: parts.inactive_file,
            kernel: parts.kernel,
            tasks_limit: self.tasks_limit(desk),
            huge_pages: self.huge_pages(desk, version, pool),
            ..Details::default()
        };
        match version {
            V1 => self.details_v1(desk, &mut details),
            V2 => self.details_v2(desk, &mut details),
        }
        details
    }

    /// What systemd limits a scope to holds for the cgroup that crun makes below it, too.
    fn tasks_limit(&mut self, desk: &mut Desk<'_>) -> u64 {
        let own = self.number(desk, TASKS_LIMIT);
        if !self.files.is_below_scope() {
            return own;
        }
        let limits = [own, self.number(desk, SCOPES_TASKS_LIMIT)];
        let limits = limits.into_iter().filter(|limit| *limit > 0);
        limits.min().unwrap_or_default()
    }

    fn cpu_details(
        &mut self,
        desk: &mut Desk<'_>,
        version: CgroupVersion,
    ) -> (CpuTime, Throttling) {
        match version {
            V1 => {
                let time = CpuTime {
                    usage: 0,
                    user: self.number(desk, CPU_USER_V1),
                    system: self.number(desk, CPU_SYSTEM_V1),
                };
                let stat = self.files.read(desk, CPU_STAT).unwrap_or_default();
                (time, parse::throttling_v1(stat))
            }
            V2 => {
                let stat = self.files.read(desk, CPU_STAT);
                stat.and_then(parse::cpu_v2).unwrap_or_default()
            }
        }
    }

    fn details_v1(&mut self, desk: &mut Desk<'_>, details: &mut Details) {
        details.kernel = self.number(desk, MEMORY_KERNEL_V1);
        details.peak = self.number(desk, MEMORY_PEAK_V1);
        details.limit_hits = self.number(desk, MEMORY_HITS_V1);
        let oom = self.files.read(desk, OOM_V1).unwrap_or_default();
        details.oom_kills = parse::value(oom, "oom_kill").unwrap_or_default();
        let bytes = self.files.read(desk, IO_BYTES_V1);
        let bytes = bytes.unwrap_or_default().to_owned();
        let requests = self.files.read(desk, IO_REQUESTS_V1);
        details.devices = named(parse::io_v1(&bytes, requests.unwrap_or_default()));
    }

    fn details_v2(&mut self, desk: &mut Desk<'_>, details: &mut Details) {
        details.peak = self.number(desk, MEMORY_PEAK_V2);
        let events = self.files.read(desk, MEMORY_EVENTS_V2);
        let events = events.unwrap_or_default();
        details.limit_hits = parse::value(events, "max").unwrap_or_default();
        details.oom_kills = parse::value(events, "oom_kill").unwrap_or_default();
        let io = self.files.read(desk, IO_V2).unwrap_or_default();
        details.devices = named(parse::io_v2(io));
    }

    fn number(&mut self, desk: &mut Desk<'_>, file: CgroupFile) -> u64 {
        let text = self.files.read(desk, file);
        text.and_then(parse::number).unwrap_or_default()
    }

    /// What was read once stays true for as long as the host has no huge page to give.
    fn huge_pages(
        &mut self,
        desk: &Desk<'_>,
        version: CgroupVersion,
        pool: &Pool,
    ) -> Vec<HugePages> {
        if let Some(known) = self.huge_pages.as_ref().filter(|_| pool.is_empty) {
            return known.clone();
        }
        let found = self.read_huge_pages(desk, version, &pool.sizes);
        self.huge_pages = Some(found.clone());
        found
    }

    fn read_huge_pages(
        &self,
        desk: &Desk<'_>,
        version: CgroupVersion,
        sizes: &[String],
    ) -> Vec<HugePages> {
        let Some(directory) = self.files.directory(desk.cgroups, "hugetlb") else {
            return Vec::new();
        };
        let read = |name: String| {
            let text = std::fs::read_to_string(directory.join(name)).ok()?;
            parse::number(&text)
        };
        let of_size = |size: &String| {
            let (usage, peak) = match version {
                V1 => (
                    read(format!("hugetlb.{size}.usage_in_bytes")),
                    read(format!("hugetlb.{size}.max_usage_in_bytes")),
                ),
                V2 => (read(format!("hugetlb.{size}.current")), None),
            };
            Some(HugePages {
                size: size.clone(),
                usage: usage?,
                peak,
            })
        };
        sizes.iter().filter_map(of_size).collect()
    }

    /// The processes of the cgroup and of those that the container made below it.
    pub(super) fn processes(&mut self, desk: &mut Desk<'_>) -> Vec<u32> {
        let list = self.files.read(desk, PROCESSES).unwrap_or_default();
        let mut processes = parse::numbers(list);
        if let Some(directory) = self.files.directory(desk.cgroups, PROCESSES.controller) {
            for nested in below(&directory).take(MOST_BELOW) {
                let Ok(file) = File::open(nested.join(PROCESSES.name)) else {
                    continue;
                };
                processes.extend(parse::numbers(desk.text(&file).unwrap_or_default()));
            }
        }
        processes.truncate(MOST_PROCESSES);
        processes
    }
}

/// The huge pages of the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    /// As cgroup files have them.
    sizes: Vec<String>,
    /// Whether there is none, and none is made on demand.
    is_empty: bool,
}

impl Pool {
    /// `directory` is `/sys/kernel/mm/hugepages` (admin-guide/mm/hugetlbpage.rst of the kernel).
    pub(super) fn look(directory: &Path, sizes: Vec<String>) -> Self {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let has_pages = |size: PathBuf| {
            ["nr_hugepages", "nr_overcommit_hugepages"]
                .into_iter()
                .any(|name| {
                    let text = std::fs::read_to_string(size.join(name)).unwrap_or_default();
                    parse::number(&text) != Some(0)
                })
        };
        let is_empty = !entries.map(|entry| entry.path()).any(has_pages);
        Self { sizes, is_empty }
    }
}

/// The devices with their names in `/sys`; one that is gone has its number for a name.
fn named(devices: Vec<parse::DeviceIo>) -> Vec<(String, parse::DeviceIo)> {
    let name = |io: &parse::DeviceIo| {
        let number = format!("{}:{}", io.major, io.minor);
        let link = std::fs::read_link(format!("/sys/dev/block/{number}")).ok();
        let name = link.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        name.unwrap_or(number)
    };
    devices.into_iter().map(|io| (name(&io), io)).collect()
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
