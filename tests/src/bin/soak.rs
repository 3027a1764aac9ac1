//! A soak by hand: pod operations at random while processes are killed, for five minutes unless told otherwise.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use husk_tests::soak;

/// Do pod operations at random while the daemon, monitors, OCI runtimes and CNI plugins are killed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Which one; one like none before where it is left out.
    #[arg(long)]
    seed: Option<u64>,
    /// How many do it at the same time.
    #[arg(long, default_value_t = 4)]
    clients: u64,
}

#[tokio::main]
#[expect(
    clippy::print_stdout,
    reason = "a command line program talks to its terminal"
)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let plan = soak::Plan {
        seed: arguments.seed.unwrap_or(now.as_secs()),
        time: Duration::from_secs(arguments.seconds),
        clients: arguments.clients,
    };
    println!("{plan:?}");
    for (what, count) in soak::run(plan).await? {
        println!("{count:6} {what}");
    }
    Ok(())
}
