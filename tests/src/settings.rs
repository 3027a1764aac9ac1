//! What the harness takes from its environment, read here and nowhere else.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

#[expect(
    clippy::disallowed_methods,
    reason = "this is the harness's one place that reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `HUSK_TEST_ENDPOINT`: the CRI socket of a runtime that runs already and is to be tested instead of Husk.
pub fn endpoint() -> Option<PathBuf> {
    let value = variable("HUSK_TEST_ENDPOINT")?;
    Some(PathBuf::from(
        value.strip_prefix("unix://").unwrap_or(&value),
    ))
}

/// Whether another endpoint than Husk's own is tested. The calling test is skipped then, and says why in the file that
/// `HUSK_TEST_SKIPS` names: what it is about is Husk's own daemon, and no rule of the CRI.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn skips(reason: &str) -> bool {
    let skips = endpoint().is_some();
    if skips {
        eprintln!("skipped, as it needs Husk's own daemon: {reason}");
        if let Some(file) = variable("HUSK_TEST_SKIPS") {
            note(Path::new(&file), reason);
        }
    }
    skips
}

/// Adds the running test, by whose name its thread goes, to a file. In one write: other tests do the same.
fn note(file: &Path, reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}\t{reason}\n", thread.name().unwrap_or_default());
    let open = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file);
    let written = open.and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "{}: {written:?}", file.display());
}

/// `HUSK_TEST_PID`: a process in whose network namespace that runtime lives; this one's where it is not set.
pub fn endpoint_pid() -> Option<u32> {
    variable("HUSK_TEST_PID")?.parse().ok()
}

/// `HUSK_TEST_IMPORT`: the command that loads a docker-archive into that runtime; the file's name is appended.
pub fn import_command() -> Option<Vec<String>> {
    Some(
        variable("HUSK_TEST_IMPORT")?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    )
}

/// `HUSK_TEST_KEEP`: leave the directory of a node in place, for a look by hand.
pub fn keep() -> bool {
    variable("HUSK_TEST_KEEP").is_some()
}

/// `HUSK_TEST_PATIENCE`: how many times longer every wait may take, for machines that are emulated; 1 by default.
pub fn patience() -> u32 {
    variable("HUSK_TEST_PATIENCE")
        .and_then(|value| value.parse().ok())
        .unwrap_or(1)
}

/// `HUSK_TEST_CRIU`: CRIU works with this kernel, so that a checkpoint must be made and restored.
pub fn has_criu() -> bool {
    variable("HUSK_TEST_CRIU").is_some()
}

/// `HUSK_TEST_CGROUP_DRIVER`: `systemd` or `cgroupfs` for every node; what Husk finds by itself where it is not set.
pub fn cgroup_driver() -> Option<String> {
    variable("HUSK_TEST_CGROUP_DRIVER")
}

/// Whether the `husk` under test is the one that is shipped: what it costs is promised for no other build.
pub fn is_release() -> Result<bool> {
    let directory = husk()?.parent().map(Path::to_path_buf);
    Ok(directory.is_some_and(|directory| directory.ends_with("release")))
}

/// The `husk` program: `HUSK_BIN`, or the one that was built with the profile of this very program, so that what
/// measures in release never measures a daemon made for tests.
pub fn husk() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let profile = if own.starts_with(target_directory()?.join("release")) {
        "release/husk"
    } else {
        "debug/husk"
    };
    program("HUSK_BIN", &[profile])
}

/// The `pod-monitor` program: `POD_MONITOR_BIN`, or the newest one that `cargo xtask build` made.
pub fn pod_monitor() -> Result<PathBuf> {
    program(
        "POD_MONITOR_BIN",
        &[
            "x86_64-unknown-linux-musl/monitor/pod-monitor",
            "x86_64-unknown-linux-gnu/monitor/pod-monitor",
            "aarch64-unknown-linux-musl/monitor/pod-monitor",
            "aarch64-unknown-linux-gnu/monitor/pod-monitor",
        ],
    )
}

/// The directory with the programs `kubelet` and `client`: `HUSK_TEST_KUBELET`, or where `cargo xtask kubelet` puts them.
pub fn kubelet() -> Result<PathBuf> {
    let place = match variable("HUSK_TEST_KUBELET") {
        Some(path) => PathBuf::from(path),
        None => target_directory()?.join("kubelet"),
    };
    if !place.join("kubelet").exists() {
        bail!(
            "{} has no kubelet: run cargo xtask kubelet",
            place.display()
        );
    }
    Ok(place)
}

/// An NRI plugin with upstream's client code, which does what its configuration says.
pub fn nri_plugin() -> Result<PathBuf> {
    of_module("nri-plugin")
}

/// A current runc, for what the packaged ones cannot do yet. It refuses seccomp profiles.
pub fn current_runc() -> Result<PathBuf> {
    of_module("oci/runc")
}

/// What `cargo xtask` builds from a Go module before it runs suites.
fn of_module(name: &str) -> Result<PathBuf> {
    let path = target_directory()?.join(name);
    if !path.exists() {
        bail!("there is no {}: run cargo xtask test", path.display());
    }
    Ok(path)
}

/// The `pod-monitor` program with a feature for suites, which is beside the other: `faults` has fault points,
/// `first-version` speaks the first version of the protocol.
pub fn pod_monitor_with(feature: &str) -> Result<PathBuf> {
    let beside = pod_monitor()?.with_file_name(format!("pod-monitor-{feature}"));
    anyhow::ensure!(
        beside.exists(),
        "there is no {}: run cargo xtask build",
        beside.display()
    );
    Ok(beside)
}

/// `HUSK_SOAK_SECONDS` and `HUSK_SOAK_SEED`: how long the soak takes, and which one it is.
pub fn soak() -> (Option<u64>, Option<u64>) {
    let number = |name| variable(name)?.parse().ok();
    (number("HUSK_SOAK_SECONDS"), number("HUSK_SOAK_SEED"))
}

/// `HUSK_TEST_SESSIONS`: how many exec and attach sessions a daemon must forget; fewer by default than by hand.
pub fn sessions() -> usize {
    let wanted = variable("HUSK_TEST_SESSIONS").and_then(|value| value.parse().ok());
    wanted.unwrap_or(1000)
}

/// Where cargo puts what it builds, found from this very program, which lies there too.
pub fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let found = own
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").exists());
    found
        .map(Path::to_path_buf)
        .context("this program does not lie in a cargo target directory")
}

fn program(name: &str, places: &[&str]) -> Result<PathBuf> {
    if let Some(path) = variable(name) {
        return Ok(PathBuf::from(path));
    }
    let target = target_directory()?;
    let newest = places
        .iter()
        .map(|place| target.join(place))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => bail!(
            "{name} is not set and {} has none of {places:?}: run cargo xtask build",
            target.display()
        ),
    }
}
