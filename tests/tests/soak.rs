//! The soak in continuous integration; `cargo run -p husk-tests --bin soak` is the long one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use husk_tests::{settings, soak};

/// How long it takes where `HUSK_SOAK_SECONDS` says nothing else.
const SECONDS: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_every_exit_and_everything_given_back_while_processes_are_killed() -> Result<()>
{
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let (seconds, seed) = settings::soak();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let plan = soak::Plan {
        seed: seed.unwrap_or(now.as_secs()),
        time: Duration::from_secs(seconds.unwrap_or(SECONDS)),
        clients: 4,
    };
    eprintln!("{plan:?}");
    let counts = soak::run(plan).await?;
    eprintln!("{counts:?}");
    for what in [
        "pods",
        "daemon killed",
        "monitor killed",
        "both killed",
        "program killed",
        "exec",
        "reopen",
    ] {
        ensure!(
            counts.get(what).is_some_and(|it| *it > 0),
            "no {what}: {counts:?}"
        );
    }
    Ok(())
}
