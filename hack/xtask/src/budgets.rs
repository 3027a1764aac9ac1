//! README's table of budgets, made from `tests/budgets.toml`, which the tests read too.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::shell::{root, say};

const BEGIN: &str =
    "<!-- budgets: made by `cargo xtask budgets --write` from tests/budgets.toml -->\n";
const END: &str = "<!-- end of budgets -->";

/// Compares the table between the markers in README with the budgets, or writes it.
pub(crate) fn readme(write: bool) -> Result<()> {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).context("read README.md")?;
    let budgets =
        fs::read_to_string(root().join("tests/budgets.toml")).context("read tests/budgets.toml")?;
    let wanted = with_table(&text, &table(&budgets)?)?;
    if write {
        fs::write(&path, wanted).context("write README.md")?;
        say("README.md has the budgets of tests/budgets.toml");
        return Ok(());
    }
    ensure!(
        text == wanted,
        "README.md's budgets are not those of tests/budgets.toml: cargo xtask budgets --write"
    );
    Ok(())
}

fn with_table(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("README.md lacks the line {BEGIN}"))?;
    let (_old, after) = rest
        .split_once(END)
        .with_context(|| format!("README.md lacks the line {END}"))?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn table(budgets: &str) -> Result<String> {
    let budgets: toml::Table = budgets.parse().context("tests/budgets.toml")?;
    let mut rows = String::from("| what | budget |\n|---|---|\n");
    for (key, budget) in &budgets {
        let text = |field: &str| {
            budget
                .get(field)
                .map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
        };
        let what = text("what").with_context(|| format!("{key} has no `what`"))?;
        let limit = text("limit").with_context(|| format!("{key} has no `limit`"))?;
        let unit = text("unit").unwrap_or_default();
        rows.push_str(format!("| {what} | ≤ {limit} {unit}").trim_end());
        rows.push_str(" |\n");
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_put_between_the_markers_and_found_there_again() {
        let budgets = "[memory]\nwhat = \"memory of a monitor\"\nlimit = 200\nunit = \"KB\"\n";
        let table = table(budgets).unwrap();
        assert!(
            table.ends_with("| memory of a monitor | ≤ 200 KB |\n"),
            "{table}"
        );
        let text = format!("a\n{BEGIN}old\n{END}\nz\n");
        let written = with_table(&text, &table).unwrap();
        assert_eq!(with_table(&written, &table).unwrap(), written);
        assert!(with_table("no markers", &table).is_err());
    }
}
