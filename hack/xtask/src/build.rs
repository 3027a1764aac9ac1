//! Building the two programs: `husk`, and `pod-monitor` alone, so that no other crate's features leak into it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::packages;
use crate::shell::{command, output, run, say};

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) husk: PathBuf,
    pub(crate) monitor: PathBuf,
}

/// Builds both programs and says where they are and which libc the monitor got.
pub(crate) fn build(release: bool) -> Result<Programs> {
    let target = target_directory()?;
    let (profile, directory) = if release {
        ("release", "release")
    } else {
        ("dev", "debug")
    };
    run(command("cargo").args([
        "build",
        "--package",
        "husk",
        "--bin",
        "husk",
        "--profile",
        profile,
    ]))?;
    let (triple, libc) = monitor_target();
    let mut build = command("cargo");
    build.args([
        "build",
        "--package",
        "pod-monitor",
        "--profile",
        "monitor",
        "--target",
        &triple,
    ]);
    build.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );
    run(&mut build)?;
    let programs = Programs {
        husk: target.join(directory).join("husk"),
        monitor: target.join(&triple).join("monitor/pod-monitor"),
    };
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

/// Makes the generated code of the monitor's protocol anew, from the schema where `capnp` is installed.
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
