//! The one place from which the harness starts programs.

use std::ffi::OsStr;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

/// A command for `program`, found through `PATH`.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the harness's one place that starts programs"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs `command` to its end and returns its standard output; a failure carries its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!(
            "{command:?}: {status}: {}{}",
            String::from_utf8_lossy(&stderr),
            String::from_utf8_lossy(&stdout)
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
