//! The pod's namespaces: made once at the start, pinned in the run directory, unpinned at the end.
//!
//! Deliberately absent: what happens in the network namespace. It is made empty, and whoever
//! drives the monitor configures it through the pin.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use pod_monitor_schema::layout::{self, namespace};
use pod_monitor_schema::{Error, ErrorCode, IdMapping, Namespaces, Resume, StartConfig};

use crate::fault;
use crate::sys::ns::{self, Failure, Holder, Wanted};
use crate::sys::{pidfd, signal};

/// What was made.
#[derive(Debug, Default)]
pub(crate) struct PodNamespaces {
    pins: Vec<PathBuf>,
    init: Option<i32>,
    /// Whether the init is another monitor's child, which may have ended unseen.
    foreign: bool,
}

/// Takes over what another monitor has made, or this one before it became another program.
pub(crate) fn resume(config: &StartConfig, resume: &Resume) -> PodNamespaces {
    let pins = pins(&config.namespaces).map(|path| config.run_directory.join(path));
    PodNamespaces {
        pins: pins.collect(),
        init: resume.pod_pid.and_then(|pid| i32::try_from(pid).ok()),
        foreign: !resume.same_process,
    }
}

/// Makes all that the configuration asks for, or nothing.
///
/// # Errors
/// `InvalidArgument` for what can never work, `Io` for what the kernel refused.
pub(crate) fn set_up(config: &StartConfig) -> Result<PodNamespaces, Error> {
    check(config)?;
    let mut made = PodNamespaces::default();
    match made.fill(config) {
        Ok(()) => Ok(made),
        Err(failure) => {
            let error = Error::io(failure.step, &config.id, &failure.source);
            // What cannot be undone is gone with the run directory's mount at the latest.
            drop(made.tear_down(&config.run_directory));
            Err(error)
        }
    }
}

impl PodNamespaces {
    /// The first process of the shared PID namespace, where there is one.
    pub(crate) fn init(&self) -> Option<i32> {
        self.init
    }

    fn fill(&mut self, config: &StartConfig) -> Result<(), Failure> {
        let wanted = wanted(&config.namespaces);
        if wanted.flags.is_empty() && !wanted.user && !wanted.pid {
            return Ok(());
        }
        fault::io("monitor.namespaces.begin").map_err(|source| Failure {
            step: "pass a fault point",
            source,
        })?;
        let holder = Holder::start(wanted, |pid| map(pid, &config.namespaces))?;
        self.init = holder.init();
        self.pin_all(config, &holder)?;
        drop(holder);
        self.change(config)
    }

    fn pin_all(&mut self, config: &StartConfig, holder: &Holder) -> Result<(), Failure> {
        let directory = config.run_directory.join(layout::NAMESPACE_DIRECTORY);
        match fs::create_dir(&directory) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure {
                    step: "create the directory of namespaces",
                    source,
                });
            }
            _ => {}
        }
        for path in pins(&config.namespaces) {
            let target = config.run_directory.join(path);
            let name = path.rsplit('/').next().unwrap_or(path);
            // Noted before it is made, so that a half-made one is undone.
            self.pins.push(target.clone());
            ns::pin(&holder.path(name), &target)?;
            fault::io("monitor.namespaces.pinned").map_err(|source| Failure {
                step: "pass a fault point",
                source,
            })?;
        }
        Ok(())
    }

    /// Host name and kernel parameters, written from inside with the host's privileges.
    fn change(&self, config: &StartConfig) -> Result<(), Failure> {
        let hostname = (!config.hostname.is_empty() && config.namespaces.uts)
            .then_some(config.hostname.as_str());
        if hostname.is_none() && config.sysctls.is_empty() {
            return Ok(());
        }
        let entered: Vec<PathBuf> = [namespace::NET, namespace::IPC, namespace::UTS]
            .into_iter()
            .map(|path| config.run_directory.join(path))
            .filter(|path| self.pins.contains(path))
            .collect();
        ns::inside(&entered, || {
            if let Some(hostname) = hostname {
                nix::unistd::sethostname(hostname)?;
            }
            for (name, value) in &config.sysctls {
                fs::write(sysctl_path(name), value)?;
            }
            Ok(())
        })
    }

    /// Unpins everything and ends the init. Goes on past errors and gives the first.
    pub(crate) fn tear_down(&mut self, run_directory: &Path) -> io::Result<()> {
        let mut result = Ok(());
        if let Some(init) = self.init.take() {
            result = result.and(if self.foreign {
                end_foreign(init, &run_directory.join(namespace::PID))
            } else {
                signal::kill(init, 9)
            });
        }
        for pin in self.pins.drain(..) {
            result = result.and(ns::unpin(&pin));
        }
        match fs::remove_dir(run_directory.join(layout::NAMESPACE_DIRECTORY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result.and(Err(error)),
            _ => result,
        }
    }
}

/// Ends a process that is not a child, if it is in the namespace that is pinned: its number may be
/// another's by now.
fn end_foreign(pid: i32, pin: &Path) -> io::Result<()> {
    let Ok(process) = pidfd::open(pid) else {
        return Ok(());
    };
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let its = fs::metadata(format!("/proc/{pid}/ns/pid"));
    match (&its, &fs::metadata(pin)) {
        (Ok(its), Ok(ours)) if same(its, ours) => pidfd::signal(&process, 9),
        _ => Ok(()),
    }
}

fn wanted(namespaces: &Namespaces) -> Wanted {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, namespaces.net);
    flags.set(CloneFlags::CLONE_NEWIPC, namespaces.ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, namespaces.uts);
    Wanted {
        flags,
        user: has_user(namespaces),
        pid: namespaces.pid,
    }
}

fn has_user(namespaces: &Namespaces) -> bool {
    !namespaces.uid_mappings.is_empty() || !namespaces.gid_mappings.is_empty()
}

/// The user and group that are root in the pod's user namespace, where it has one.
pub(crate) fn root(namespaces: &Namespaces) -> Option<(u32, u32)> {
    let host = |mappings: &[IdMapping]| {
        let root = mappings
            .iter()
            .find(|m| m.container_id == 0 && m.length > 0);
        root.map(|mapping| mapping.host_id)
    };
    host(&namespaces.uid_mappings).zip(host(&namespaces.gid_mappings))
}

fn pins(namespaces: &Namespaces) -> impl Iterator<Item = &'static str> {
    [
        (has_user(namespaces), namespace::USER),
        (namespaces.net, namespace::NET),
        (namespaces.ipc, namespace::IPC),
        (namespaces.uts, namespace::UTS),
        (namespaces.pid, namespace::PID),
    ]
    .into_iter()
    .filter_map(|(wanted, path)| wanted.then_some(path))
}

fn check(config: &StartConfig) -> Result<(), Error> {
    let invalid = |subject: &str, detail| {
        Err(Error::new(
            ErrorCode::InvalidArgument,
            "set up the pod",
            subject,
            detail,
        ))
    };
    let namespaces = &config.namespaces;
    if has_user(namespaces)
        && (namespaces.uid_mappings.is_empty() || namespaces.gid_mappings.is_empty())
    {
        return invalid(
            &config.id,
            "a user namespace needs both uid and gid mappings",
        );
    }
    if config.hostname.len() > 64 {
        return invalid(&config.hostname, "a host name has at most 64 bytes");
    }
    for (name, _) in &config.sysctls {
        if name.is_empty() || name.starts_with(['.', '/']) || name.contains("..") {
            return invalid(name, "not the name of a kernel parameter");
        }
    }
    Ok(())
}

/// Dots separate the parts, and a slash stands for a dot within a part, as in
/// `net.ipv4.conf.eth0/1.forwarding` (sysctl(8)).
fn sysctl_path(name: &str) -> PathBuf {
    let swapped: String = name
        .chars()
        .map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    Path::new("/proc/sys").join(swapped)
}

fn map(pid: i32, namespaces: &Namespaces) -> Result<(), Failure> {
    let write = |file: &str, mappings: &[IdMapping]| {
        fs::write(format!("/proc/{pid}/{file}"), lines(mappings)).map_err(|source| Failure {
            step: "write the id mappings",
            source,
        })
    };
    write("uid_map", &namespaces.uid_mappings)?;
    write("gid_map", &namespaces.gid_mappings)
}

fn lines(mappings: &[IdMapping]) -> String {
    mappings
        .iter()
        .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.length))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kernel_parameters_become_paths() {
        let rows = [
            ("kernel.shmmax", "/proc/sys/kernel/shmmax"),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
        ];
        for (name, expect) in rows {
            assert_eq!(sysctl_path(name), Path::new(expect));
        }
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_made() {
        let mapping = IdMapping {
            container_id: 0,
            host_id: 100_000,
            length: 65_536,
        };
        let rows = [
            StartConfig {
                hostname: "x".repeat(65),
                ..StartConfig::default()
            },
            StartConfig {
                sysctls: vec![("../../etc/passwd".into(), "x".into())],
                ..StartConfig::default()
            },
            StartConfig {
                sysctls: vec![("net.a//../b".into(), "x".into())],
                ..StartConfig::default()
            },
            StartConfig {
                namespaces: Namespaces {
                    uid_mappings: vec![mapping],
                    ..Namespaces::default()
                },
                ..StartConfig::default()
            },
        ];
        for config in rows {
            let error = set_up(&config).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn root_is_who_id_0_maps_to() {
        let mapping = |container_id, host_id| IdMapping {
            container_id,
            host_id,
            length: 10,
        };
        let namespaces = |uids: &[IdMapping], gids: &[IdMapping]| Namespaces {
            uid_mappings: uids.to_vec(),
            gid_mappings: gids.to_vec(),
            ..Namespaces::default()
        };
        let (nobody, uids, gids) = (mapping(5, 50), mapping(0, 100), mapping(0, 200));
        for (namespaces, expect) in [
            (Namespaces::default(), None),
            (namespaces(&[nobody, uids], &[gids]), Some((100, 200))),
            (namespaces(&[nobody], &[gids]), None),
        ] {
            assert_eq!(root(&namespaces), expect);
        }
    }

    #[test]
    fn mappings_are_lines() {
        let mapping = IdMapping {
            container_id: 0,
            host_id: 100_000,
            length: 65_536,
        };
        assert_eq!(
            lines(&[mapping, mapping]),
            "0 100000 65536\n0 100000 65536\n"
        );
    }
}
