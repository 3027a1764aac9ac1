//! The fault points in the sources of the product: see the crate `fault-point`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// A place in the sources at which a fault can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub name: String,
    /// Whether the step has an error to give; others abort or wait only.
    pub fails: bool,
}

/// The points below a directory of sources.
fn points(directory: &Path) -> Result<BTreeSet<Point>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(points(&path)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.extend(points_of(&fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

fn points_of(source: &str) -> impl Iterator<Item = Point> {
    source.split("fault::").skip(1).filter_map(|call| {
        let (function, argument) = call.split_once('(')?;
        let name = argument.trim_start().strip_prefix('"')?.split('"').next()?;
        let fails = match function {
            "point" | "io" => true,
            "mark" => false,
            _ => return None,
        };
        Some(Point {
            name: name.to_owned(),
            fails,
        })
    })
}

/// The points in these directories of the checkout. Few of them would mean that they are not recognised.
pub fn sources(parts: &[&str]) -> Result<BTreeSet<Point>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for part in parts {
        found.extend(points(&top.join(part))?);
    }
    ensure!(found.len() > 10, "few points: {found:?}");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_found_in_sources() {
        let source = "use crate::fault;\nfault::point(\"a.b\")?;\nfault::mark(\n  \"c\");\nfault::io(\"d\").map_err(x)?;\
                      fault::work_below(\"e\")";
        let found: Vec<_> = points_of(source).map(|it| (it.name, it.fails)).collect();
        let expected = [("a.b", true), ("c", false), ("d", true)];
        assert_eq!(
            found,
            expected.map(|(name, fails)| (name.to_owned(), fails))
        );
    }
}
