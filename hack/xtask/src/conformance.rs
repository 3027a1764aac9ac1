//! The suites against a CRI endpoint that runs already, beside what is known of the runtime behind it.
//!
//! A rule that a runtime does not keep is one of its gaps: a test that fails there, listed with the reason in a file
//! below `tests/peers`. A failure that is not listed fails the run; a gap that is closed is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::build::target_directory;
use crate::shell::{command, root, say};
use crate::suites;

/// How long a suite may take.
const SUITE_SECONDS: &str = "600";
/// How libtest tells of a test that may never end.
const LATE: &str = " has been running for over 60 seconds";

/// Another runtime than Husk.
#[derive(Debug, clap::Args)]
pub(crate) struct Peer {
    /// Test the runtime at this CRI socket instead of Husk
    #[arg(long)]
    endpoint: Option<String>,
    /// What that runtime is known to do otherwise: a file like tests/peers/containerd.toml
    #[arg(long, requires = "endpoint")]
    gaps: Option<PathBuf>,
    /// The command that loads a docker archive into it; the file's name is appended
    #[arg(long, requires = "endpoint")]
    import: Option<String>,
    /// A process in its network namespace
    #[arg(long, requires = "endpoint")]
    pid: Option<u32>,
    /// Run everything this often, one after the other; the outcome must stay the same
    #[arg(long, requires = "endpoint", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Tests that fail for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gap {
    /// `suite::test`.
    tests: Vec<String>,
    /// The rule that is broken.
    rule: String,
    /// How.
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gaps {
    #[serde(default)]
    gap: Vec<Gap>,
}

/// What became of the tests, each by `suite::test`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeMap<String, String>,
}

impl Peer {
    pub(crate) fn is_given(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Runs the named suites, or all of them, and fails with what no gap explains.
    pub(crate) fn run(&self, names: &[String]) -> Result<()> {
        let gaps = match &self.gaps {
            Some(file) => read_gaps(&fs::read_to_string(root().join(file))?)?,
            None => BTreeMap::new(),
        };
        let names = if names.is_empty() {
            suites::names()?
        } else {
            names.to_vec()
        };
        let outcome = self.suites(&names)?;
        for round in 2..=self.rounds {
            let again = self.suites(&names)?;
            let otherwise: Vec<_> = again.passed.symmetric_difference(&outcome.passed).collect();
            ensure!(
                again == outcome,
                "round {round} ended otherwise than the first: {otherwise:?}"
            );
        }
        let lines = report(&outcome, &gaps);
        lines.iter().for_each(|line| say(line));
        let unexplained = outcome
            .failed
            .iter()
            .filter(|name| !gaps.contains_key(*name));
        let unexplained: Vec<_> = unexplained.cloned().collect();
        ensure!(
            unexplained.is_empty(),
            "failed, and no known gap:\n  {}",
            unexplained.join("\n  ")
        );
        Ok(())
    }

    fn suites(&self, names: &[String]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for name in names {
            self.suite(name, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Runs one suite. What it wrote is kept in the target directory.
    fn suite(&self, name: &str, outcome: &mut Outcome) -> Result<()> {
        let logs = target_directory()?.join("conformance");
        fs::create_dir_all(&logs)?;
        let skips = logs.join(format!("{name}.skips"));
        fs::write(&skips, "")?;
        // Another runtime may leave a caller without an answer.
        let mut test = command("timeout");
        test.args(["--kill-after=10", SUITE_SECONDS, "cargo", "test"]);
        test.args(["--package", suites::PACKAGE, "--test", name]);
        test.envs(self.endpoint.iter().map(|it| ("HUSK_TEST_ENDPOINT", it)));
        test.envs(self.import.iter().map(|it| ("HUSK_TEST_IMPORT", it)));
        let pid = self.pid.map(|pid| pid.to_string());
        test.envs(pid.iter().map(|it| ("HUSK_TEST_PID", it)));
        let ran = test.env("HUSK_TEST_SKIPS", &skips).output()?;
        let text = String::from_utf8_lossy(&ran.stdout);
        let log = logs.join(format!("{name}.log"));
        fs::write(&log, [&ran.stdout[..], &ran.stderr[..]].concat())?;
        let started = text.contains("\nrunning ");
        ensure!(started, "{name} was not run: see {}", log.display());
        say(&format!("{name}: {}", last_line(&text)));
        outcome.add(name, &text, &fs::read_to_string(&skips)?);
        Ok(())
    }
}

impl Outcome {
    /// Adds what a suite's program wrote, and the tests that it noted as skipped.
    fn add(&mut self, suite: &str, text: &str, skips: &str) {
        let full = |name: &str| format!("{suite}::{name}");
        let skips = skips.lines().filter_map(|line| line.split_once('\t'));
        let skips: BTreeMap<_, _> = skips
            .map(|(name, reason)| (full(name), reason.to_owned()))
            .collect();
        let ended = text.lines().filter_map(|line| {
            let (name, end) = line.strip_prefix("test ")?.split_once(" ... ")?;
            Some((full(name), end))
        });
        for (name, end) in ended {
            match (end, skips.get(&name)) {
                ("ok", Some(reason)) => drop(self.skipped.insert(name, reason.clone())),
                ("ok", None) => drop(self.passed.insert(name)),
                ("FAILED", _) => drop(self.failed.insert(name)),
                _ => {}
            }
        }
        let late = text.lines().filter_map(|line| line.strip_prefix("test "));
        for name in late.filter_map(|line| line.strip_suffix(LATE)).map(full) {
            let ended = self.passed.contains(&name) || self.skipped.contains_key(&name);
            if !ended {
                self.failed.insert(name);
            }
        }
    }
}

fn last_line(text: &str) -> &str {
    let mut lines = text.lines().rev();
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

fn read_gaps(text: &str) -> Result<BTreeMap<String, String>> {
    let gaps: Gaps = toml::from_str(text)?;
    let lines = gaps.gap.into_iter().flat_map(|gap| {
        let why = format!("{}: {}", gap.rule, gap.reason);
        gap.tests.into_iter().map(move |test| (test, why.clone()))
    });
    Ok(lines.collect())
}

/// The names of all tests that a list of gaps has.
pub(crate) fn tests_of(gaps: &str) -> Result<Vec<String>> {
    Ok(read_gaps(gaps)?.into_keys().collect())
}

fn report(outcome: &Outcome, gaps: &BTreeMap<String, String>) -> Vec<String> {
    let known = |name: &&String| gaps.contains_key(*name);
    let mut lines = Vec::new();
    for (name, reason) in &outcome.skipped {
        lines.push(format!(
            "skipped   {name}: needs Husk's own daemon: {reason}"
        ));
    }
    for name in outcome.failed.iter().filter(known) {
        lines.push(format!("known gap {name}: {}", gaps[name]));
    }
    for name in outcome.passed.iter().filter(known) {
        lines.push(format!(
            "closed    {name} passes, though it is listed as a gap"
        ));
    }
    let known = outcome.failed.iter().filter(known).count();
    lines.push(format!(
        "{} passed, {known} known gaps, {} failed beside them, {} skipped",
        outcome.passed.len(),
        outcome.failed.len() - known,
        outcome.skipped.len()
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_pass_fail_are_skipped_and_known() {
        let mut outcome = Outcome::default();
        let text = "running 4 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ok\ntest d ... FAILED\n\
                    test e has been running for over 60 seconds";
        outcome.add("s", text, "c\tit kills it\n");
        let gaps = "[[gap]]\ntests = [\"s::b\", \"s::a\"]\nrule = \"r\"\nreason = \"w\"";
        let lines = report(&outcome, &read_gaps(gaps).unwrap());
        assert_eq!(
            lines,
            [
                "skipped   s::c: needs Husk's own daemon: it kills it",
                "known gap s::b: r: w",
                "closed    s::a passes, though it is listed as a gap",
                "1 passed, 1 known gaps, 2 failed beside them, 1 skipped",
            ]
        );
        assert!(read_gaps("[[gap]]\ntests = []").is_err());
    }
}
