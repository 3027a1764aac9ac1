//! The kernel's files, both cgroup versions and `/proc`, as values. Pure.
//!
//! Formats: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{cpuacct,memory,blkio-controller}.rst
//! and accounting/psi.rst of the kernel; proc_pid_net(5) and proc_pid_limits(5). A line or field that
//! a newer kernel adds is skipped; one that an older kernel lacks counts as zero.

/// CPU time of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// Nanoseconds.
    pub(super) usage: u64,
    /// Nanoseconds.
    pub(super) user: u64,
    /// Nanoseconds.
    pub(super) system: u64,
}

/// What the CPU quota did to a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Throttling {
    pub(super) periods: u64,
    pub(super) throttled: u64,
    /// Nanoseconds.
    pub(super) time: u64,
}

/// Parts of a cgroup's memory, in bytes, and its page faults; all with the cgroups below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MemoryParts {
    pub(super) cache: u64,
    pub(super) anonymous: u64,
    pub(super) mapped_file: u64,
    pub(super) inactive_file: u64,
    pub(super) active_file: u64,
    /// Zero on version 2, which has a file of its own for it.
    pub(super) swap: u64,
    /// Zero on version 1, which has a file of its own for it.
    pub(super) kernel: u64,
    pub(super) page_faults: u64,
    pub(super) major_page_faults: u64,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Psi {
    /// Nanoseconds since the cgroup exists.
    pub total: u64,
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
}

/// Time lost waiting for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// By at least one task.
    pub some: Psi,
    /// By all tasks at once.
    pub full: Psi,
}

/// What a cgroup did on one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Requests.
    pub writes: u64,
}

/// What went through one network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were thrown away.
    pub dropped: u64,
}

/// A file of one number; `max` and all else that is none is `None`.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// One number a line.
pub(super) fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// `name value` lines.
fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// The value of one name.
pub(super) fn value(text: &str, name: &str) -> Option<u64> {
    keyed(text).find(|(key, _)| *key == name).map(|(_, v)| v)
}

const MICRO: u64 = 1_000;

/// `cpu.stat` of version 2.
pub(super) fn cpu_v2(text: &str) -> Option<(CpuTime, Throttling)> {
    let (mut time, mut throttling, mut found) = (CpuTime::default(), Throttling::default(), false);
    for (name, value) in keyed(text) {
        match name {
            "usage_usec" => {
                time.usage = value.saturating_mul(MICRO);
                found = true;
            }
            "user_usec" => time.user = value.saturating_mul(MICRO),
            "system_usec" => time.system = value.saturating_mul(MICRO),
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled = value,
            "throttled_usec" => throttling.time = value.saturating_mul(MICRO),
            _ => {}
        }
    }
    found.then_some((time, throttling))
}

/// `cpu.stat` of version 1.
pub(super) fn throttling_v1(text: &str) -> Throttling {
    let mut throttling = Throttling::default();
    for (name, value) in keyed(text) {
        match name {
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled = value,
            "throttled_time" => throttling.time = value,
            _ => {}
        }
    }
    throttling
}

/// `memory.stat` of version 1: the sums over the cgroups below are what is wanted.
pub(super) fn memory_v1(text: &str) -> MemoryParts {
    let mut parts = MemoryParts::default();
    for (name, value) in keyed(text) {
        let field = match name {
            "total_cache" => &mut parts.cache,
            "total_rss" => &mut parts.anonymous,
            "total_mapped_file" => &mut parts.mapped_file,
            "total_inactive_file" => &mut parts.inactive_file,
            "total_active_file" => &mut parts.active_file,
            "total_swap" => &mut parts.swap,
            "total_pgfault" => &mut parts.page_faults,
            "total_pgmajfault" => &mut parts.major_page_faults,
            _ => continue,
        };
        *field = value;
    }
    parts
}

/// `memory.stat` of version 2. Kernels before 5.18 have no sum of kernel memory: it is made here.
pub(super) fn memory_v2(text: &str) -> MemoryParts {
    let (mut parts, mut kernel_parts) = (MemoryParts::default(), 0);
    for (name, value) in keyed(text) {
        let field = match name {
            "file" => &mut parts.cache,
            "anon" => &mut parts.anonymous,
            "file_mapped" => &mut parts.mapped_file,
            "inactive_file" => &mut parts.inactive_file,
            "active_file" => &mut parts.active_file,
            "kernel" => &mut parts.kernel,
            "pgfault" => &mut parts.page_faults,
            "pgmajfault" => &mut parts.major_page_faults,
            "kernel_stack" | "pagetables" | "percpu" | "sock" | "slab" => {
                kernel_parts += value;
                continue;
            }
            _ => continue,
        };
        *field = value;
    }
    if parts.kernel == 0 {
        parts.kernel = kernel_parts;
    }
    parts
}

/// A pressure file.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let (mut pressure, mut found) = (Pressure::default(), false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let psi = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            Some(_) | None => continue,
        };
        found = true;
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => psi.avg10 = value.parse().unwrap_or_default(),
                "avg60" => psi.avg60 = value.parse().unwrap_or_default(),
                "avg300" => psi.avg300 = value.parse().unwrap_or_default(),
                "total" => psi.total = number(value).unwrap_or_default().saturating_mul(MICRO),
                _ => {}
            }
        }
    }
    found.then_some(pressure)
}

fn device(name: &str) -> Option<DeviceIo> {
    let (major, minor) = name.split_once(':')?;
    Some(DeviceIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..DeviceIo::default()
    })
}

/// `io.stat` of version 2.
pub(super) fn io_v2(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut io = device(words.next()?)?;
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = number(value).unwrap_or_default();
            match name {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `blkio.throttle.io_service_bytes_recursive` and `…io_serviced_recursive` of version 1.
pub(super) fn io_v1(bytes: &str, requests: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, of_bytes) in [(bytes, true), (requests, false)] {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(operation), Some(value)) =
                (words.next(), words.next(), words.next().and_then(number))
            else {
                continue;
            };
            let Some(new) = device(name) else { continue };
            let same = |io: &DeviceIo| (io.major, io.minor) == (new.major, new.minor);
            let at = devices.iter().position(same).unwrap_or_else(|| {
                devices.push(new);
                devices.len() - 1
            });
            match (operation, of_bytes) {
                ("Read", true) => devices[at].read_bytes = value,
                ("Write", true) => devices[at].written_bytes = value,
                ("Read", false) => devices[at].reads = value,
                ("Write", false) => devices[at].writes = value,
                _ => {}
            }
        }
    }
    devices
}

/// `/proc/net/dev`, without the loopback interface.
pub(super) fn interfaces(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let numbers: Vec<u64> = counters
            .split_ascii_whitespace()
            .filter_map(number)
            .collect();
        let traffic = |first: usize| {
            Some(Traffic {
                bytes: *numbers.get(first)?,
                packets: *numbers.get(first + 1)?,
                errors: *numbers.get(first + 2)?,
                dropped: *numbers.get(first + 3)?,
            })
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: traffic(0)?,
            sent: traffic(8)?,
        })
    };
    let interfaces = text.lines().filter_map(line);
    interfaces
        .filter(|interface| interface.name != "lo")
        .collect()
}

/// The interface of the default route with the lowest metric, of `/proc/net/route` or else of
/// `/proc/net/ipv6_route`.
pub(super) fn default_interface(route: &str, ipv6_route: &str) -> Option<String> {
    let v4 = route.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let zero = |at: usize| words.get(at) == Some(&"00000000");
        let metric: u64 = words.get(6)?.parse().ok()?;
        (zero(1) && zero(7)).then(|| (metric, words[0].to_owned()))
    });
    let v6 = ipv6_route.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let zero = |at: usize| words.get(at).is_some_and(|w| w.bytes().all(|b| b == b'0'));
        let metric = u64::from_str_radix(words.get(5)?, 16).ok()?;
        let name = words.get(9).filter(|name| **name != "lo")?;
        (zero(0) && zero(1)).then(|| (metric, (*name).to_owned()))
    });
    v4.min().or_else(|| v6.min()).map(|(_, name)| name)
}

/// The soft limit of open files in `/proc/<pid>/limits`; `None` for no limit.
pub(super) fn open_files_limit(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next().and_then(number)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
