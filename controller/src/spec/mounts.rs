//! The mounts of a container: the standard filesystems, the pod's files, and what the kubelet asks
//! for, parents before children.

use std::path::{Component, Path, PathBuf};

use husk_cri_api::v1::{self, MountPropagation};
use oci_spec::runtime::Mount;

use super::ContainerInput;
use super::error::SpecError;
use super::facts::ImageDefaults;
use super::namespaces::{self, Namespace};

/// All mounts, in the order in which the OCI runtime makes them.
pub(super) fn container(input: &ContainerInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let asked = &input.config.mounts;
    let mut mounts: Vec<Mount> = standard(input)
        .into_iter()
        .chain(pod_files(input))
        .filter(|mount| !is_replaced(mount.destination(), asked))
        .collect();
    let mut requested = asked
        .iter()
        .map(|mount| requested(input, mount))
        .collect::<Result<Vec<_>, _>>()?;
    // A mount below another one must come after it, or it would be hidden.
    requested.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(requested);
    Ok(mounts)
}

/// A standard mount gives way to a requested one at the same place, and those below /dev and /sys
/// also to one that brings the whole tree.
fn is_replaced(destination: &Path, asked: &[v1::Mount]) -> bool {
    asked.iter().any(|mount| {
        let path = clean(&mount.container_path);
        let tree = path == Path::new("/dev") || path == Path::new("/sys");
        path == destination || (tree && destination.starts_with(&path))
    })
}

fn standard(input: &ContainerInput<'_>) -> Vec<Mount> {
    let mut mounts = vec![
        special("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        special(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        devpts(input),
        special(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
    ];
    let access = if input.privileged() { "rw" } else { "ro" };
    mounts.push(sysfs(input, access));
    mounts.push(special(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", access],
    ));
    if input.files.shm.is_none() {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        mounts.push(special("/dev/shm", "tmpfs", "shm", &options));
    }
    mounts
}

/// Group 5 is `tty` everywhere; a user namespace that does not map it refuses the option.
fn devpts(input: &ContainerInput<'_>) -> Mount {
    const TTY_GROUP: u32 = 5;
    let mapped = match namespaces::id_mappings(input.sandbox).1 {
        None => true,
        Some(groups) => groups.iter().any(|mapping| mapping.size() > TTY_GROUP),
    };
    let mut options = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if mapped {
        options.push("gid=5");
    }
    special("/dev/pts", "devpts", "devpts", &options)
}

/// A user namespace may only mount a sysfs of a network namespace that it owns, so with the host's
/// network the host's tree is bound instead.
fn sysfs(input: &ContainerInput<'_>, access: &str) -> Mount {
    let foreign = namespaces::has_user_namespace(input.sandbox)
        && input.namespaces.network == Namespace::Host;
    if foreign {
        return bind(
            "/sys".into(),
            "/sys".into(),
            &["rbind", "rslave", "nosuid", "noexec", "nodev", access],
        );
    }
    special(
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", access],
    )
}

fn pod_files(input: &ContainerInput<'_>) -> Vec<Mount> {
    let files = input.files;
    let access = if input.readonly_rootfs() { "ro" } else { "rw" };
    let etc = ["rbind", "rprivate", access];
    let shm = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"];
    [
        ("/etc/hostname", &files.hostname, &etc[..]),
        ("/etc/hosts", &files.hosts, &etc[..]),
        ("/etc/resolv.conf", &files.resolv_conf, &etc[..]),
        ("/dev/shm", &files.shm, &shm[..]),
    ]
    .into_iter()
    .filter_map(|(to, from, options)| Some(bind(to.into(), from.clone()?, options)))
    .collect()
}

fn requested(input: &ContainerInput<'_>, asked: &v1::Mount) -> Result<Mount, SpecError> {
    let source = source(input, asked)?;
    let mut options = vec!["rbind", propagation(asked)];
    options.push(match (asked.readonly, asked.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    });
    options.extend(asked.mount_options.iter().map(String::as_str));
    let mapped = is_mapped(asked);
    if mapped {
        options.push("idmap");
    }
    let mut mount = bind(clean(&asked.container_path), source, &options);
    if mapped {
        mount.set_uid_mappings(Some(namespaces::mappings(&asked.uid_mappings)));
        mount.set_gid_mappings(Some(namespaces::mappings(&asked.gid_mappings)));
    }
    Ok(mount)
}

/// An image mount's host path is ours to know; any other comes from the kubelet.
fn source(input: &ContainerInput<'_>, asked: &v1::Mount) -> Result<PathBuf, SpecError> {
    if !is_image(asked) {
        return Ok(PathBuf::from(&asked.host_path));
    }
    input
        .image_mounts
        .get(&asked.container_path)
        .cloned()
        .ok_or_else(|| {
            SpecError::invalid(
                "mounts.image",
                &asked.container_path,
                "the image is not mounted",
            )
        })
}

/// Whether a mount shows an image instead of a host path.
pub(super) fn is_image(mount: &v1::Mount) -> bool {
    mount
        .image
        .as_ref()
        .is_some_and(|image| !image.image.is_empty())
}

/// Whether the OCI runtime is to map the mount's users. That of an image is mapped already, as the
/// root file system is.
pub(super) fn is_mapped(mount: &v1::Mount) -> bool {
    !mount.uid_mappings.is_empty() && !is_image(mount)
}

fn propagation(mount: &v1::Mount) -> &'static str {
    match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    }
}

/// Mount events only pass through a root filesystem that takes part in them.
pub(super) fn rootfs_propagation(config: &v1::ContainerConfig) -> Option<String> {
    let any = |wanted| {
        config
            .mounts
            .iter()
            .any(|mount| mount.propagation() == wanted)
    };
    if any(MountPropagation::PropagationBidirectional) {
        return Some("rshared".to_owned());
    }
    any(MountPropagation::PropagationHostToContainer).then(|| "rslave".to_owned())
}

/// The directories that an image's VOLUMEs name, relative to the root filesystem.
///
/// A volume stays in the root filesystem: nothing is mounted for it, so a hostile path has nothing
/// to reach (CVE-2022-23648). `..` stops at the root, as it does for a process.
#[must_use]
pub fn volume_directories(image: &ImageDefaults) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = image
        .volumes
        .iter()
        .filter(|volume| !volume.contains('\0'))
        .map(|volume| clean(volume))
        .filter_map(|path| path.strip_prefix("/").ok().map(Path::to_path_buf))
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    directories.sort();
    directories.dedup();
    directories
}

/// An absolute path without `.`, `..` and doubled slashes, by its letters alone.
pub(super) fn clean(path: &str) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    cleaned
}

fn special(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = bind(destination.into(), source.into(), options);
    mount.set_typ(Some(kind.to_owned()));
    mount
}

fn bind(destination: PathBuf, source: PathBuf, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination);
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(source));
    mount.set_options(Some(
        options.iter().map(|option| (*option).to_owned()).collect(),
    ));
    mount
}
