//! `cargo xtask`: the project's own commands. `cargo xtask test` is all that continuous integration runs.
//!
//! - [`packages`] installs what tests need, [`build`] makes the two programs, [`test`] runs everything.
//! - [`conformance`] runs the suites against another runtime.
//! - [`tidy`] holds the rules that no compiler checks: who may depend on whom, where unsafe code lives, licences.
//! - [`go`] finds a Go toolchain; [`kubelet`] makes a real kubelet with it, and [`modules`] what other suites run.
//! - [`vm`] runs suites where cgroup v2 and systemd are.
//! - [`fuzz`] feeds strange inputs to everything that reads what somebody else wrote.
//! - [`budgets`] keeps README's table equal to `tests/budgets.toml`.
//!
//! Deliberately absent: any part of the product, and any check that runs only in continuous integration.

mod budgets;
mod build;
mod conformance;
mod fuzz;
mod go;
mod kubelet;
mod modules;
mod packages;
mod shell;
mod suites;
mod test;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build husk and pod-monitor, and say where they are and with which libc
    Build {
        /// Build husk with the release profile; the monitor always has its own
        #[arg(long)]
        release: bool,
    },
    /// Install the Debian packages that tests need
    Packages {
        /// Only what a node needs to run pods
        #[arg(long)]
        node: bool,
    },
    /// Install what tests need, then check and test everything; continuous integration runs this
    Test {
        /// Only these suites of tests/tests, and nothing else
        suites: Vec<String>,
        /// With the husk that is shipped; that build takes minutes
        #[arg(long, requires = "suites")]
        release: bool,
        #[command(flatten)]
        peer: conformance::Peer,
    },
    /// Run suites in a virtual machine with cgroup v2 and systemd, which is made of Debian packages
    Vm(vm::Options),
    /// Build the kubelet that tests/tests/kubelet runs
    Kubelet,
    /// The same as test
    Ci,
    /// Fuzz what reads foreign input, with cargo-fuzz, which is installed where it is missing
    Fuzz {
        /// Only these targets of tests/fuzz
        targets: Vec<String>,
        /// For how long each is fuzzed
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Check the rules that no compiler knows
    Tidy,
    /// Compare README's table with tests/budgets.toml
    Budgets {
        /// Write the table into README instead
        #[arg(long)]
        write: bool,
    },
    /// Make the generated code of the monitor's protocol anew
    Generate,
    /// Run cargo-deny, which must be installed, over licences, duplicates, sources and advisories
    Deny,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Build { release } => build::build(release).map(|_programs| ()),
        Task::Packages { node: false } => packages::install(),
        Task::Packages { node: true } => packages::install_for_node(),
        Task::Test { suites, peer, .. } if peer.is_given() => peer.run(&suites),
        Task::Test { suites, .. } if suites.is_empty() => test::everything(),
        Task::Test {
            suites, release, ..
        } => test::suites(&suites, release),
        Task::Vm(options) => vm::vm(&options),
        Task::Kubelet => kubelet::build().map(|_program| ()),
        Task::Ci => test::everything(),
        Task::Fuzz { targets, seconds } => fuzz::fuzz(fuzz::Length::Seconds(seconds), &targets),
        Task::Tidy => tidy::tidy(),
        Task::Budgets { write } => budgets::readme(write),
        Task::Generate => build::generate(),
        Task::Deny => shell::cargo(&["deny", "check"]),
    }
}
