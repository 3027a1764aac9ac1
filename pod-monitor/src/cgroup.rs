//! Where a process's control groups are in the file system (cgroups(7), proc(5)).

use std::path::{Path, PathBuf};

/// The directories of a process's control groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Groups {
    /// The one that counts memory, where there is one.
    pub(crate) memory: Option<Memory>,
    /// One that lists the group's processes.
    pub(crate) any: Option<PathBuf>,
}

/// A directory of the memory controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Memory {
    V1(PathBuf),
    V2(PathBuf),
}

/// Finds the groups of a process that lives.
pub(crate) fn of(pid: i32) -> std::io::Result<Groups> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(find(&groups, &mounts))
}

/// The ids of the processes in a group. Empty where the group is gone.
pub(crate) fn processes(group: &Path) -> Vec<i32> {
    std::fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// `groups` has lines `id:controllers:path`; `mounts` is a mountinfo file.
fn find(groups: &str, mounts: &str) -> Groups {
    let mut memory = None;
    let mut any = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        // The root group holds everything of the host: no container's processes are told by it.
        let directory = directory(mounts, controllers, path).filter(|_| path != "/");
        if controllers.split(',').any(|name| name == "memory") {
            memory = directory.clone().map(Memory::V1).or(memory);
        } else if controllers.is_empty() && memory.is_none() {
            memory = directory.clone().map(Memory::V2);
        }
        any = any.or(directory);
    }
    Groups { memory, any }
}

/// The place of a group under the mount of its hierarchy.
fn directory(mounts: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup"
                && controllers
                    .split(',')
                    .all(|wanted| options.split(',').any(|option| option == wanted))
        };
        let mut left = left.split(' ').skip(3);
        let (root, target) = (left.next()?, left.next()?);
        let inside = Path::new(path).strip_prefix(root).ok()?;
        fits.then(|| Path::new(target).join(inside))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro
26 25 0:23 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
";
    const UNIFIED: &str = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const NESTED: &str = "30 20 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn groups_are_found_on_every_layout() {
        let v1 = |path: &str| Some(Memory::V1(path.into()));
        let v2 = |path: &str| Some(Memory::V2(path.into()));
        let rows = [
            (
                "12:cpu,cpuacct:/p/c\n9:memory:/p/c\n0::/p/c\n",
                HYBRID,
                v1("/sys/fs/cgroup/memory/p/c"),
                Some("/sys/fs/cgroup/cpu,cpuacct/p/c"),
            ),
            (
                "0::/p/c\n",
                UNIFIED,
                v2("/sys/fs/cgroup/p/c"),
                Some("/sys/fs/cgroup/p/c"),
            ),
            (
                "0::/outer/c\n",
                NESTED,
                v2("/sys/fs/cgroup/c"),
                Some("/sys/fs/cgroup/c"),
            ),
            ("0::/elsewhere\n", NESTED, None, None),
            ("9:memory:/\n0::/\n", HYBRID, None, None),
            ("nonsense\n", HYBRID, None, None),
        ];
        for (groups, mounts, memory, any) in rows {
            let expect = Groups {
                memory,
                any: any.map(PathBuf::from),
            };
            assert_eq!(find(groups, mounts), expect, "{groups}");
        }
    }
}
