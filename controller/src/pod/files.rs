//! The files that a pod shares with its containers: resolver configuration, name, hosts, and the
//! tmpfs for shared memory.

use std::fs;
use std::io;
use std::path::Path;

use husk_cri_api::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::directories::Directories;
use crate::error::PodError;
use crate::spec;

/// The kernel's own default for /dev/shm in containers, and every peer's.
const SHM_BYTES: u64 = 64 << 20;
const CGROUP_PARENT: &str = "cgroup-parent";

/// Writes the files and mounts the tmpfs.
pub(super) fn make(
    directories: &Directories,
    id: &str,
    config: &v1::PodSandboxConfig,
    hostname: &str,
    host_ipc: bool,
) -> Result<(), PodError> {
    let pod = directories.pod(id);
    let resolver = match &config.dns_config {
        Some(dns) => resolv_conf(dns),
        None => read_or_empty(Path::new("/etc/resolv.conf")),
    };
    let root = spec::mapped_root(config);
    for (name, text) in [
        ("resolv.conf", resolver),
        ("hostname", format!("{hostname}\n")),
        ("hosts", read_or_empty(Path::new("/etc/hosts"))),
    ] {
        let path = pod.join(name);
        write(&path, &text)?;
        if let Some((uid, gid)) = root {
            let given = std::os::unix::fs::chown(&path, Some(uid), Some(gid));
            given.map_err(PodError::io("giving to the pod's root", path))?;
        }
    }
    if !host_ipc {
        mount_shm(&directories.shm(id), root)?;
    }
    Ok(())
}

/// Notes the cgroup parents of the pod and of its monitor, a line each, for a controller that finds
/// the pod half-made.
pub(super) fn write_cgroup_parents(
    directories: &Directories,
    id: &str,
    parents: [&str; 2],
) -> Result<(), PodError> {
    write(
        &directories.pod(id).join(CGROUP_PARENT),
        &parents.join("\n"),
    )
}

/// The cgroup parents of a half-made pod, of itself and of its monitor.
pub(super) fn read_cgroup_parents(directories: &Directories, id: &str) -> Option<[String; 2]> {
    let text = fs::read_to_string(directories.pod(id).join(CGROUP_PARENT)).ok()?;
    let (pod, monitor) = text.split_once('\n')?;
    Some([pod, monitor].map(str::to_owned))
}

fn write(path: &Path, text: &str) -> Result<(), PodError> {
    fs::write(path, text).map_err(PodError::io("writing", path))
}

/// A host without the file is a host with nothing to say there.
fn read_or_empty(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// resolv.conf(5) from the kubelet's wishes.
fn resolv_conf(dns: &v1::DnsConfig) -> String {
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str("nameserver ");
        text.push_str(server);
        text.push('\n');
    }
    for (word, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() {
            text.push_str(word);
            text.push(' ');
            text.push_str(&values.join(" "));
            text.push('\n');
        }
    }
    text
}

fn mount_shm(path: &Path, root: Option<(u32, u32)>) -> Result<(), PodError> {
    fs::create_dir_all(path).map_err(PodError::io("making", path))?;
    let (uid, gid) = root.unwrap_or_default();
    let options = format!("mode=1777,size={SHM_BYTES},uid={uid},gid={gid}");
    mount(
        Some("shm"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(options.as_str()),
    )
    .map_err(|errno| PodError::Io {
        operation: "mounting shared memory on",
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Takes the tmpfs and the run directory away, with what is mounted there: namespaces that a dead monitor
/// left pinned, and an OCI runtime's own program, of a call that was killed. What is gone already is
/// fine.
pub(super) fn remove(directories: &Directories, id: &str) -> Result<(), PodError> {
    let pod = directories.pod(id);
    unmount(&directories.shm(id))?;
    for directory in [&pod.join("ns"), &pod] {
        for mounted in fs::read_dir(directory).into_iter().flatten().flatten() {
            unmount(&mounted.path())?;
        }
    }
    match fs::remove_dir_all(&pod) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PodError::Io {
            operation: "removing",
            path: pod,
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Unmounts lazily: a straggling process must not keep a pod from being removed.
fn unmount(path: &Path) -> Result<(), PodError> {
    use nix::errno::Errno;
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(PodError::Io {
            operation: "unmounting",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_configuration() {
        let dns = v1::DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["ns.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "nameserver 10.0.0.10\nnameserver fd00::a\n\
             search ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&v1::DnsConfig::default()), "");
    }
}
