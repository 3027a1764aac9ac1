//! The one place that starts programs and speaks to the terminal.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The top of the checkout from which this was started. Cargo says so when it runs a program; where it was built
/// says less, because checkouts may share a target directory.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to the programs that it runs by the environment"
)]
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR");
    let own = own.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.join("../..")
}

/// A command that starts at the top of the checkout.
#[expect(
    clippy::disallowed_methods,
    reason = "this is xtask's one place that starts programs"
)]
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs a command with its output on the terminal; a failure is an error that shows the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(&format!("+ {}", shown(command)));
    let status = command
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    ensure!(status.success(), "{}: {status}", shown(command));
    Ok(())
}

/// The standard output of a command.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}: {text}",
        shown(command),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs cargo with its output on the terminal.
pub(crate) fn cargo(words: &[&str]) -> Result<()> {
    run(command("cargo").args(words))
}

/// One line to the person at the terminal.
#[expect(
    clippy::print_stdout,
    reason = "a command line program talks to its terminal"
)]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
