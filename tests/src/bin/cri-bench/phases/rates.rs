//! How many pods a second come up with their containers, for one client and for several at once.

use std::time::Instant;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Bench, Made};
use crate::report::{Rate, Runtime};
use crate::target::Network;

const CLIENTS: [usize; 2] = [1, 8];
const PODS: usize = 16;

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    for clients in CLIENTS {
        let began = Instant::now();
        let many = Many {
            network: Network::Host,
            count: PODS,
            clients,
        };
        let pods = bring_up(bench, many, "pods per second").await?;
        let up = began.elapsed();
        let began = Instant::now();
        let removals = pods.iter().map(|pod| bench.client.delete_pod(&pod.id));
        stream::iter(removals)
            .buffer_unordered(clients)
            .try_collect::<Vec<()>>()
            .await?;
        let count = u32::try_from(PODS)?;
        runtime.rates.push(Rate {
            clients,
            up: f64::from(count) / up.as_secs_f64(),
            down: f64::from(count) / began.elapsed().as_secs_f64(),
        });
    }
    Ok(())
}

/// Pods to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Many {
    pub(super) network: Network,
    pub(super) count: usize,
    /// So many at a time.
    pub(super) clients: usize,
}

/// Makes pods.
pub(super) async fn bring_up(bench: &Bench<'_>, many: Many, part: &str) -> Result<Vec<Made>> {
    let Many {
        network,
        count,
        clients,
    } = many;
    let pods = (0..count).map(|_number| bench.pod(network, bench.plan.containers));
    let mut pods = stream::iter(pods).buffer_unordered(clients);
    let mut made = Vec::new();
    bench.progress.show(part, 0, count);
    while let Some(pod) = pods.next().await {
        made.push(pod?);
        bench.progress.show(part, made.len(), count);
    }
    Ok(made)
}
