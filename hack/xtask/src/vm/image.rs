//! The machine's kernel, first root file system and disk, made once for each recipe and kept below the target directory.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::packages;
use crate::shell::{command, output, run, say};

/// What the machine has beside the packages that tests need everywhere.
const SYSTEM: &[&str] = &[
    "apparmor",
    "ca-certificates",
    "dbus",
    "kmod",
    "linux-image-cloud-amd64",
    "nftables",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// What the kernel needs before it sees its disk, and to see the shares and the port.
const MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_console\nvirtiofs\next4\n";

/// Units that wait for hardware, clocks or terminals which this machine does not have, and Debian's own AppArmor
/// profiles, which take seconds; the kernel's part is there.
const MASKED: &[&str] = &[
    "apparmor.service",
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "dpkg-db-backup.timer",
    "getty@tty1.service",
    "nftables.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udev-trigger.service",
];

/// Files of the machine: where they are in it, and what is in them.
const FILES: &[(&str, &str)] = &[
    (
        "etc/systemd/system/vm-job.service",
        include_str!("guest/vm-job.service"),
    ),
    ("usr/local/sbin/vm-job", include_str!("guest/vm-job")),
    // Else udevd gives each new veth another address while a network plugin still looks at the first.
    (
        "etc/systemd/network/50-veth.link",
        "[Match]\nDriver=veth\n[Link]\nMACAddressPolicy=none\n",
    ),
    ("etc/hostname", "vm\n"),
    ("etc/hosts", "127.0.0.1 localhost vm\n::1 localhost\n"),
    ("etc/fstab", "/dev/vda / ext4 noatime 0 0\n"),
    ("etc/resolv.conf", ""),
];

/// The directory with `kernel`, `initrd` and `disk`.
pub(super) fn ready(place: &Path) -> Result<PathBuf> {
    let mut recipe = DefaultHasher::new();
    (SYSTEM, packages::for_tests(), MODULES, MASKED, FILES).hash(&mut recipe);
    let image = place.join(format!("image-{:016x}", recipe.finish()));
    if image.exists() {
        return Ok(image);
    }
    say("making the virtual machine's image, once: about two minutes");
    let unfinished = place.join(format!("image-unfinished-{}", std::process::id()));
    fs::create_dir_all(&unfinished)?;
    let made = make(&unfinished).and_then(|()| Ok(fs::rename(&unfinished, &image)?));
    if made.is_err() {
        fs::remove_dir_all(&unfinished)?;
    }
    made.context("make the virtual machine's image")
        .map(|()| image)
}

fn make(place: &Path) -> Result<()> {
    let root = place.join("root");
    let modules = place.join("modules");
    fs::write(&modules, MODULES)?;
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("this Debian has no code name")?;
    let mut bootstrap = command("mmdebstrap");
    bootstrap.args(["--quiet", "--mode=root", "--variant=minbase"]);
    bootstrap.arg(format!(
        "--include={}",
        [SYSTEM, &packages::for_tests()].concat().join(",")
    ));
    // A first root file system with these modules alone is a tenth of the usual size, and is read that much sooner.
    let settings = format!(
        "mkdir -p \"$1\"/etc/initramfs-tools/conf.d && cp {} \"$1\"/etc/initramfs-tools/modules \
         && echo MODULES=list > \"$1\"/etc/initramfs-tools/conf.d/vm",
        modules.display()
    );
    bootstrap.arg(format!("--essential-hook={settings}"));
    bootstrap.arg("--dpkgopt=path-exclude=/usr/share/doc/*");
    run(bootstrap.arg(suite).arg(&root).args(sources()))?;
    for (from, to) in [("vmlinuz", "kernel"), ("initrd.img", "initrd")] {
        fs::copy(root.join(from), place.join(to)).with_context(|| format!("copy {from}"))?;
    }
    furnish(&root)?;
    disk(&root, &place.join("disk"))?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// This machine's own package sources, where it has them in one of the usual two files.
fn sources() -> Option<&'static str> {
    let places = [
        "/etc/apt/sources.list.d/debian.sources",
        "/etc/apt/sources.list",
    ];
    places.into_iter().find(|path| Path::new(path).exists())
}

fn furnish(root: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    for (path, text) in FILES {
        let path = root.join(path);
        // What the image was made with may be a link to a file of this machine.
        let _absent = fs::remove_file(&path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    fs::set_permissions(
        root.join("usr/local/sbin/vm-job"),
        fs::Permissions::from_mode(0o755),
    )?;
    for unit in MASKED {
        let path = root.join("etc/systemd/system").join(unit);
        let _absent = fs::remove_file(&path);
        symlink("/dev/null", &path).with_context(|| format!("mask {unit}"))?;
    }
    Ok(())
}

/// An ext4 disk of 8 GiB, most of it a hole, with the contents of `root`.
fn disk(root: &Path, disk: &Path) -> Result<()> {
    fs::File::create(disk)?.set_len(8 << 30)?;
    let mut format = command("mke2fs");
    format.args(["-q", "-F", "-t", "ext4", "-m", "0", "-N", "500000"]);
    format.args([
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-d",
    ]);
    output(format.arg(root).arg(disk)).map(|_text| ())
}
