//! What a runtime has made of the machine, taken before and after, compared as sorted lists of readable lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::cgroup;
use crate::process;

/// Sets of lines by subject: mounts, network namespaces, cgroups, processes, descriptors, files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    subjects: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Snapshot {
    /// The whole machine, as the process `pid` sees its mounts.
    pub fn machine(pid: u32) -> Self {
        let mut snapshot = Self::default();
        let everything = process::all();
        snapshot.put("mounts", mounts(pid));
        let networks = everything
            .iter()
            .filter_map(|process| process.namespace("net"));
        snapshot.put("network namespaces", networks);
        let cgroups = cgroup::roots()
            .into_iter()
            .flat_map(|root| cgroup::tree(&root));
        snapshot.put("cgroups", cgroups.map(|path| path.display().to_string()));
        snapshot
    }

    /// Adds the files below `directory`, one line each, symbolic links not followed.
    #[must_use]
    pub fn with_files(mut self, directory: &Path) -> Self {
        let mut files = Vec::new();
        walk(directory, &mut files);
        self.put("files", files);
        self
    }

    /// Adds the processes `pids`, by what they run.
    #[must_use]
    pub fn with_processes(mut self, pids: &[u32]) -> Self {
        let found = pids.iter().filter_map(|pid| process::Process::find(*pid));
        self.put(
            "processes",
            found.map(|process| format!("{} {}", process.pid, process.arguments.join(" "))),
        );
        self
    }

    /// Adds what `pid` holds open; sockets are left out, because they follow the clients.
    #[must_use]
    pub fn with_descriptors(mut self, pid: u32) -> Self {
        let kinds = process::Process::find(pid)
            .and_then(|process| process.descriptors().ok())
            .unwrap_or_default();
        let stable = kinds
            .into_iter()
            .filter(|(kind, _count)| kind != "socket" && kind != "closed meanwhile");
        self.put(
            "descriptors",
            stable.map(|(kind, count)| format!("{count} × {kind}")),
        );
        self
    }

    /// Keeps only the lines of `subject` that `wanted` takes.
    #[must_use]
    pub fn only(mut self, subject: &'static str, wanted: impl Fn(&str) -> bool) -> Self {
        if let Some(lines) = self.subjects.get_mut(subject) {
            lines.retain(|line| wanted(line));
        }
        self
    }

    /// What is in `after` and was not here (`+`), and the reverse (`-`); empty when both are alike.
    pub fn difference(&self, after: &Self) -> String {
        let none = BTreeSet::new();
        let mut text = String::new();
        let subjects: BTreeSet<_> = self.subjects.keys().chain(after.subjects.keys()).collect();
        for subject in subjects {
            let (old, new) = (
                self.subjects.get(*subject).unwrap_or(&none),
                after.subjects.get(*subject).unwrap_or(&none),
            );
            let lost = old.difference(new).map(|line| format!("  - {line}\n"));
            let made = new.difference(old).map(|line| format!("  + {line}\n"));
            let changes: String = lost.chain(made).collect();
            if !changes.is_empty() {
                text.push_str(&format!("{subject}:\n{changes}"));
            }
        }
        text
    }

    /// Fails with the difference unless `after` is alike.
    pub fn assert_same(&self, after: &Self) -> Result<()> {
        let difference = self.difference(after);
        ensure!(
            difference.is_empty(),
            "something was left behind or is missing:\n{difference}"
        );
        Ok(())
    }

    fn put(&mut self, subject: &'static str, lines: impl IntoIterator<Item = String>) {
        self.subjects.entry(subject).or_default().extend(lines);
    }
}

/// The mount points that `pid` sees, with their file system types.
pub fn mounts(pid: u32) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let lines = table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        Some(format!(
            "{} {}",
            mount.split(' ').nth(4)?,
            filesystem.split(' ').next()?
        ))
    });
    lines.collect()
}

fn walk(directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        files.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_and_a_lost_one_are_named() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("old"), "").unwrap();
        let before = Snapshot::default().with_files(place.path());
        assert!(before.assert_same(&before.clone()).is_ok());
        fs::remove_file(path("old")).unwrap();
        fs::write(path("new"), "").unwrap();
        let after = Snapshot::default().with_files(place.path());
        let difference = before.difference(&after);
        assert!(
            difference.contains(&format!("- {}", path("old").display())),
            "{difference}"
        );
        assert!(
            difference.contains(&format!("+ {}", path("new").display())),
            "{difference}"
        );
    }
}
