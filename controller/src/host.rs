//! Reads what this host can do into [`HostFacts`]: the rim around the pure `spec` module.
//!
//! Read once when the daemon starts. What is read are files of /proc, /sys and /dev only; text is
//! taken apart by pure functions. Deliberately absent: any change to the host, and any judgement
//! about what was found (that is the preflight check's).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capability;

use crate::spec::seccomp::Architecture;
use crate::spec::{
    AppArmorFacts, CgroupFacts, CgroupVersion, HostFacts, KernelVersion, bounding_from_mask,
};

mod block_io;
mod devices;
mod programs;

pub use block_io::{BlockIoError, block_io_classes};
pub use devices::{host_devices, resolve_device};
pub use programs::{PROGRAM_DIRECTORIES, find_program};

/// Why a fact about the host could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file that every supported kernel has could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file had something else in it than the kernel writes there.
    #[error("{} has no {what} in it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// No cgroup hierarchy is mounted where every distribution has it.
    #[error("no cgroup hierarchy is mounted under /sys/fs/cgroup")]
    NoCgroups,
    /// A processor family that the seccomp profile does not know.
    #[error("processor family {name:?} is not supported")]
    Architecture {
        /// The family as Rust names it.
        name: &'static str,
    },
    /// A requested device is none.
    #[error("{} is neither a device nor a directory", path.display())]
    NotADevice {
        /// The path on the host.
        path: PathBuf,
    },
}

/// Where the kernel's files are; tests put a made-up tree in its place.
#[derive(Debug, Clone)]
struct Roots {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
}

/// Finds out what this host can do.
///
/// # Errors
/// [`HostError`] where /proc or the cgroup hierarchy is not as expected. A facility that is missing
/// is no error, it is a fact.
pub fn facts() -> Result<HostFacts, HostError> {
    read(&Roots {
        proc: "/proc".into(),
        sys: "/sys".into(),
        dev: "/dev".into(),
    })
}

fn read(roots: &Roots) -> Result<HostFacts, HostError> {
    let status_path = roots.proc.join("self/status");
    let status = text(&status_path)?;
    let mask = |field: &'static str| {
        status_mask(&status, field).ok_or_else(|| HostError::Format {
            path: status_path.clone(),
            what: field,
        })
    };
    let kernel = kernel(roots)?;
    Ok(HostFacts {
        cgroups: cgroups(roots)?,
        user_namespaces: user_namespaces(roots, kernel),
        bounding: bounding_from_mask(mask("CapBnd:")?),
        seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
        selinux: roots.sys.join("fs/selinux/enforce").exists(),
        apparmor: apparmor(roots),
        block_io_classes: BTreeMap::new(),
        rlimits: Vec::new(),
        default_capabilities: crate::spec::DEFAULT_CAPABILITIES.to_vec(),
        pids_limit: 0,
        oom_score_adj_floor: oom_score_adj_floor(roots, mask("CapEff:")?)?,
        devices: host_devices(&roots.dev)?,
        architecture: architecture(std::env::consts::ARCH)?,
        kernel,
        hostname: text(&roots.proc.join("sys/kernel/hostname"))?
            .trim()
            .to_owned(),
    })
}

fn text(path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::Read {
        path: path.into(),
        source,
    })
}

/// The masks of proc_pid_status(5) are hexadecimal.
fn status_mask(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn architecture(name: &'static str) -> Result<Architecture, HostError> {
    match name {
        "x86_64" => Ok(Architecture::X86_64),
        "aarch64" => Ok(Architecture::Aarch64),
        name => Err(HostError::Architecture { name }),
    }
}

/// Pods need mapped mounts of tmpfs too, for secrets and the like: the last of the usual file
/// systems to learn it, in Linux 6.3 (mount_setattr(2)).
fn user_namespaces(roots: &Roots, kernel: KernelVersion) -> bool {
    let limit = std::fs::read_to_string(roots.proc.join("sys/user/max_user_namespaces"));
    let some = limit.is_ok_and(|limit| limit.trim() != "0");
    some && (kernel.major, kernel.minor) >= (6, 3)
}

fn apparmor(roots: &Roots) -> Option<AppArmorFacts> {
    let enabled = std::fs::read_to_string(roots.sys.join("module/apparmor/parameters/enabled"));
    enabled
        .is_ok_and(|value| value.trim() == "Y")
        .then_some(AppArmorFacts {
            default_profile: None,
        })
}

/// Without `CAP_SYS_RESOURCE` a process may only raise the value that it inherited
/// (proc_pid_oom_score_adj(5)).
fn oom_score_adj_floor(roots: &Roots, effective: u64) -> Result<i32, HostError> {
    if bounding_from_mask(effective).contains(&Capability::SysResource) {
        return Ok(-1000);
    }
    let path = roots.proc.join("self/oom_score_adj");
    let value = text(&path)?;
    value.trim().parse().map_err(|_| HostError::Format {
        path,
        what: "number",
    })
}

fn kernel(roots: &Roots) -> Result<KernelVersion, HostError> {
    let path = roots.proc.join("sys/kernel/osrelease");
    kernel_version(&text(&path)?).ok_or(HostError::Format {
        path,
        what: "kernel version",
    })
}

/// `6.12.5-amd64` and `6.1-rc1` alike.
fn kernel_version(release: &str) -> Option<KernelVersion> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(KernelVersion { major, minor })
}

/// A mounted cgroup hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    path: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

/// The cgroup lines of proc_pid_mountinfo(5). The optional fields before the dash vary in number.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let path = mount.split(' ').nth(4)?;
            let mut fields = filesystem.split(' ');
            let kind = fields.next()?;
            let options = fields.nth(1).unwrap_or_default();
            let unified = kind == "cgroup2";
            (unified || kind == "cgroup").then(|| Hierarchy {
                path: path.into(),
                unified,
                controllers: if unified {
                    Vec::new()
                } else {
                    v1_controllers(options)
                },
            })
        })
        .collect()
}

/// The super options of a v1 hierarchy are its controllers among a few flags.
fn v1_controllers(options: &str) -> Vec<String> {
    const FLAGS: [&str; 7] = [
        "rw",
        "ro",
        "all",
        "none",
        "noprefix",
        "xattr",
        "clone_children",
    ];
    options
        .split(',')
        .filter(|option| !FLAGS.contains(option) && !option.contains('=') && !option.is_empty())
        .map(str::to_owned)
        .collect()
}

fn cgroups(roots: &Roots) -> Result<CgroupFacts, HostError> {
    let mounted = hierarchies(&text(&roots.proc.join("self/mountinfo"))?);
    let root = Path::new("/sys/fs/cgroup");
    if let Some(v2) = mounted
        .iter()
        .find(|mount| mount.unified && mount.path == root)
    {
        return unified(roots, &v2.path);
    }
    let v1: Vec<_> = mounted.iter().filter(|mount| !mount.unified).collect();
    if v1.is_empty() {
        return Err(HostError::NoCgroups);
    }
    let controllers: BTreeSet<String> = v1
        .iter()
        .flat_map(|mount| mount.controllers.iter().cloned())
        .collect();
    let memory = v1
        .iter()
        .find(|mount| mount.controllers.iter().any(|name| name == "memory"));
    let swap = memory.is_some_and(|mount| {
        beneath(roots, &mount.path)
            .join("memory.memsw.limit_in_bytes")
            .exists()
    });
    Ok(CgroupFacts {
        version: CgroupVersion::V1,
        hybrid: mounted
            .iter()
            .filter(|mount| mount.unified)
            .any(|mount| has_controllers(&beneath(roots, &mount.path))),
        hugepage_sizes: hugepage_sizes(roots, &controllers),
        controllers,
        swap,
    })
}

fn unified(roots: &Roots, path: &Path) -> Result<CgroupFacts, HostError> {
    let root = beneath(roots, path);
    let controllers: BTreeSet<String> = text(&root.join("cgroup.controllers"))?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Ok(CgroupFacts {
        version: CgroupVersion::V2,
        hybrid: false,
        hugepage_sizes: hugepage_sizes(roots, &controllers),
        controllers,
        swap: counts_swap(&root),
    })
}

fn has_controllers(unified: &Path) -> bool {
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers"));
    controllers.is_ok_and(|words| !words.trim().is_empty())
}

/// The root cgroup has no limits, so the file is looked for one level below.
fn counts_swap(root: &Path) -> bool {
    let Ok(children) = std::fs::read_dir(root) else {
        return false;
    };
    children
        .flatten()
        .any(|child| child.path().join("memory.swap.max").exists())
}

/// Mount points are written with /sys in front; the tree of a test is elsewhere.
fn beneath(roots: &Roots, path: &Path) -> PathBuf {
    path.strip_prefix("/sys")
        .map_or_else(|_| path.to_path_buf(), |rest| roots.sys.join(rest))
}

/// The kernel's directory names, such as `hugepages-2048kB`, in the form of limits: `2MB`.
fn hugepage_sizes(roots: &Roots, controllers: &BTreeSet<String>) -> BTreeSet<String> {
    if !controllers.contains("hugetlb") {
        return BTreeSet::new();
    }
    let Ok(entries) = std::fs::read_dir(roots.sys.join("kernel/mm/hugepages")) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            page_size(
                name.strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse()
                    .ok()?,
            )
        })
        .collect()
}

fn page_size(kib: u64) -> Option<String> {
    match kib {
        0 => None,
        kib if kib % (1 << 20) == 0 => Some(format!("{}GB", kib >> 20)),
        kib if kib % (1 << 10) == 0 => Some(format!("{}MB", kib >> 10)),
        kib => Some(format!("{kib}KB")),
    }
}

#[cfg(test)]
mod tests;
