//! What was measured, in units that both cgroup versions share. Pure.

use super::parse::{DeviceIo, Interface, Pressure};

/// What a cgroup uses, as of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// Absent when the cgroup is gone.
    pub cpu: Option<Cpu>,
    /// Absent when the cgroup is gone.
    pub memory: Option<Memory>,
    /// Bytes in swap; absent where the kernel does not account for it.
    pub swap: Option<u64>,
    /// Pressure on block devices; only version 2 has it.
    pub io_pressure: Option<Pressure>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Nanoseconds over all cores since the cgroup exists.
    pub total: u64,
    /// Billionths of a core, since an earlier question; absent at the first.
    pub nano_cores: Option<u64>,
    /// Only version 2 has it.
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// Usage without the file cache that is easy to reclaim.
    pub working_set: u64,
    /// Anonymous memory.
    pub anonymous: u64,
    /// A count.
    pub page_faults: u64,
    /// A count.
    pub major_page_faults: u64,
    /// Only version 2 has it.
    pub pressure: Option<Pressure>,
}

impl Usage {
    /// The sum of the cgroups of a pod that has no cgroup to itself.
    pub(super) fn sum<'a>(at: i64, parts: impl Iterator<Item = &'a Usage>) -> Self {
        let mut sum = Usage {
            at,
            ..Usage::default()
        };
        for part in parts {
            if let Some(cpu) = part.cpu {
                let total = sum.cpu.get_or_insert_default();
                total.total += cpu.total;
                total.nano_cores = add(total.nano_cores, cpu.nano_cores);
            }
            if let Some(memory) = part.memory {
                let total = sum.memory.get_or_insert_default();
                total.usage += memory.usage;
                total.working_set += memory.working_set;
                total.anonymous += memory.anonymous;
                total.page_faults += memory.page_faults;
                total.major_page_faults += memory.major_page_faults;
            }
            sum.swap = add(sum.swap, part.swap);
            sum.tasks = add(sum.tasks, part.tasks);
        }
        sum
    }
}

fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (some, None) | (None, some) => some,
    }
}

/// Network counters of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkUsage {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// The interface with the default route, by name.
    pub default: Option<String>,
    /// All but the loopback interface.
    pub interfaces: Vec<Interface>,
}

/// What only metrics tell of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Bytes of output that could not be written to the log.
    pub log_lost: u64,
    /// Nanoseconds.
    pub cpu_user: u64,
    /// Nanoseconds.
    pub cpu_system: u64,
    /// Periods of the CPU quota.
    pub periods: u64,
    /// Those in which it was used up.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled: u64,
    /// Bytes.
    pub cache: u64,
    /// Bytes.
    pub mapped_file: u64,
    /// Bytes.
    pub active_file: u64,
    /// Bytes.
    pub inactive_file: u64,
    /// Bytes.
    pub kernel: u64,
    /// The most that was ever used, in bytes.
    pub peak: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// The limit of processes and threads, 0 for none.
    pub tasks_limit: u64,
    /// Processes.
    pub processes: u64,
    /// Open files of all processes.
    pub descriptors: u64,
    /// Those that are sockets.
    pub sockets: u64,
    /// The first process's limit of open files.
    pub descriptors_limit: Option<u64>,
    /// Block devices, by name.
    pub devices: Vec<(String, DeviceIo)>,
    /// Huge pages, by their size as cgroup files have it.
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Such as `2MB`.
    pub size: String,
    /// Bytes.
    pub usage: u64,
    /// Bytes; version 2 does not say.
    pub peak: Option<u64>,
}

/// Turns CPU time into a rate between two questions.
///
/// Several askers take turns, and two of them may come close together: a sample replaces the one
/// before only after [`CpuWindow::SHORTEST`], so that every rate is over at least that time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CpuWindow {
    base: Option<(i64, u64)>,
    latest: Option<(i64, u64)>,
}

impl CpuWindow {
    /// Nanoseconds.
    const SHORTEST: i64 = 1_000_000_000;

    /// The rate in billionths of a core, for a sample at `at`, in nanoseconds.
    pub(super) fn rate(&mut self, at: i64, total: u64) -> Option<u64> {
        let old = |(then, _): (i64, u64)| at - then >= Self::SHORTEST;
        if self.latest.is_none_or(old) {
            self.base = self.latest;
            self.latest = Some((at, total));
        }
        let (then, before) = self.base?;
        let elapsed = u128::try_from(at - then).ok().filter(|it| *it > 0)?;
        let used = u128::from(total.checked_sub(before)?);
        u64::try_from(used * 1_000_000_000 / elapsed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_at_least_a_second() {
        let second = 1_000_000_000;
        let mut window = CpuWindow::default();
        let rows = [
            (10 * second, 100, None),
            // Too close for a rate of its own, and nothing is earlier.
            (10 * second + 5, 105, None),
            (20 * second, 100 + 5_000_000_000, Some(500_000_000)),
            // Too close again: the rate is over the time since the sample before.
            (20 * second + 5, 100 + 5_000_000_005, Some(500_000_000)),
            (22 * second, 100 + 5_000_000_000, Some(0)),
            // A cgroup made anew counts from zero.
            (24 * second, 7, None),
            (26 * second, 7 + 2_000_000_000, Some(1_000_000_000)),
        ];
        for (at, total, expected) in rows {
            assert_eq!(window.rate(at, total), expected, "at {at}");
        }
    }

    #[test]
    fn sums_count_what_is_there() {
        let part = |total: u64, nano_cores, swap| Usage {
            cpu: Some(Cpu {
                total,
                nano_cores,
                pressure: None,
            }),
            memory: Some(Memory {
                usage: total,
                ..Memory::default()
            }),
            swap,
            ..Usage::default()
        };
        let parts = [
            part(1, None, Some(4)),
            part(2, Some(3), None),
            Usage::default(),
        ];
        let sum = Usage::sum(9, parts.iter());
        let cpu = sum.cpu.unwrap();
        assert_eq!((sum.at, cpu.total, cpu.nano_cores), (9, 3, Some(3)));
        assert_eq!((sum.memory.unwrap().usage, sum.swap), (3, Some(4)));
        assert_eq!(sum.tasks, None);
        assert_eq!(Usage::sum(9, [].iter()).cpu, None);
    }
}
