//! The rules that no compiler checks. Each check returns what is wrong, one line each, and all of them always run.

mod crates;
mod security;
mod sources;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::build::metadata;
use crate::shell::{command, output, root, say};
use crate::{budgets, conformance};

/// Documents whose tables name a test in their last column.
const NAMING_TESTS: [&str; 2] = ["docs/security.md", "docs/conformance.md"];
const GAPS: &str = "tests/peers/containerd.toml";

/// Runs every check and fails with all that is wrong.
pub(crate) fn tidy() -> Result<()> {
    let metadata = metadata(false)?;
    let deny: toml::Table = read("deny.toml")?.parse().context("deny.toml")?;
    let mut wrong = crates::directions(&metadata);
    wrong.extend(crates::monitor(
        &monitor_graph()?,
        &read("hack/xtask/monitor-dependencies.txt")?,
    ));
    wrong.extend(crates::faults(&metadata));
    wrong.extend(crates::licences(&metadata, &deny));
    wrong.extend(crates::duplicates(&metadata, &deny));
    let mut tests = BTreeSet::new();
    for path in
        output(command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?
            .lines()
    {
        if let Ok(text) = read(path) {
            wrong.extend(sources::check(path, &text));
            tests.extend(security::functions(path, &text));
        }
    }
    for document in NAMING_TESTS {
        wrong.extend(security::missing(document, &read(document)?, &tests));
    }
    for gap in conformance::tests_of(&read(GAPS)?)? {
        let (_, name) = gap.split_once("::").unwrap_or_default();
        if !tests.contains(name) {
            wrong.push(format!("{GAPS}: there is no test {gap}"));
        }
    }
    wrong.extend(
        budgets::readme(false)
            .err()
            .map(|error| format!("{error:#}")),
    );
    ensure!(
        wrong.is_empty(),
        "{} rules are broken:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    say("tidy: dependencies, licences, sources and budgets are as they should be");
    Ok(())
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))
}

/// What is linked into the monitor, one `name vX.Y.Z` a line.
fn monitor_graph() -> Result<String> {
    let edges = "--edges=normal,no-proc-macro";
    output(command("cargo").args([
        "tree",
        "--locked",
        "--package",
        "pod-monitor",
        edges,
        "--prefix=none",
    ]))
}
