//! What the daemon and the processes per pod do while nobody asks for anything.

use std::time::{Duration, Instant};

use super::Bench;
use crate::meter;
use crate::report::{Idle, Rest};

/// The progress line moves so often; this program's own wake-ups are not counted.
const GLANCE: Duration = Duration::from_secs(1);
/// What the calls before have set in motion gets this long to end. A pool's idle threads often live 10 s.
const SETTLING: Duration = Duration::from_secs(12);

pub(super) async fn measure(bench: &Bench<'_>, others: &[u32]) -> Idle {
    tokio::time::sleep(SETTLING).await;
    let daemon = [bench.target.daemon];
    let before = (look(&daemon), look(others));
    let began = Instant::now();
    let whole = bench.plan.idle;
    let seconds = usize::try_from(whole.as_secs()).unwrap_or(usize::MAX);
    while began.elapsed() < whole {
        let done = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
        bench.progress.show("idle seconds", done, seconds);
        tokio::time::sleep(GLANCE.min(whole)).await;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    Idle {
        daemon: rate(before.0, look(&daemon), minutes),
        others: rate(before.1, look(others), minutes),
    }
}

fn look(pids: &[u32]) -> (f64, u64) {
    let switches = pids.iter().map(|pid| meter::switches(*pid)).sum();
    (meter::cpu_of(pids), switches)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nobody idles with more than 2^53 switches"
)]
fn rate(before: (f64, u64), after: (f64, u64), minutes: f64) -> Rest {
    Rest {
        cpu: (after.0 - before.0) / minutes,
        switches: after.1.saturating_sub(before.1) as f64 / minutes,
    }
}
