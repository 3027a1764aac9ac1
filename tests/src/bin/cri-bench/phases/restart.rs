//! From the kill of a daemon to its first complete answer.

use std::time::Duration;

use anyhow::Result;
use husk_tests::wait_for;

use super::Bench;
use crate::meter;
use crate::report::Restart;

/// A daemon may read its state for so long.
const LIMIT: Duration = Duration::from_secs(60);

/// Kills the daemon and waits until it lists everything as running again.
pub(super) async fn measure(
    bench: &mut Bench<'_>,
    pods: usize,
    containers: usize,
) -> Result<Restart> {
    bench.progress.show("restart", 0, 1);
    let answers = bench.target.crash().await?;
    bench.client = bench.target.client().await?;
    let client = &bench.client;
    wait_for("all pods and containers are listed", LIMIT, async || {
        let listed = client.pods(None).await.ok()?.len();
        let running = client.containers(None).await.ok()?;
        (listed >= pods && running.len() >= containers).then_some(())
    })
    .await?;
    Ok(Restart {
        ready_ms: answers.as_secs_f64() * 1e3,
        cpu_ms: meter::cpu(bench.target.daemon),
        daemon_pss: bench.daemon_pss(),
    })
}
