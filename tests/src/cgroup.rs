//! The cgroup hierarchies of this machine, version 1 or 2, seen as plain directories.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{command, output};
use crate::settings;

const MOUNT: &str = "/sys/fs/cgroup";

/// The root of every hierarchy: one on version 2, one a controller on version 1, both on a hybrid host.
pub fn roots() -> Vec<PathBuf> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        return vec![PathBuf::from(MOUNT)];
    }
    let entries = fs::read_dir(MOUNT).into_iter().flatten().flatten();
    let directories = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink());
    directories
        .filter(|path| path.join("cgroup.procs").exists())
        .collect()
}

/// Shell words that hide the version 2 hierarchy of a hybrid host in a mount namespace of one's own; none elsewhere.
///
/// crun 1.8 refuses to run beside that hierarchy, and writes plain files where it was mounted: an empty file system
/// takes them, which goes with the namespace.
pub fn hide_unified() -> &'static str {
    if !is_hybrid() {
        return "";
    }
    "umount /sys/fs/cgroup/unified && mount -t tmpfs -o size=64m,mode=755 husk /sys/fs/cgroup/unified && "
}

/// Whether version 2 is mounted beside version 1, which crun 1.8 refuses.
pub fn is_hybrid() -> bool {
    Path::new(MOUNT).join("unified/cgroup.procs").exists()
}

/// The hierarchy in which a node's processes are found again: `pids` on version 1.
pub fn tracking_root() -> PathBuf {
    let pids = Path::new(MOUNT).join("pids");
    if pids.exists() {
        pids
    } else {
        PathBuf::from(MOUNT)
    }
}

/// `top` and every cgroup below it, parents before children.
pub fn tree(top: &Path) -> Vec<PathBuf> {
    if !top.is_dir() {
        return Vec::new();
    }
    let mut found = vec![top.to_path_buf()];
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(tree(&entry.path()));
    }
    found
}

/// What the cgroup of a container has in the first of these files that has anything: the deepest cgroup whose path
/// carries its id, for crun puts one more into the scope that systemd makes, and the limits and processes are there.
pub fn of_container(id: &str, files: &[&str]) -> Result<String> {
    let cgroups = roots()
        .into_iter()
        .flat_map(|root| tree(&root).into_iter().rev());
    let mut found = cgroups
        .filter(|path| path.to_string_lossy().contains(id))
        .flat_map(|path| files.iter().map(move |file| path.join(file)))
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter(|text| !text.is_empty());
    let text = found.next();
    let text = text.with_context(|| format!("no cgroup of {id} has any of {files:?}"))?;
    Ok(text.trim().to_owned())
}

/// The processes in `top` and below it.
pub fn processes(top: &Path) -> Vec<u32> {
    let lists = tree(top)
        .into_iter()
        .filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
    lists
        .flat_map(|list| {
            list.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether systemd makes the nodes' cgroups: pods' parents are then its slices.
pub fn is_systemd() -> bool {
    match settings::cgroup_driver() {
        Some(driver) => driver == "systemd",
        None => Path::new("/run/systemd/system").is_dir(),
    }
}

/// A name for a cgroup at the top, of words and dashes, as whoever makes the cgroups takes it.
pub fn name(words: &str) -> String {
    if is_systemd() {
        // A dash would put it below another slice.
        format!("{}.slice", words.replace('-', "_"))
    } else {
        words.to_owned()
    }
}

/// A cgroup below `parent`, as a kubelet names the parent of one pod.
pub fn child(parent: &str, name: &str) -> String {
    match parent.strip_suffix(".slice") {
        Some(stem) => format!("{stem}-{}.slice", name.replace('-', "_")),
        None => format!("{parent}/{name}"),
    }
}

/// Makes the cgroup `name` in every hierarchy, or the slice, as a kubelet makes its pods' parents.
pub fn make(name: &str) -> Result<()> {
    if is_systemd() {
        return output(command("systemctl").args(["start", name])).map(|_text| ());
    }
    let mut visible = roots()
        .into_iter()
        .filter(|root| !(is_hybrid() && root.ends_with("unified")));
    Ok(visible.try_for_each(|root| fs::create_dir_all(root.join(name)))?)
}

/// The cgroups called `name` at the top of any hierarchy, with all below them.
pub fn named(name: &str) -> Vec<PathBuf> {
    roots()
        .iter()
        .flat_map(|root| tree(&root.join(name)))
        .collect()
}

/// Removes the emptied cgroups called `name` from every hierarchy; what is still busy stays.
pub fn remove(name: &str) {
    if is_systemd() {
        let _gone = output(command("systemctl").args(["stop", name]));
    }
    for path in named(name).iter().rev() {
        let _busy = fs::remove_dir(path);
    }
}
