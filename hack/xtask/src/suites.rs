//! The suites: the package that they are in, and their names.

use std::fs;

use anyhow::{Context as _, Result};

use crate::shell::root;

pub(crate) const PACKAGE: &str = "husk-tests";

/// The suites that need no kubelet.
pub(crate) fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("tests/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().context("a suite's name")?;
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
