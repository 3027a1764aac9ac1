//! Memory per pod against the number of containers in it.

use anyhow::Result;

use super::Bench;
use crate::meter;
use crate::report::{Runtime, Spread};
use crate::target::Network;

const PODS: usize = 5;

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    for containers in &bench.plan.spread {
        let mut ids = Vec::new();
        let mut pods = Vec::new();
        for number in 0..PODS {
            bench
                .progress
                .show("memory by number of containers", number, PODS);
            let pod = bench.pod(Network::Host, *containers).await?;
            ids.extend(pod.ids());
            pods.push(pod);
        }
        let processes = meter::runtime_processes(&bench.target, &ids);
        let kinds = meter::by_name(&processes);
        let private: u64 = kinds.values().map(|kind| kind.memory.private).sum();
        runtime.spread.push(Spread {
            containers: *containers,
            private: private / u64::try_from(PODS)?,
        });
        for pod in pods {
            bench.client.delete_pod(&pod.id).await?;
        }
    }
    Ok(())
}
