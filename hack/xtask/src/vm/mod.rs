//! `cargo xtask vm`: suites in a throw-away virtual machine that is set up as production is: a stock Debian kernel,
//! the unified cgroup hierarchy, systemd as the first process, every capability.
//!
//! - [`image`] makes the root file system and its kernel once, from Debian packages.
//! - [`machine`] boots it with directories of this machine shared and brings a script's output and exit status back.
//! - `guest/` has what runs inside.
//!
//! Nothing that the machine writes to its disk is kept. Where the processor cannot virtualize, the machine is emulated
//! and five to ten times slower: the harness waits that much longer, told so by `HUSK_TEST_PATIENCE`.
//! Deliberately absent: which suites there are, and compiling inside.

mod image;
mod machine;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{build, target_directory};
use crate::shell::{command, output, root, say};
use crate::{kubelet, modules, packages};
use machine::Machine;

/// A kubelet insists on this controller below its root cgroup. systemd does not know it: elsewhere the first
/// container's OCI runtime has handed it down, and here the kubelet comes first.
const KUBELETS_CONTROLLER: &str = "all=/sys/fs/cgroup/cgroup.subtree_control\n\
                                   if [ -e $all ]; then echo +hugetlb >$all; fi\n";

/// What to run in the machine, and how large that is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Suites of tests/tests and pod-monitor/tests; all of them when none is named
    suites: Vec<String>,
    /// A command to run instead of suites, by a shell, with HUSK_BIN and POD_MONITOR_BIN set
    #[arg(long, conflicts_with = "suites")]
    command: Option<String>,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// The cgroup driver of the nodes, instead of what they find by themselves: systemd or cgroupfs
    #[arg(long)]
    cgroup_driver: Option<String>,
    /// More words for the kernel's command line, such as systemd.unified_cgroup_hierarchy=0
    #[arg(long, default_value_t)]
    kernel: String,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// The machine is ended after this many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// How many times longer the harness waits for a state
    #[arg(long, default_value_t = 8)]
    patience: u32,
}

/// Builds the programs and suites here and runs them there.
pub(crate) fn vm(options: &Options) -> Result<()> {
    packages::install_for_vm()?;
    let target = target_directory()?;
    let image = image::ready(&target.join("vm"))?;
    let programs = build(false)?;
    let mut script = format!(
        "export HUSK_BIN={} POD_MONITOR_BIN={} HUSK_TEST_PATIENCE={} HUSK_TEST_CRIU=works\n",
        programs.husk.display(),
        programs.monitor.display(),
        options.patience
    );
    if let Some(driver) = &options.cgroup_driver {
        writeln!(script, "export HUSK_TEST_CGROUP_DRIVER={driver}")?;
    }
    match &options.command {
        Some(words) => script.push_str(words),
        None => script.push_str(&run_suites(options)?),
    }
    let mut shares = vec![root().canonicalize().context("find the checkout")?];
    if !target.starts_with(&shares[0]) {
        shares.push(target.clone());
    }
    let machine = Machine {
        image: &image,
        shares: &shares,
        memory: options.memory,
        minutes: options.minutes,
        kernel: &options.kernel,
    };
    match machine.run(&target.join("vm"), &script)? {
        0 => Ok(()),
        status => bail!("in the virtual machine: exit status {status}"),
    }
}

/// Shell text that runs every suite, whatever became of the one before, and tells at the end which failed.
fn run_suites(options: &Options) -> Result<String> {
    let wanted = |suites: &[&str]| {
        let named = |name: &String| suites.contains(&name.as_str());
        options.suites.is_empty() || options.suites.iter().any(named)
    };
    if wanted(&modules::SUITES) {
        modules::build()?;
    }
    let mut script = "failed=\n".to_owned();
    if wanted(&[kubelet::SUITE]) {
        let program = kubelet::build()?;
        writeln!(script, "export HUSK_TEST_KUBELET={}", program.display())?;
        script.push_str(KUBELETS_CONTROLLER);
    }
    let filter = options.filter.as_deref().unwrap_or_default();
    for (name, program) in built_suites(&options.suites)? {
        say(&format!("suite {name}: {}", program.display()));
        writeln!(
            script,
            "echo '=== {name}'; {} {filter} {} || failed=\"$failed {name}\"",
            program.display(),
            at_once(&name)
        )?;
    }
    script.push_str("echo \"=== failed suites:${failed:- none}\"; [ -z \"$failed\" ]\n");
    Ok(script)
}

/// How many tests run side by side where that is not the number of processors: a kubelet's scenarios mostly wait.
fn at_once(suite: &str) -> &'static str {
    if suite == kubelet::SUITE {
        "--test-threads=6"
    } else {
        ""
    }
}

/// The suites' programs by name, in the order of their names.
fn built_suites(names: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut compile = command("cargo");
    compile.args([
        "test",
        "--package",
        "husk-tests",
        "--package",
        "pod-monitor",
        "--no-run",
    ]);
    compile.arg("--message-format=json-render-diagnostics");
    if names.is_empty() {
        compile.arg("--tests");
    }
    for name in names {
        compile.args(["--test", name]);
    }
    let messages = output(&mut compile)?;
    let mut suites: Vec<_> = messages.lines().filter_map(suite).collect();
    suites.sort();
    Ok(suites)
}

/// The name and program in one of cargo's messages, where it is about a suite.
fn suite(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_test = target
        .get("kind")?
        .as_array()?
        .iter()
        .any(|it| it == "test");
    let program = Path::new(message.get("executable")?.as_str()?);
    let name = target.get("name")?.as_str()?;
    is_test.then(|| (name.to_owned(), program.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_cargos_messages_only_suites_count() {
        let artifact = |kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"pods"}},"executable":{executable}}}"#
            )
        };
        let pods = Some(("pods".to_owned(), PathBuf::from("/t/pods-1")));
        for (message, expected) in [
            (artifact("test", r#""/t/pods-1""#), pods),
            (artifact("test", "null"), None),
            (artifact("bin", r#""/t/pods""#), None),
            (r#"{"reason":"build-finished","success":true}"#.into(), None),
        ] {
            assert_eq!(suite(&message), expected, "{message}");
        }
    }
}
