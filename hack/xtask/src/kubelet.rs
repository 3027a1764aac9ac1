//! Building the kubelet that one suite runs, and the client that speaks to it, from the Go module in `tests/kubelet`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::build::target_directory;
use crate::go::go;
use crate::shell::{root, run};

/// The suite that needs it.
pub(crate) const SUITE: &str = "kubelet";

/// How many of its scenarios run side by side: all, for they do little but wait for the kubelet's own periods.
pub(crate) const AT_ONCE: &str = "--test-threads=32";

/// Builds with Go's own cache, so that only the first time takes minutes. Returns the directory of the two programs.
pub(crate) fn build() -> Result<PathBuf> {
    let programs = target_directory()?.join("kubelet");
    // Go writes several programs only into a directory that is there.
    std::fs::create_dir_all(&programs).with_context(|| format!("make {}", programs.display()))?;
    let mut build = go()?;
    build.current_dir(root().join("tests/kubelet"));
    build.args([
        "build",
        "-buildvcs=false",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
    ]);
    run(build.arg(&programs).args([".", "./client"])).context("build a kubelet")?;
    Ok(programs)
}
