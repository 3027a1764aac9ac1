//! Processes as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// One process at the moment of looking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub name: String,
    pub arguments: Vec<String>,
    pub threads: usize,
}

impl Process {
    /// Looks at `pid`; nothing when it is gone or a zombie.
    pub fn find(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        if field("State:")?.starts_with('Z') {
            return None;
        }
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = arguments
            .split(|byte| *byte == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned());
        Some(Self {
            pid,
            parent: field("PPid:")?.parse().ok()?,
            name: field("Name:")?.to_owned(),
            arguments: arguments.filter(|part| !part.is_empty()).collect(),
            threads: field("Threads:")?.parse().ok()?,
        })
    }

    /// The namespace of the given kind (`net`, `mnt`, `pid` …) as the kernel names it.
    pub fn namespace(&self, kind: &str) -> Option<String> {
        Some(
            fs::read_link(format!("/proc/{}/ns/{kind}", self.pid))
                .ok()?
                .to_string_lossy()
                .into_owned(),
        )
    }

    /// What the process holds open, with how many of each; inode numbers are taken off, so that two looks compare.
    pub fn descriptors(&self) -> Result<BTreeMap<String, usize>> {
        let mut kinds = BTreeMap::new();
        let directory = format!("/proc/{}/fd", self.pid);
        for entry in fs::read_dir(&directory)
            .with_context(|| directory.clone())?
            .flatten()
        {
            let target = fs::read_link(entry.path())
                .unwrap_or_else(|_closed| PathBuf::from("closed meanwhile"));
            let target = target.to_string_lossy().into_owned();
            let kind = target
                .split_once(":[")
                .map_or(target.as_str(), |(kind, _inode)| kind);
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(kinds)
    }

    /// Memory that would come back if the process ended: private clean and dirty pages, in KB.
    pub fn private_memory(&self) -> Result<u64> {
        Ok(self.memory("Private_Clean:")? + self.memory("Private_Dirty:")?)
    }

    /// One line of `smaps_rollup`, in KB.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let value = text
            .lines()
            .find_map(|row| row.strip_prefix(line))
            .with_context(|| format!("{line} in {path}"))?;
        value
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .with_context(|| format!("{line} in {path}"))
    }
}

/// Waits until a process is reaped. Its monitor has noted the time of its end before that; a zombie only has ended.
pub async fn wait_for_reaped(pid: u32, limit: Duration) -> Result<()> {
    let place = PathBuf::from(format!("/proc/{pid}"));
    wait_for("a process is reaped", limit, async || {
        (!place.exists()).then_some(())
    })
    .await
}

/// CPU time that a process has used, in milliseconds, threads that ended included; 0 when it is gone.
pub fn cpu(pid: u32) -> f64 {
    let clock = i32::try_from(pid)
        .ok()
        .and_then(|pid| ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok());
    let time = clock.and_then(|clock| clock_gettime(clock).ok());
    time.map_or(0.0, |time| Duration::from(time).as_secs_f64() * 1e3)
}

/// How often the threads of a process were switched to or away, which an idle process is not.
pub fn switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .map(|status| switches_in(&status))
        .sum()
}

fn switches_in(status: &str) -> u64 {
    let lines = status
        .lines()
        .filter_map(|line| line.split_once("_ctxt_switches:"));
    lines
        .filter_map(|(_kind, count)| count.trim().parse::<u64>().ok())
        .sum()
}

/// Every process of the machine, zombies left out.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::find).collect()
}

/// Everything below `pid`, which itself is not in it.
pub fn descendants(pid: u32) -> Vec<Process> {
    let everything = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in everything.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// The tree below `pid` as a person reads it: one line a process, children indented.
pub fn tree(pid: u32) -> String {
    fn lines(everything: &[Process], process: &Process, depth: usize, text: &mut String) {
        let arguments = process.arguments.join(" ");
        text.push_str(&format!(
            "{:indent$}{} {arguments}\n",
            "",
            process.pid,
            indent = depth * 2
        ));
        for child in everything
            .iter()
            .filter(|child| child.parent == process.pid)
        {
            lines(everything, child, depth + 1, text);
        }
    }
    let everything = all();
    let mut text = String::new();
    if let Some(top) = everything.iter().find(|process| process.pid == pid) {
        lines(&everything, top, 0, &mut text);
    }
    text
}

/// The monitor of the pod `id` itself, without the init that it may have forked.
pub fn monitor(id: &str) -> Option<Process> {
    let mut found = monitors(id).into_iter();
    found.find(|process| process.name == "pod-monitor")
}

/// The monitors of the pod `id`; a monitor carries its pod's id as an argument. More than one is for a test to judge.
pub fn monitors(id: &str) -> Vec<Process> {
    let is_monitor = |process: &Process| {
        process
            .arguments
            .first()
            .is_some_and(|name| name.ends_with("pod-monitor"))
            && process
                .arguments
                .iter()
                .skip(1)
                .any(|argument| argument.contains(id))
    };
    all().into_iter().filter(is_monitor).collect()
}

/// Whether the kernel tells how a process ended that somebody else has reaped: Linux 6.15 and newer.
pub fn ends_are_kept() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_finds_itself() {
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.threads >= 1 && own.private_memory().unwrap() > 0);
        assert!(own.descriptors().unwrap().values().sum::<usize>() >= 3);
        assert!(
            descendants(own.parent).contains(&own)
                || descendants(own.parent).iter().any(|p| p.pid == own.pid)
        );
        assert!(tree(own.pid).starts_with(&own.pid.to_string()));
        assert!(cpu(own.pid) > 0.0 && switches(own.pid) > 0);
        assert_eq!((cpu(u32::MAX), switches(u32::MAX)), (0.0, 0));
    }

    #[test]
    fn both_kinds_of_switches_count() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 9);
    }
}
