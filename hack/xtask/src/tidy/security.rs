//! The tests that documents name, against those there are. Pure.

use std::collections::BTreeSet;

/// The names of the functions in a Rust file.
pub(super) fn functions(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let declared = text.lines().filter_map(|line| {
        let (before, after) = line.split_once("fn ")?;
        let is_start = before
            .trim()
            .split(' ')
            .all(|word| matches!(word, "" | "async" | "pub"));
        let end = after.find(['(', '<'])?;
        is_start.then(|| after.get(..end).unwrap_or_default().to_owned())
    });
    declared.collect()
}

/// Tests that a table names in its last column and that do not exist.
pub(super) fn missing(path: &str, document: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let rows = document.lines().enumerate();
    let rows = rows.filter_map(|(number, line)| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?;
        Some((number + 1, cells.rsplit('|').next()?))
    });
    let mut wrong = Vec::new();
    for (number, cell) in rows {
        // Every second piece stands between backticks.
        let named = cell.split('`').skip(1).step_by(2);
        let unknown = named.filter(|name| is_function(name) && !functions.contains(*name));
        wrong.extend(unknown.map(|name| format!("{path}:{number}: there is no test {name}")));
    }
    wrong
}

fn is_function(name: &str) -> bool {
    name.chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_named_must_exist() {
        let source = "    async fn it_is_there() -> Result<()> {\nlet fn_x = 1;\npub fn b<T>() {\n";
        let known: BTreeSet<String> = functions("a.rs", source).into_iter().collect();
        assert_eq!(
            known,
            BTreeSet::from(["it_is_there".to_owned(), "b".to_owned()])
        );
        assert!(functions("a.md", source).is_empty());
        for (document, count) in [
            ("| fault | `husk` | `it_is_there`, `b` (in `a/b.rs`) |", 0),
            ("| fault | here | `it_is_gone` |", 1),
            ("text with `it_is_gone`", 0),
            ("| fault | here | no test yet |", 0),
        ] {
            assert_eq!(missing("a.md", document, &known).len(), count, "{document}");
        }
    }
}
