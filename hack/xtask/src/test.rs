//! Everything that is checked, in the order in which it fails soonest.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::build::{FAULTS, Programs, build, members};
use crate::shell::{cargo, command, output, run, say};
use crate::{fuzz, kubelet, modules, packages, suites, tidy};

/// What the suites' husk is made of is tested as it is built for them, and so compiled once.
const WITH_FAULTS: &[&str] = &["husk", "husk-image"];

/// What continuous integration runs: packages, format, lints, rules, unit tests crate by crate, suites,
/// and a moment of fuzzing.
pub(crate) fn everything() -> Result<()> {
    packages::install()?;
    cargo(&["fmt", "--all", "--check"])?;
    tidy::tidy()?;
    let members = members()?;
    for member in &members {
        cargo(&[
            "clippy",
            "--quiet",
            "--package",
            member,
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])?;
    }
    for member in members.iter().filter(|member| *member != suites::PACKAGE) {
        let mut words = vec!["test", "--package", member];
        if WITH_FAULTS.contains(&member.as_str()) {
            words.extend(["--features", FAULTS]);
        }
        cargo(&words)?;
    }
    suites(&[], false)?;
    // Enough to notice that something broke; `cargo xtask fuzz` searches.
    fuzz::fuzz(fuzz::Length::Same, &[])
}

/// Runs the named suites, or all of them, and fails when the machine is not as it was before.
pub(crate) fn suites(names: &[String], release: bool) -> Result<()> {
    let programs = build(release)?;
    let before = leftovers()?;
    let every = [suites::names()?, vec![kubelet::SUITE.to_owned()]].concat();
    let wanted = if names.is_empty() { &every } else { names };
    let (scenarios, others): (Vec<_>, Vec<_>) =
        wanted.iter().partition(|name| *name == kubelet::SUITE);
    let mut words: Vec<&str> = Vec::new();
    if names.is_empty() {
        words.extend(["--lib", "--bins"]);
    }
    for name in others {
        words.extend(["--test", name]);
    }
    if !words.is_empty() {
        if wanted.iter().any(|name| modules::SUITES.contains(&&**name)) {
            modules::build()?;
        }
        run(test(&programs)?.args(words))?;
    }
    if !scenarios.is_empty() {
        let mut test = test(&programs)?;
        test.env("HUSK_TEST_KUBELET", kubelet::build()?);
        run(test.args(["--test", kubelet::SUITE, "--", kubelet::AT_ONCE]))?;
    }
    nothing_is_left(&before)
}

/// What runs suites with these programs, once it is told which.
fn test(programs: &Programs) -> Result<Command> {
    let mut test = command("cargo");
    test.args(["test", "--package", suites::PACKAGE, "--no-fail-fast"]);
    test.env("HUSK_BIN", &programs.husk)
        .env("POD_MONITOR_BIN", &programs.monitor);
    Ok(test)
}

/// Killed daemons and namespaces need a moment to go: the comparison waits for the state, up to a deadline.
fn nothing_is_left(before: &BTreeSet<String>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let after = leftovers()?;
        let left: Vec<_> = after.difference(before).cloned().collect();
        if left.is_empty() {
            say("nothing is left behind: mounts, cgroups, processes and files are as before");
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the suites left behind:\n  {}",
            left.join("\n  ")
        );
    }
}

fn leftovers() -> Result<BTreeSet<String>> {
    let mut look = command("cargo");
    let lines = output(look.args([
        "run",
        "--quiet",
        "--package",
        suites::PACKAGE,
        "--bin",
        "leftovers",
    ]))?;
    Ok(lines.lines().map(str::to_owned).collect())
}
