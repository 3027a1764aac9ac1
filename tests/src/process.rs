//! Processes as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

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
    }
}
