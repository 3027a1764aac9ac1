//! The Debian packages and the Rust target that tests need.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::shell::{command, output, run, say};

/// What a node needs that runs pods of an image made on the spot.
const NODE_PACKAGES: &[&str] = &[
    "busybox-static",
    "containernetworking-plugins",
    "criu",
    "crun",
    "iproute2",
    "iptables",
    "runc",
    "util-linux",
];

/// What tests need besides.
const TEST_PACKAGES: &[&str] = &[
    "apache2-utils",
    "capnproto",
    "docker-registry",
    "e2fsprogs",
    "openssl",
    "skopeo",
];

/// What makes and runs a virtual machine; `virtiofsd` comes with `qemu-system-common`.
const VM_PACKAGES: &[&str] = &[
    "e2fsprogs",
    "mmdebstrap",
    "qemu-system-common",
    "qemu-system-x86",
];

/// What tests need on this machine, and in a virtual one.
pub(crate) fn for_tests() -> Vec<&'static str> {
    [NODE_PACKAGES, TEST_PACKAGES].concat()
}

/// Installs what tests need and is missing.
pub(crate) fn install() -> Result<()> {
    install_missing(&for_tests())
}

/// Installs what a node needs and is missing.
pub(crate) fn install_for_node() -> Result<()> {
    install_missing(NODE_PACKAGES)
}

/// Installs what a virtual machine needs and is missing.
pub(crate) fn install_for_vm() -> Result<()> {
    install_missing(VM_PACKAGES)
}

/// Installs what fetches and unpacks an archive.
pub(crate) fn install_for_download() -> Result<()> {
    install_missing(&["ca-certificates", "curl", "unzip"])
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
    let _quiet = NoServices::begin()?;
    let mut install = command("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run(install
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(missing))
}

/// While it lives, packages start no services as they are installed: tests start what they need, where it disturbs
/// nobody. See policy-rc.d(8) of Debian's invoke-rc.d.
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn begin() -> Result<Self> {
        let policy = Path::new("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self(None));
        }
        std::fs::write(policy, "#!/bin/sh\nexit 101\n")
            .and_then(|()| std::fs::set_permissions(policy, PermissionsExt::from_mode(0o755)))
            .context("keep packages from starting services")?;
        Ok(Self(Some(policy)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = self.0
            && let Err(error) = std::fs::remove_file(policy)
        {
            say(&format!("remove {}: {error}", policy.display()));
        }
    }
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
