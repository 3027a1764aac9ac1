//! Reads the facts from this host. Nothing is changed: what is tried is tried on throw-away objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};

use super::facts::{
    self, Facts, Monitor, Network, Privilege, Runtimes, Security, Syscalls, cgroup,
};
use super::findings;
use crate::config::{self, Config};
use crate::host::find_program;

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// The facts, with the configuration to know where to look.
pub(super) async fn facts(config: &Config) -> Facts {
    let unified = |point: &str| read(&Path::new(point).join("cgroup.controllers"));
    Facts {
        kernel: read(Path::new("/proc/sys/kernel/osrelease")),
        privilege: Privilege {
            root: rustix::process::geteuid().is_root(),
            systemd: Path::new("/run/systemd/system").is_dir(),
        },
        cgroup: cgroup(&read(Path::new("/proc/self/mountinfo")), unified),
        driver: config.cgroup.driver,
        filesystems: filesystems(),
        syscalls: syscalls(),
        security: security(),
        runtimes: runtimes(&config.runtime).await,
        network: network(&config.network),
        sysctls: findings::sysctls().filter_map(sysctl).collect(),
        open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        criu: criu().await,
        monitor: monitor(&config.monitor),
    }
}

/// The file systems that the kernel has, or loads by itself at the first mount.
fn filesystems() -> BTreeSet<String> {
    let mut known = facts::filesystems(&read(Path::new("/proc/filesystems")));
    let release = read(Path::new("/proc/sys/kernel/osrelease"));
    let modules = Path::new("/lib/modules").join(release.trim());
    known.extend(facts::filesystem_modules(&read(
        &modules.join("modules.dep"),
    )));
    known
}

/// A small text of the kernel; empty when there is none.
fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim_end().to_owned()
}

fn sysctl(name: &'static str) -> Option<(&'static str, u64)> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    Some((name, facts::number(&read(&path))?))
}

fn syscalls() -> Syscalls {
    let exists = |outcome: Result<_, rustix::io::Errno>| {
        outcome.map_or_else(
            |error| error != rustix::io::Errno::NOSYS,
            |_: rustix::fd::OwnedFd| true,
        )
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Syscalls {
        pidfd_open: exists(pidfd_open(getpid(), PidfdFlags::empty())),
        openat2: exists(rustix::fs::openat2(
            rustix::fs::CWD,
            "/",
            flags,
            Mode::empty(),
            ResolveFlags::empty(),
        )),
        fsopen: exists(fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)),
    }
}

fn security() -> Security {
    let apparmor = read(Path::new("/sys/module/apparmor/parameters/enabled"));
    Security {
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor: apparmor == "Y",
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        user_namespaces: sysctl("user.max_user_namespaces").map_or(0, |(_, count)| count),
    }
}

async fn runtimes(runtime: &config::Runtime) -> Runtimes {
    let mut handlers = BTreeMap::new();
    for (name, handler) in &runtime.handlers.0 {
        handlers.insert(name.clone(), version(&handler.path).await);
    }
    Runtimes {
        default: runtime.default.clone(),
        handlers,
    }
}

async fn criu() -> Option<String> {
    let version = version(Path::new("criu")).await.ok()?;
    Some(version.replace("Version:", "CRIU"))
}

/// The first line that `program --version` writes.
async fn version(program: &Path) -> Result<String, String> {
    let path = find_program(program)
        .ok_or_else(|| format!("there is no program {}", program.display()))?;
    let shown = path.display();
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place in which the preflight starts programs: no input, bounded time, killed when dropped"
    )]
    let mut command = tokio::process::Command::new(&path);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| format!("{shown} --version does not end"))?
        .map_err(|error| format!("{shown} does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown} --version fails with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    Ok(line)
}

fn monitor(monitor: &config::Monitor) -> Monitor {
    let husk = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/husk"));
    let candidates = monitor.candidates(&husk);
    Monitor {
        found: candidates.iter().find(|path| path.is_file()).cloned(),
        candidates,
    }
}

fn network(network: &config::Network) -> Network {
    let conf = first_conf(&network.conf_dir).map(|file| {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string());
        text.and_then(|text| facts::cni_conf(file.clone(), &text))
            .map_err(|why| format!("{}: {why}", file.display()))
    });
    let plugins = match &conf {
        Some(Ok(conf)) => conf.plugins.clone(),
        Some(Err(_)) | None => BTreeSet::new(),
    };
    let absent = |plugin: &String| {
        let mut places = network.bin_dirs.iter().map(|place| place.join(plugin));
        !places.any(|path| path.is_file())
    };
    Network {
        conf_dir: network.conf_dir.clone(),
        bin_dirs: network.bin_dirs.clone(),
        missing: plugins.into_iter().filter(absent).collect(),
        conf,
    }
}

/// The network configuration that comes first in lexical order.
fn first_conf(directory: &Path) -> Option<PathBuf> {
    let is_conf = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let entries = fs::read_dir(directory).ok()?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(is_conf).min()
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_facts_of_this_host_can_be_read() {
        let facts = super::facts(&crate::config::Config::default()).await;
        assert_ne!(facts.kernel_version(), (0, 0), "{}", facts.kernel);
        assert!(facts.filesystems.contains("proc"));
        assert!(facts.syscalls.pidfd_open);
        assert_eq!(facts.runtimes.handlers.len(), 2);
        assert!(facts.sysctls.contains_key("kernel.pid_max"));
    }
}
