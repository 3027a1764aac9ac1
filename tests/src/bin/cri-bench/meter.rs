//! What processes cost, read from `/proc` and from their CPU clocks.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use anyhow::{Context as _, Result};
use husk_tests::process::{self, Process};
pub(crate) use husk_tests::process::{cpu, switches};
use husk_tests::{cgroup, cri};
use serde::Serialize;

use crate::target::{Target, WORKLOAD};

/// Memory of one process or of several, in KB (proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) private: u64,
    pub(crate) pss: u64,
    pub(crate) rss: u64,
}

impl Memory {
    /// Nothing when the process is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Self::parse(
            &fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?,
        ))
    }

    fn parse(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>))
            else {
                continue;
            };
            match name {
                "Rss:" => memory.rss = value,
                "Pss:" => memory.pss = value,
                "Private_Clean:" | "Private_Dirty:" => memory.private += value,
                _ => {}
            }
        }
        memory
    }

    fn add(&mut self, other: Self) {
        self.private += other.private;
        self.pss += other.pss;
        self.rss += other.rss;
    }
}

/// All runtime processes of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Kind {
    pub(crate) processes: usize,
    pub(crate) threads: usize,
    pub(crate) memory: Memory,
}

/// The processes that the runtime keeps for the pods with these ids, or in them, beside the workload and the daemon.
///
/// They carry an id in their arguments, are in the pods' cgroup, or descend from such a process or from the daemon.
pub(crate) fn runtime_processes(target: &Target, ids: &[String]) -> Vec<Process> {
    let everything = process::all();
    let top = cgroup::tracking_root().join(target.cgroup());
    let mut ours: HashSet<u32> = cgroup::processes(&top).into_iter().collect();
    let named = everything.iter().filter(|it| names_one_of(it, ids));
    ours.extend(named.map(|it| it.pid));
    ours.insert(target.daemon);
    loop {
        let before = ours.len();
        let children = everything.iter().filter(|it| ours.contains(&it.parent));
        ours.extend(children.map(|it| it.pid).collect::<Vec<_>>());
        if ours.len() == before {
            break;
        }
    }
    ours.remove(&target.daemon);
    ours.remove(&std::process::id());
    let is_runtime = |it: &Process| {
        ours.contains(&it.pid) && it.arguments.last().is_none_or(|last| last != WORKLOAD)
    };
    everything.into_iter().filter(is_runtime).collect()
}

fn names_one_of(process: &Process, ids: &[String]) -> bool {
    let mut arguments = process.arguments.iter();
    arguments.any(|argument| ids.iter().any(|id| argument.contains(id.as_str())))
}

/// Adds processes up by name.
pub(crate) fn by_name(processes: &[Process]) -> BTreeMap<String, Kind> {
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for process in processes {
        let Some(memory) = Memory::of(process.pid) else {
            continue;
        };
        let kind = kinds.entry(process.name.clone()).or_default();
        kind.processes += 1;
        kind.threads += process.threads;
        kind.memory.add(memory);
    }
    kinds
}

/// CPU time of several processes, in milliseconds.
pub(crate) fn cpu_of(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// Memory that the kernel thinks a new program could have, in KB.
pub(crate) fn available() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|it| it.strip_prefix("MemAvailable:"));
    let value = line.context("MemAvailable")?.trim().trim_end_matches(" kB");
    Ok(value.parse()?)
}

/// A process of the workload that `marker` is the last argument of.
pub(crate) fn workload(marker: &str) -> Option<Process> {
    let wanted = |it: &Process| {
        it.arguments.last().is_some_and(|last| last == marker)
            && it.arguments.first().is_some_and(|first| first == "sleep")
    };
    process::all().into_iter().find(wanted)
}

/// The words by which a runtime names itself.
pub(crate) fn version(answer: &cri::VersionResponse) -> String {
    format!("{} {}", answer.runtime_name, answer.runtime_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let rollup = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Dirty: 9 kB\n\
                      Shared_Clean: 5 kB\nPrivate_Clean:  20 kB\nPrivate_Dirty: 80 kB\n";
        let expected = Memory {
            private: 100,
            pss: 300,
            rss: 900,
        };
        assert_eq!(Memory::parse(rollup), expected);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(cpu(own) > 0.0 && Memory::of(own).unwrap().rss > 0 && switches(own) > 0);
        assert_eq!((cpu(u32::MAX), Memory::of(u32::MAX)), (0.0, None));
    }
}
