//! OCI runtimes beside Debian's: a current runc, for what the packaged ones cannot do yet.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command::{command, output};
use crate::settings;

const RUNC: &str = "github.com/opencontainers/runc@v1.5.2";

/// A current runc, built once and kept beside what cargo builds; `None`, said aloud, where there is no `go`.
/// It is built without libseccomp, so it refuses seccomp profiles.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn current_runc() -> Result<Option<PathBuf>> {
    if command("go").arg("version").output().is_err() {
        eprintln!("SKIPPED: no `go`, so nothing that needs a current runc was tried");
        return Ok(None);
    }
    let directory = settings::target_directory()?.join("oci");
    let program = directory.join("runc-1.5.2");
    if !program.exists() {
        fs::create_dir_all(&directory)?;
        let build = tempfile::tempdir_in(&directory)?;
        let mut install = command("go");
        install.env("GOBIN", build.path()).env("GOFLAGS", "");
        output(install.args(["install", RUNC])).context("build a current runc")?;
        fs::rename(build.path().join("runc"), &program)?;
    }
    Ok(Some(program))
}
