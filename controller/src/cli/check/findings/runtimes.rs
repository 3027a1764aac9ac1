//! The programs that pods need: OCI runtimes and the monitor.

use super::cgroups::UNIFY;
use super::{Finding, fail, ok, warn};
use crate::cli::check::facts::{Cgroup, Facts};
use crate::config::AUTO;

/// Whether crun refuses this host. It wants either one tree or no controller in the second.
fn refuses_hybrid(facts: &Facts, version: &str) -> bool {
    matches!(&facts.cgroup, Cgroup::Hybrid { unified, .. } if !unified.is_empty())
        && version.starts_with("crun")
}

pub(super) fn handlers(facts: &Facts) -> Vec<Finding> {
    let handlers = &facts.runtimes.handlers;
    let works = |name: &str| {
        let version = handlers.get(name).and_then(|found| found.as_ref().ok());
        version.is_some_and(|version| !refuses_hybrid(facts, version))
    };
    let mut findings: Vec<Finding> = handlers
        .iter()
        .map(|(name, found)| runtime(facts, name, found))
        .collect();
    let check = "runtime.default";
    let wanted = facts.runtimes.default.as_str();
    let chosen = if wanted == AUTO {
        ["crun", "runc"].into_iter().find(|name| works(name))
    } else {
        Some(wanted).filter(|name| works(name))
    };
    findings.push(match chosen {
        Some(name) => ok(check, name),
        None if wanted == AUTO => fail(
            check,
            "neither crun nor runc works on this host",
            "apt-get install runc",
        ),
        None => fail(
            check,
            format!("{wanted} does not work on this host"),
            "set runtime.default to a handler that works, or to \"auto\"",
        ),
    });
    findings
}

fn runtime(facts: &Facts, name: &str, found: &Result<String, String>) -> Finding {
    let check = format!("runtime.{name}");
    match found {
        Ok(version) if refuses_hybrid(facts, version) => warn(
            &check,
            format!("{version}: refuses hybrid cgroup hosts"),
            format!(
                "{UNIFY}, or start husk in a mount namespace of its own without /sys/fs/cgroup/unified"
            ),
        ),
        Ok(version) => ok(&check, version),
        Err(why) => warn(
            &check,
            why,
            format!("install {name}, or set runtime.handlers.{name}.path"),
        ),
    }
}

pub(super) fn monitor(facts: &Facts) -> Finding {
    let places: Vec<String> = facts
        .monitor
        .candidates
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    match &facts.monitor.found {
        Some(path) => ok("monitor", path.display().to_string()),
        None => fail(
            "monitor",
            format!("no pod-monitor at {}", places.join(" or ")),
            "install pod-monitor there, or set monitor.path",
        ),
    }
}
