//! Limits that a dense node meets before it is full.

use super::{Finding, ok, warn};
use crate::cli::check::facts::Facts;

/// A sysctl that a dense node wants raised.
struct Limit {
    check: &'static str,
    sysctl: &'static str,
    /// Below this, the node ends at the limit before it is full.
    least: u64,
    /// What to set.
    wanted: &'static str,
    /// Whether zero stands for no limit.
    zero_is_none: bool,
    /// What happens at the limit.
    lost: &'static str,
}

/// The limits, which are looked up by the rim under these names.
const LIMITS: [Limit; 9] = [
    Limit {
        check: "limits.inotify",
        sysctl: "fs.inotify.max_user_instances",
        least: 1024,
        wanted: "8192",
        zero_is_none: false,
        lost: "programs in pods, and the kubelet, fail to watch files",
    },
    Limit {
        check: "limits.pipes",
        sysctl: "fs.pipe-user-pages-soft",
        least: 65_536,
        wanted: "0",
        zero_is_none: true,
        lost: "pipes of containers shrink to a page, and output goes slowly",
    },
    Limit {
        check: "limits.keys",
        sysctl: "kernel.keys.maxkeys",
        least: 2_000,
        wanted: "20000",
        zero_is_none: false,
        lost: "containers of one user fail to start for want of a session keyring",
    },
    Limit {
        check: "limits.key_bytes",
        sysctl: "kernel.keys.maxbytes",
        least: 50_000,
        wanted: "2000000",
        zero_is_none: false,
        lost: "containers of one user fail to start for want of a session keyring",
    },
    Limit {
        check: "limits.neighbours",
        sysctl: "net.ipv4.neigh.default.gc_thresh3",
        least: 4_096,
        wanted: "16384",
        zero_is_none: false,
        lost: "packets to new addresses are dropped",
    },
    Limit {
        check: "limits.neighbours6",
        sysctl: "net.ipv6.neigh.default.gc_thresh3",
        least: 4_096,
        wanted: "16384",
        zero_is_none: false,
        lost: "packets to new addresses are dropped",
    },
    Limit {
        check: "limits.ports",
        sysctl: "net.ipv4.ip_local_port_range",
        least: 40_000,
        wanted: "'20000 65535'",
        zero_is_none: false,
        lost: "pods on the host's network, and those behind its address, get no port for a connection",
    },
    Limit {
        check: "limits.threads",
        sysctl: "kernel.threads-max",
        least: 65_536,
        wanted: "4194304",
        zero_is_none: false,
        lost: "no process starts any more",
    },
    Limit {
        check: "limits.pids",
        sysctl: "kernel.pid_max",
        least: 131_072,
        wanted: "4194304",
        zero_is_none: false,
        lost: "no process starts any more",
    },
];

impl Limit {
    fn check(&self, facts: &Facts) -> Finding {
        let Some(&value) = facts.sysctls.get(self.sysctl) else {
            return ok(self.check, format!("{} does not exist here", self.sysctl));
        };
        if value >= self.least || (value == 0 && self.zero_is_none) {
            return ok(self.check, format!("{} is {value}", self.sysctl));
        }
        warn(
            self.check,
            format!("{} is {value}; at it, {}", self.sysctl, self.lost),
            format!("sysctl -w {}={}", self.sysctl, self.wanted),
        )
    }
}

/// The sysctls that are compared.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LIMITS.iter().map(|limit| limit.sysctl)
}

/// Every limit compared with what a dense node wants.
pub(super) fn compared(facts: &Facts) -> impl Iterator<Item = Finding> {
    LIMITS.iter().map(|limit| limit.check(facts))
}

/// Per pod the daemon keeps a socket, pipe ends in escrow and cgroup files open.
pub(super) fn open_files(facts: &Facts) -> Finding {
    const LEAST: u64 = 65_536;
    if facts.open_files >= LEAST {
        return ok("limits.open_files", format!("{} files", facts.open_files));
    }
    warn(
        "limits.open_files",
        format!(
            "a process may open {} files, too few for a dense node",
            facts.open_files
        ),
        "set LimitNOFILE=1048576 in husk.service, or `ulimit -n 1048576` before husk",
    )
}
