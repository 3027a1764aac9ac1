//! Fuzzing: every target of `tests/fuzz` for a while, from the corpus in the repository.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::build::target_directory;
use crate::shell::{command, output, root, run, say};

/// The release whose command line this is written for.
const CARGO_FUZZ: &str = "0.13.2";

/// What an input may have and what a target may use, so that a bomb is a finding.
const LIMITS: &[&str] = &[
    "-max_len=8192",
    "-rss_limit_mb=1024",
    "-timeout=10",
    "-print_final_stats=0",
    "-verbosity=0",
];

/// For how long each target runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// As many seconds, with inputs that are new each time.
    Seconds(u32),
    /// The same few inputs each time, so that only a change of the code changes the answer.
    Same,
}

/// Runs all targets, or those named. A finding is an error, and its input is kept.
pub(crate) fn fuzz(length: Length, names: &[String]) -> Result<()> {
    install()?;
    let directory = root().join("tests/fuzz");
    let known = output(cargo_fuzz("list")?.current_dir(&directory))?;
    let known: Vec<_> = known.lines().map(str::to_owned).collect();
    for name in names {
        ensure!(
            known.contains(name),
            "{name:?} is no fuzz target; there are {}",
            known.join(", ")
        );
    }
    run(cargo_fuzz("build")?
        .args(["--sanitizer", "none"])
        .current_dir(&directory))?;
    let chosen = if names.is_empty() { &known } else { names };
    for target in chosen {
        one(target, length, &directory)?;
    }
    say(&format!("{} passed, 0 failed", chosen.len()));
    Ok(())
}

/// New inputs go to a directory of the build; those worth keeping are copied into the corpus by hand.
fn one(target: &str, length: Length, directory: &Path) -> Result<()> {
    let mut fuzz = cargo_fuzz("run")?;
    fuzz.args(["--sanitizer", "none", target]);
    let found = target_directory()?.join("fuzz-corpus");
    let found = match length {
        Length::Seconds(_) => found.join(target),
        Length::Same => found.join("none"),
    };
    if matches!(length, Length::Same) && found.exists() {
        std::fs::remove_dir_all(&found).context("forget what was found before")?;
    }
    std::fs::create_dir_all(&found).context("make the directory of new inputs")?;
    fuzz.arg(&found);
    let inputs = [format!("corpus/{target}"), seeds(target).to_owned()];
    for corpus in inputs.into_iter().filter(|it| !it.is_empty()) {
        let is_there = directory.join(&corpus).is_dir();
        fuzz.args(is_there.then_some(corpus));
    }
    fuzz.arg("--").args(LIMITS);
    match length {
        Length::Seconds(seconds) => fuzz.arg(format!("-max_total_time={seconds}")),
        Length::Same => fuzz.args(["-seed=1", "-runs=10000"]),
    };
    run(fuzz.current_dir(directory)).with_context(|| {
        format!("fuzz {target}; the input is below tests/fuzz/artifacts and reproduces it")
    })
}

/// Files of other tests that are good inputs.
fn seeds(target: &str) -> &'static str {
    match target {
        "monitor_message" | "monitor_frames" => "../../schema/tests/golden/v1",
        _ => "",
    }
}

/// Instrumentation is not in the stable language, but the pinned compiler knows it.
/// What it builds goes where all else does, not below `tests/`, whose files are looked at as sources.
fn cargo_fuzz(verb: &str) -> Result<std::process::Command> {
    let mut fuzz = command("cargo");
    fuzz.args(["fuzz", verb, "--fuzz-dir", "."]);
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    fuzz.env("CARGO_TARGET_DIR", target_directory()?);
    Ok(fuzz)
}

fn install() -> Result<()> {
    if output(command("cargo").args(["fuzz", "--version"])).is_ok() {
        return Ok(());
    }
    run(command("cargo").args(["install", "--locked", "--version", CARGO_FUZZ, "cargo-fuzz"]))
}
