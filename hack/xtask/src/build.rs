//! Building the two programs: `husk`, and `pod-monitor` alone, so that no other crate's features leak into it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::packages;
use crate::shell::{command, output, run, say};

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) husk: PathBuf,
    pub(crate) monitor: PathBuf,
}

/// The feature by which tests make a program fail, and what a program has in it that was built so.
pub(crate) const FAULTS: &str = "faults";
const MARK: &[u8] = b"fault-points";

/// Features of the monitor that suites alone use. Each makes a program beside the usual one, named after it.
pub(crate) const OF_SUITES: [&str; 2] = [FAULTS, "first-version"];

/// Builds both programs and says where they are and which libc the monitor got. Without `release` they are for the
/// suites: husk has fault points, and beside the monitor lie others that have them too or are of another version.
pub(crate) fn build(release: bool) -> Result<Programs> {
    let target = target_directory()?;
    let (triple, libc) = monitor_target();
    let programs = Programs {
        husk: target
            .join(if release { "release" } else { "debug" })
            .join("husk"),
        monitor: target.join(&triple).join("monitor/pod-monitor"),
    };
    build_husk(release)?;
    for feature in OF_SUITES.into_iter().filter(|_| !release) {
        build_monitor(&triple, Some(feature))?;
        let kept = programs
            .monitor
            .with_file_name(format!("pod-monitor-{feature}"));
        std::fs::copy(&programs.monitor, &kept).with_context(|| format!("keep {feature}"))?;
        ensure!(
            has_faults(&kept)? == (feature == FAULTS),
            "fault points belong in one program alone: {}",
            kept.display()
        );
    }
    build_monitor(&triple, None)?;
    for program in [(release, &programs.husk), (true, &programs.monitor)] {
        let (for_users, path) = program;
        ensure!(
            !(for_users && has_faults(path)?),
            "fault points in {}",
            path.display()
        );
    }
    ensure!(
        is_static(&std::fs::read(&programs.monitor).context("read the monitor")?),
        "{} wants a dynamic linker, which a file without a name may not find",
        programs.monitor.display()
    );
    let size = programs
        .monitor
        .metadata()
        .context("look at the monitor")?
        .len();
    say(&format!("husk:        {}", programs.husk.display()));
    say(&format!(
        "pod-monitor: {} ({libc}, static, {} KB)",
        programs.monitor.display(),
        size / 1024
    ));
    Ok(programs)
}

fn build_husk(release: bool) -> Result<()> {
    let mut build = command("cargo");
    build.args(["build", "--package", "husk", "--bin", "husk"]);
    match release {
        true => build.arg("--release"),
        false => build.args(["--features", FAULTS]),
    };
    run(&mut build)
}

fn build_monitor(triple: &str, feature: Option<&str>) -> Result<()> {
    let mut build = command("cargo");
    build.args([
        "build",
        "--package",
        "pod-monitor",
        "--profile",
        "monitor",
        "--target",
        triple,
    ]);
    build.args(feature.iter().flat_map(|feature| ["--features", *feature]));
    build.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );
    run(&mut build)
}

/// Whether a program for 64-bit little-endian machines names no dynamic linker: none of its program headers is a
/// PT_INTERP (elf(5)).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: usize = 3;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = program.get(at..at.checked_add(bytes)?)?;
        let value = field
            .iter()
            .rev()
            .fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let kinds = || {
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        (0..count)
            .map(|index| number(table.checked_add(index * size)?, 4))
            .collect::<Option<Vec<_>>>()
    };
    program.starts_with(b"\x7fELF\x02\x01")
        && kinds().is_some_and(|kinds| kinds.iter().all(|kind| *kind != PT_INTERP))
}

/// Whether a program was built with fault points.
fn has_faults(program: &Path) -> Result<bool> {
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    Ok(bytes.windows(MARK.len()).any(|window| window == MARK))
}

fn monitor_target() -> (String, &'static str) {
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    if packages::has_musl(&musl) {
        return (musl, "musl");
    }
    (
        format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        "glibc",
    )
}

/// What cargo knows about the workspace, dependencies included unless `own` asks for the workspace alone.
pub(crate) fn metadata(own: bool) -> Result<serde_json::Value> {
    let mut metadata = command("cargo");
    metadata.args(["metadata", "--format-version=1", "--locked"]);
    if own {
        metadata.arg("--no-deps");
    }
    serde_json::from_str(&output(&mut metadata)?).context("read cargo metadata")
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata(true)?;
    let directory = metadata
        .get("target_directory")
        .and_then(serde_json::Value::as_str);
    Ok(PathBuf::from(
        directory.context("cargo metadata names no target directory")?,
    ))
}

/// The names of the workspace's packages.
pub(crate) fn members() -> Result<Vec<String>> {
    let metadata = metadata(true)?;
    let packages = metadata
        .get("packages")
        .and_then(serde_json::Value::as_array)
        .context("no packages")?;
    let names = packages
        .iter()
        .filter_map(|package| package.get("name")?.as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Makes the generated code of the monitor's protocol anew, by `capnp` of the package capnproto.
pub(crate) fn generate() -> Result<()> {
    let words = [
        "test",
        "--package",
        "pod-monitor-schema",
        "--test",
        "generated",
        "--",
        "--ignored",
        "rewrite",
    ];
    run(command("cargo").args(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_with_a_dynamic_linker_are_not_static() {
        for (program, expect) in [("/bin/busybox", true), ("/bin/sh", false)] {
            assert_eq!(
                is_static(&std::fs::read(program).unwrap()),
                expect,
                "{program}"
            );
        }
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(b"\x7fELF\x02\x01"));
    }
}
