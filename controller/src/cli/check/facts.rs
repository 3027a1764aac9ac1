//! What is known of the host, as values, and the reading of kernel texts into them. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::CgroupDriver;

/// All that the checks look at.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The kernel's release, e.g. `6.12.1-amd64`.
    pub(super) kernel: String,
    pub(super) privilege: Privilege,
    pub(super) cgroup: Cgroup,
    /// The driver that the configuration asks for.
    pub(super) driver: CgroupDriver,
    /// File systems that the kernel has now, e.g. `overlay`.
    pub(super) filesystems: BTreeSet<String>,
    pub(super) syscalls: Syscalls,
    pub(super) security: Security,
    pub(super) runtimes: Runtimes,
    pub(super) network: Network,
    /// Sysctls by dotted name; one that is absent does not exist on this host.
    pub(super) sysctls: BTreeMap<&'static str, u64>,
    /// The most files that a process may open, soft limit raised to the hard one.
    pub(super) open_files: u64,
    /// What CRIU says of its version, when it is installed.
    pub(super) criu: Option<String>,
    pub(super) monitor: Monitor,
}

/// Who asks, and who runs the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Privilege {
    /// Whether this is root.
    pub(super) root: bool,
    /// Whether systemd is the init system.
    pub(super) systemd: bool,
}

/// How control groups are mounted at `/sys/fs/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroup {
    /// The one tree of cgroup v2 with these controllers.
    V2(BTreeSet<String>),
    /// A tree for each controller.
    V1(BTreeSet<String>),
    /// Version 1 with a tree of version 2 beside it, which holds the controllers `unified`.
    Hybrid {
        v1: BTreeSet<String>,
        unified: BTreeSet<String>,
    },
    /// Nothing is mounted there.
    Missing,
}

/// System calls that were tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syscalls {
    /// `pidfd_open(2)`, Linux 5.3.
    pub(super) pidfd_open: bool,
    /// `openat2(2)`, Linux 5.6.
    pub(super) openat2: bool,
    /// `fsopen(2)`, the mount API of Linux 5.2.
    pub(super) fsopen: bool,
}

/// What the kernel offers to confine a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Security {
    pub(super) seccomp: bool,
    pub(super) apparmor: bool,
    pub(super) selinux: bool,
    /// How many user namespaces may exist.
    pub(super) user_namespaces: u64,
}

/// The configured OCI runtimes.
#[derive(Clone, Debug)]
pub(super) struct Runtimes {
    /// The handler for pods that name none, or "auto".
    pub(super) default: String,
    /// By handler: the first line of the version, or why there is none.
    pub(super) handlers: BTreeMap<String, Result<String, String>>,
}

/// What CNI is given to work with.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dirs: Vec<PathBuf>,
    /// The first configuration: none, one that cannot be used, or its plugins.
    pub(super) conf: Option<Result<CniConf, String>>,
    /// Plugins of the configuration that are in none of the directories.
    pub(super) missing: BTreeSet<String>,
}

/// A network configuration in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniConf {
    pub(super) file: PathBuf,
    pub(super) name: String,
    /// Types of the plugins and of their address management.
    pub(super) plugins: BTreeSet<String>,
}

/// Where the monitor's program is.
#[derive(Clone, Debug)]
pub(super) struct Monitor {
    pub(super) candidates: Vec<PathBuf>,
    pub(super) found: Option<PathBuf>,
}

impl Facts {
    /// The kernel's major and minor number; zeros when the release does not say.
    pub(super) fn kernel_version(&self) -> (u32, u32) {
        let mut parts = self.kernel.split(|c: char| !c.is_ascii_digit());
        let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        (number(), number())
    }
}

/// The mount at `/sys/fs/cgroup` by the text of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
/// `unified` gives the text of `cgroup.controllers` in a mount of version 2.
pub(super) fn cgroup(mountinfo: &str, unified: impl Fn(&str) -> String) -> Cgroup {
    const KNOWN: [&str; 12] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
    ];
    let mut v1 = BTreeSet::new();
    let mut v2 = None;
    for mount in mountinfo.lines().filter_map(Mount::of) {
        match mount.kind {
            "cgroup2" if mount.point.starts_with("/sys/fs/cgroup") => {
                v2 = Some((
                    mount.point == "/sys/fs/cgroup",
                    words(&unified(mount.point)),
                ));
            }
            "cgroup" => {
                let options = mount.options.split(',').filter(|word| KNOWN.contains(word));
                v1.extend(options.map(str::to_owned));
            }
            _ => {}
        }
    }
    match v2 {
        Some((true, controllers)) => Cgroup::V2(controllers),
        Some((false, unified)) if !v1.is_empty() => Cgroup::Hybrid { v1, unified },
        Some((false, _)) | None if !v1.is_empty() => Cgroup::V1(v1),
        Some((false, _)) | None => Cgroup::Missing,
    }
}

/// One line of mountinfo.
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    /// The super block's options, which name the controllers of a cgroup v1 mount.
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some(Self {
            point: before.split(' ').nth(4)?,
            kind: after.next()?,
            options: after.nth(1)?,
        })
    }
}

/// The value of a sysctl: a number, or how many are in a range of two.
pub(super) fn number(text: &str) -> Option<u64> {
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.ok()?.as_slice() {
        [number] => Some(*number),
        [first, last] => Some((last + 1).saturating_sub(*first)),
        _ => None,
    }
}

/// The words of a text.
pub(super) fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The file systems in the text of `/proc/filesystems`.
pub(super) fn filesystems(text: &str) -> BTreeSet<String> {
    let last = |line: &str| line.split_whitespace().next_back().map(str::to_owned);
    text.lines().filter_map(last).collect()
}

/// The file systems among the modules of a `modules.dep`, which has a path and a colon first.
pub(super) fn filesystem_modules(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (path, _) = line.split_once(':')?;
        let file = path.strip_prefix("kernel/fs/")?.rsplit('/').next()?;
        file.split('.').next().map(str::to_owned)
    };
    text.lines().filter_map(name).collect()
}

/// A network configuration or list of them, as far as the check needs it.
#[derive(Deserialize)]
struct RawConf {
    name: Option<String>,
    #[serde(flatten)]
    plugin: RawPlugin,
    #[serde(default)]
    plugins: Vec<RawPlugin>,
}

#[derive(Deserialize)]
struct RawPlugin {
    #[serde(rename = "type")]
    kind: Option<String>,
    ipam: Option<RawIpam>,
}

#[derive(Deserialize)]
struct RawIpam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The network configuration in `text`, or why it is none.
pub(super) fn cni_conf(file: PathBuf, text: &str) -> Result<CniConf, String> {
    let raw: RawConf = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let kinds = |plugin: &RawPlugin| {
        let ipam = plugin.ipam.as_ref().and_then(|ipam| ipam.kind.clone());
        [plugin.kind.clone(), ipam]
    };
    let all = std::iter::once(&raw.plugin).chain(&raw.plugins);
    let plugins: BTreeSet<String> = all.flat_map(kinds).flatten().collect();
    if plugins.is_empty() {
        return Err("it names no plugin".to_owned());
    }
    Ok(CniConf {
        file,
        name: raw.name.ok_or("it has no name")?,
        plugins,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_tell_the_version_of_control_groups() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let other = "23 1 254:0 / / rw - ext4 /dev/root rw\n50 1 0:9 / /mnt rw - cgroup2 none rw\n";
        let hybrid = format!("{other}{v1}{unified}");
        let cases = [
            (other, Cgroup::Missing),
            (v1, Cgroup::V1(words("cpu cpuacct memory"))),
            (v2, Cgroup::V2(words("at /sys/fs/cgroup"))),
            (
                hybrid.as_str(),
                Cgroup::Hybrid {
                    v1: words("cpu cpuacct memory"),
                    unified: words("at /sys/fs/cgroup/unified"),
                },
            ),
        ];
        for (mountinfo, expected) in cases {
            assert_eq!(
                cgroup(mountinfo, |point| format!("at {point}")),
                expected,
                "{mountinfo}"
            );
        }
    }

    #[test]
    fn network_configurations_are_read_for_their_plugins() {
        let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
        let single = r#"{"name":"one","type":"macvlan","ipam":{}}"#;
        let read = |text: &str| cni_conf(PathBuf::from("f"), text);
        assert_eq!(
            read(list).expect("a list").plugins,
            words("bridge host-local portmap")
        );
        assert_eq!(read(single).expect("one").plugins, words("macvlan"));
        for (text, why) in [
            ("{\"name\":\"x\"}", "no plugin"),
            ("{\"type\":\"x\"}", "no name"),
            ("{", "EOF"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn modules_that_load_by_themselves_count_as_file_systems() {
        let text = "kernel/fs/overlayfs/overlay.ko.xz: kernel/lib/libcrc32c.ko\n\
                    kernel/net/bridge/bridge.ko: kernel/fs/x.ko\n";
        assert_eq!(filesystem_modules(text), words("overlay"));
    }

    #[test]
    fn sysctls_are_numbers_and_ranges() {
        let rows = [
            ("128", Some(128)),
            ("32768\t60999", Some(28_232)),
            ("9 1", Some(0)),
            ("1 2 3", None),
            ("", None),
            ("max", None),
        ];
        for (text, expected) in rows {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }
}
