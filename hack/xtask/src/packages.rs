//! The Debian packages and the Rust target that tests need.

use anyhow::{Context as _, Result};

use crate::shell::{command, output, run, say};

/// What tests need on this machine, and in a virtual one.
pub(crate) const PACKAGES: &[&str] = &[
    "apache2-utils",
    "busybox-static",
    "containernetworking-plugins",
    "crun",
    "docker-registry",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "openssl",
    "runc",
    "skopeo",
    "util-linux",
];

/// What makes and runs a virtual machine; `virtiofsd` comes with `qemu-system-common`.
const VM_PACKAGES: &[&str] = &[
    "e2fsprogs",
    "mmdebstrap",
    "qemu-system-common",
    "qemu-system-x86",
];

/// Installs what tests need and is missing.
pub(crate) fn install() -> Result<()> {
    install_missing(PACKAGES)
}

/// Installs what a virtual machine needs and is missing.
pub(crate) fn install_for_vm() -> Result<()> {
    install_missing(VM_PACKAGES)
}

/// Nothing is asked of the network when everything is there.
fn install_missing(packages: &[&str]) -> Result<()> {
    let installed = output(
        command("dpkg-query").args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"]),
    )
    .context("list the installed packages: is this Debian?")?;
    let is_there = |name: &&str| {
        installed
            .lines()
            .any(|line| line == format!("installed {name}"))
    };
    let missing: Vec<_> = packages
        .iter()
        .copied()
        .filter(|name| !is_there(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    run(command("apt-get").args(["update", "--quiet"]))?;
    let mut install = command("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run(install
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(missing))
}

/// Whether the static C library that the monitor prefers can be linked; tries to install it first.
pub(crate) fn has_musl(target: &str) -> bool {
    let installed = || {
        let list = output(command("rustup").args(["target", "list", "--installed"]));
        list.is_ok_and(|list| list.lines().any(|line| line == target))
    };
    if !installed() && run(command("rustup").args(["target", "add", target])).is_err() {
        say("the musl target cannot be installed here: glibc is linked statically instead");
    }
    installed()
}
