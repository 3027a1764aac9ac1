//! The kernel: file systems, system calls, versions, confinement.

use super::{Finding, fail, ok, warn};
use crate::cli::check::facts::Facts;

pub(super) fn overlay(facts: &Facts) -> Finding {
    if facts.filesystems.contains("overlay") {
        ok("overlay", "overlayfs")
    } else {
        fail(
            "overlay",
            "the kernel has no overlayfs",
            "modprobe overlay; echo overlay > /etc/modules-load.d/husk.conf",
        )
    }
}

/// A feature that comes with a version of Linux.
fn since(facts: &Facts, check: &str, version: (u32, u32), lost: &str) -> Finding {
    let (major, minor) = version;
    if facts.kernel_version() >= version {
        ok(check, format!("Linux {}", facts.kernel))
    } else {
        let found = format!(
            "Linux {} is older than {major}.{minor}: {lost}",
            facts.kernel
        );
        warn(
            check,
            found,
            format!("upgrade to Linux {major}.{minor} or newer"),
        )
    }
}

pub(super) fn features(facts: &Facts) -> Vec<Finding> {
    let tried = |check: &str, works: bool, version: &str| {
        if works {
            ok(check, "works")
        } else {
            fail(
                check,
                "the kernel does not have it",
                format!("upgrade to Linux {version} or newer"),
            )
        }
    };
    vec![
        tried("kernel.pidfd", facts.syscalls.pidfd_open, "5.3"),
        tried("kernel.openat2", facts.syscalls.openat2, "5.6"),
        tried("kernel.mount_api", facts.syscalls.fsopen, "5.2"),
        since(
            facts,
            "kernel.overlay_layers",
            (6, 7),
            "images with very many layers may not fit into one mount's options",
        ),
        since(
            facts,
            "kernel.idmapped_mounts",
            (5, 19),
            "pods with a user namespace are refused",
        ),
        since(
            facts,
            "kernel.pidfd_info",
            (6, 15),
            "the exit status of a container is lost when its monitor and the daemon are both killed",
        ),
    ]
}

pub(super) fn confinement(facts: &Facts) -> Vec<Finding> {
    let security = &facts.security;
    vec![
        if security.seccomp {
            ok("security.seccomp", "filters work")
        } else {
            fail(
                "security.seccomp",
                "the kernel has no seccomp filters",
                "use a kernel with CONFIG_SECCOMP_FILTER=y",
            )
        },
        if security.apparmor {
            ok("security.apparmor", "enabled")
        } else {
            ok(
                "security.apparmor",
                "not enabled: a pod that asks for a profile is refused",
            )
        },
        if security.selinux {
            fail(
                "security.selinux",
                "enabled: husk gives files no labels, and refuses the mounts of every kubelet pod, which ask for them",
                "boot with selinux=0",
            )
        } else {
            ok("security.selinux", "not enabled")
        },
        if security.user_namespaces > 0 {
            ok(
                "security.user_namespaces",
                format!("up to {}", security.user_namespaces),
            )
        } else {
            warn(
                "security.user_namespaces",
                "none are permitted: pods that ask for one are refused",
                "sysctl -w user.max_user_namespaces=65536",
            )
        },
    ]
}
