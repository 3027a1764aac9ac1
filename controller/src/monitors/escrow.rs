//! What a pod is handed over with when its monitor has died, put together from records, from what the
//! daemon holds, and from what the kernel still knows of a container's process.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pod_monitor_client::schema::{
    ContainerConfig, ContainerPhase, ContainerState as Known, Exit, ExitStatus,
};
use pod_monitor_client::{Escrow, HandedOver};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::store::v1::{ContainerRecord, ContainerState};

/// A container as the next monitor gets it.
pub fn handed_over(
    record: &ContainerRecord,
    config: ContainerConfig,
    escrow: Escrow,
) -> HandedOver {
    let state = Known {
        id: record.id.clone(),
        pid: record.pid().unwrap_or_default(),
        created_at: record.created_at,
        phase: phase(&record.state()),
        log_bytes_lost: 0,
        terminal: record.config().tty,
    };
    HandedOver {
        config,
        state,
        escrow,
    }
}

/// In the monitor's words. How a container ended that the records know has ended is in them.
fn phase(state: &ContainerState) -> ContainerPhase {
    match state {
        ContainerState::Created(_) => ContainerPhase::Created,
        ContainerState::Running(running) => ContainerPhase::Running {
            started_at: running.started_at,
        },
        ContainerState::Exited(exited) => ContainerPhase::Exited {
            started_at: (exited.started_at > 0).then_some(exited.started_at),
            exit: Exit {
                status: u8::try_from(exited.code).map_or(ExitStatus::Lost, ExitStatus::Code),
                at: exited.finished_at,
                oom_killed: exited.reason == "OOMKilled",
            },
        },
    }
}

/// The inode numbers of the pipes that are a container's standard input, output and error, to be kept
/// in its record.
pub fn pipes(escrow: &Escrow) -> Vec<u64> {
    let inode = |fd: &Option<OwnedFd>| {
        let stat = fd.as_ref().and_then(|fd| rustix::fs::fstat(fd).ok());
        stat.map_or(0, |stat| stat.st_ino)
    };
    [&escrow.stdin, &escrow.stdout, &escrow.stderr]
        .map(inode)
        .into()
}

/// What can be had of a container that lives and that nobody holds anything of: its process, if its
/// number is still its own, and its pipes, which can be opened anew through its descriptors for as long
/// as it has them (proc_pid_fd(5)). Without them it runs on, and what it writes is lost.
pub fn from_process(record: &ContainerRecord) -> Escrow {
    let none = Escrow::default();
    let Some(pid) = record.pid() else {
        return none;
    };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = raw.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
    else {
        return none;
    };
    let directory = PathBuf::from(format!("/proc/{pid}"));
    // After it was opened: if the number is another's by now, so is the cgroup.
    if !is_in_cgroup_of(&directory, &record.id) {
        return none;
    }
    let pipe = |number: usize, flags| {
        let wanted = record
            .pipes
            .get(number)
            .copied()
            .filter(|inode| *inode > 0)?;
        reopen(
            &directory.join("fd").join(number.to_string()),
            wanted,
            flags,
        )
    };
    Escrow {
        stdin: pipe(0, OFlags::WRONLY),
        stdout: pipe(1, OFlags::RDONLY),
        stderr: pipe(2, OFlags::RDONLY),
        terminal: None,
        process: Some(process),
    }
}

/// Whether the first process of a pod's shared PID namespace lives, where the pod has one: the number
/// is its own if its namespace is the one that is pinned.
pub fn has_init(init: u32, pinned: &Path) -> bool {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = identity(&PathBuf::from(format!("/proc/{init}/ns/pid")));
    init == 0 || (own.is_some() && own == identity(pinned))
}

/// A container's id is in the path of its cgroup, and in no other process's.
fn is_in_cgroup_of(process: &Path, id: &str) -> bool {
    std::fs::read_to_string(process.join("cgroup")).is_ok_and(|groups| groups.contains(id))
}

/// Opens a pipe through one of its ends, if it is the pipe that it should be.
fn reopen(path: &Path, inode: u64, flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    (is_pipe && stat.st_ino == inode).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::v1::{Exited, Running};

    #[test]
    fn a_process_of_another_cgroup_is_not_the_containers() {
        let record = ContainerRecord {
            id: "no such container".into(),
            state: Some(ContainerState::Running(Running {
                pid: std::process::id(),
                started_at: 1,
            })),
            ..ContainerRecord::default()
        };
        assert!(from_process(&record).process.is_none());
    }

    #[test]
    fn an_init_counts_only_where_there_should_be_one() {
        let own = Path::new("/proc/self/ns/pid");
        let process = std::process::id();
        assert!(has_init(process, own));
        assert!(!has_init(process, Path::new("/proc/self/ns/net")));
        assert!(!has_init(u32::MAX, own));
        assert!(has_init(0, Path::new("/none")));
    }

    #[test]
    fn only_the_pipe_that_was_is_opened_anew() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read));
        let inode = rustix::fs::fstat(&read).unwrap().st_ino;
        let path = Path::new(&path);
        assert!(reopen(path, inode, OFlags::RDONLY).is_some());
        assert!(reopen(path, inode + 1, OFlags::RDONLY).is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        let inode = rustix::fs::fstat(file.as_file()).unwrap().st_ino;
        assert!(reopen(file.path(), inode, OFlags::RDONLY).is_none());
    }

    #[test]
    fn phases_are_those_of_the_records() {
        let running = ContainerState::Running(Running {
            pid: 7,
            started_at: 3,
        });
        assert_eq!(phase(&running), ContainerPhase::Running { started_at: 3 });
        let exited = ContainerState::Exited(Exited {
            started_at: 0,
            finished_at: 9,
            code: 3,
            ..Exited::default()
        });
        let ContainerPhase::Exited { started_at, exit } = phase(&exited) else {
            panic!("not exited");
        };
        assert_eq!(
            (started_at, exit.status, exit.at),
            (None, ExitStatus::Code(3), 9)
        );
    }
}
