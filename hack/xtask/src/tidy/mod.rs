//! The rules that no compiler checks. Each check returns what is wrong, one line each, and all of them always run.

mod crates;
mod security;
mod sources;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::budgets;
use crate::build::metadata;
use crate::shell::{command, output, root, say};

const SECURITY: &str = "docs/security.md";

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
    wrong.extend(security::missing(&read(SECURITY)?, &tests));
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
