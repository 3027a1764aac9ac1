//! Measures what a CRI runtime costs: memory, processes, CPU time and latency, at N pods of M containers.
//!
//! Every runtime is measured by the same client, one after the other in one run: a Husk that is started for it, and
//! any endpoint that runs already. Absolute times move with the machine, so the table sets peers in relation to Husk.
//!
//! - [`target`] is a runtime under measurement; [`phases`] are what is measured, each without knowledge of the others.
//! - [`meter`] reads `/proc`; [`report`] holds the results and writes the table, the JSON and the plots.
//!
//! Deliberately absent: budgets, which `tests/budgets.rs` holds, and the peers, which `hack/bench-peers` starts.

mod meter;
mod phases;
mod progress;
mod report;
mod target;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::phases::Plan;
use crate::progress::Progress;
use crate::report::{Machine, Report};
use crate::target::{Endpoint, Target};

/// Measures CRI runtimes: a Husk started for it, and endpoints that run already.
#[derive(Debug, Parser)]
#[command(name = "cri-bench")]
struct Arguments {
    /// A runtime that runs already, as NAME=SOCKET; may be repeated
    #[arg(long = "endpoint", value_name = "NAME=SOCKET")]
    endpoints: Vec<Endpoint>,
    /// How images are loaded into it, as NAME=COMMAND; the file is appended to the command
    #[arg(long = "import", value_name = "NAME=COMMAND", value_parser = pair)]
    imports: Vec<(String, String)>,
    /// The OCI runtime that Husk uses: crun, runc, or auto
    #[arg(long, default_value = "auto")]
    oci_runtime: String,
    /// Measure the endpoints alone
    #[arg(long, requires = "endpoints")]
    no_husk: bool,
    /// How many pods; several numbers are steps, at each of which everything that grows is measured
    #[arg(long, default_value = "30", value_delimiter = ',')]
    pods: Vec<usize>,
    /// How many containers in each pod
    #[arg(long, default_value_t = 3)]
    containers: usize,
    /// Pods with these numbers of containers are compared for their memory
    #[arg(long, default_value = "1,2,3,5", value_delimiter = ',')]
    spread: Vec<usize>,
    /// How often each latency is measured
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// How often each call for lists and statistics is made
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// How many seconds nothing is asked; 0 leaves it out
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// How many MB a container logs; 0 leaves it out
    #[arg(long, default_value_t = 256)]
    log: usize,
    /// On which network the pods are at which everything that grows is measured
    #[arg(long, value_enum, default_value_t = target::Network::Host)]
    network: target::Network,
    /// Only these parts of the measurement
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<phases::Part>,
    /// Where report.md, report.json and the plots are written
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.pods.is_sorted() && !arguments.pods.is_empty(),
        "the numbers of pods must rise"
    );
    let plan = plan(&arguments);
    let mut report = Report {
        machine: Machine::here(),
        runtimes: Vec::new(),
    };
    for endpoint in sources(&arguments)? {
        let name = endpoint
            .as_ref()
            .map_or("husk", |it| it.name.as_str())
            .to_owned();
        let progress = Progress::new(&name);
        let target = Target::open(endpoint, &arguments.oci_runtime)
            .await
            .with_context(|| format!("open {name}"))?;
        report
            .runtimes
            .push(phases::measure(target, &plan, &progress).await);
        // A run takes long enough that what is done must not be lost when the rest is broken off.
        if let Some(directory) = &arguments.out {
            report.write(directory)?;
        }
    }
    say(&report.table());
    Ok(())
}

fn plan(arguments: &Arguments) -> Plan {
    Plan {
        pods: arguments.pods.clone(),
        containers: arguments.containers,
        spread: arguments.spread.clone(),
        rounds: arguments.rounds,
        calls: arguments.calls,
        idle: std::time::Duration::from_secs(arguments.idle),
        log: arguments.log,
        only: arguments.only.clone(),
        network: arguments.network,
        oci_runtime: oci_runtime(&arguments.oci_runtime),
    }
}

/// The OCI runtime that the floors are measured with.
fn oci_runtime(name: &str) -> String {
    if name == "auto" { "crun" } else { name }.to_owned()
}

/// What is measured, in order; nothing stands for a Husk of our own.
fn sources(arguments: &Arguments) -> Result<Vec<Option<Endpoint>>> {
    let mut sources = Vec::new();
    if !arguments.no_husk {
        sources.push(None);
    }
    for endpoint in &arguments.endpoints {
        let import = arguments
            .imports
            .iter()
            .find(|(name, _command)| *name == endpoint.name);
        let (_name, command) = import.with_context(|| {
            format!("--import {}=COMMAND says how images get in", endpoint.name)
        })?;
        sources.push(Some(Endpoint {
            import: command.split_whitespace().map(str::to_owned).collect(),
            ..endpoint.clone()
        }));
    }
    Ok(sources)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("NAME=VALUE is wanted".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

#[expect(
    clippy::print_stdout,
    reason = "a command line program talks to its terminal"
)]
fn say(text: &str) {
    println!("{text}");
}
