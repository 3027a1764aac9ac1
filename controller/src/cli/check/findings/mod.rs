//! The checks: facts in, findings out. Each finding that is not in order says how to mend it.

mod cgroups;
mod kernel;
mod limits;
mod network;
mod runtimes;

use serde::Serialize;

use super::facts::Facts;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// In order.
    Ok,
    /// Pods run, but something is missing, slower, or will end at a limit.
    Warn,
    /// Pods do not run.
    Fail,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// A stable name, e.g. `cgroup.controllers`.
    pub(super) check: String,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// How to mend it, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// Every check, in the order in which they are shown.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        root(facts),
        cgroups::version(facts),
        cgroups::controllers(facts),
        cgroups::driver(facts),
        kernel::overlay(facts),
    ];
    findings.extend(kernel::features(facts));
    findings.extend(kernel::confinement(facts));
    findings.extend(runtimes::handlers(facts));
    findings.push(runtimes::monitor(facts));
    findings.push(network::cni(facts));
    findings.push(network::forwarding(facts));
    findings.push(network::bridge_filter(facts));
    findings.extend(limits::compared(facts));
    findings.push(limits::open_files(facts));
    findings.push(criu(facts));
    findings
}

/// The names of all sysctls that the checks read.
pub(super) fn sysctls() -> impl Iterator<Item = &'static str> {
    limits::names().chain(network::SYSCTLS)
}

fn ok(check: &str, found: impl Into<String>) -> Finding {
    Finding {
        check: check.to_owned(),
        verdict: Verdict::Ok,
        found: found.into(),
        fix: None,
    }
}

fn warn(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        verdict: Verdict::Warn,
        fix: Some(fix.into()),
        ..ok(check, found)
    }
}

fn fail(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        verdict: Verdict::Fail,
        fix: Some(fix.into()),
        ..ok(check, found)
    }
}

fn root(facts: &Facts) -> Finding {
    if facts.privilege.root {
        ok("root", "runs as root")
    } else {
        fail(
            "root",
            "does not run as root",
            "run it with sudo; husk itself is a root service",
        )
    }
}

fn criu(facts: &Facts) -> Finding {
    match &facts.criu {
        Some(version) => ok("criu", version),
        None => warn(
            "criu",
            "not installed: checkpoint and restore are refused",
            "apt-get install criu",
        ),
    }
}
