//! What grows with the number of pods: memory, the cost of calls, idling, restart.
//!
//! On the way up pods are added step by step and memory alone is looked at, so that every step is the growth of one
//! daemon that did nothing else. On the way down, at the same numbers, it is asked, left alone, and killed.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use husk_tests::process::Process;

use super::rates::{Many, bring_up};
use super::{Bench, Made, calls, idle, restart};
use crate::meter;
use crate::report::{Runtime, Step};

/// Pods are made and removed so many at a time; more would measure the machine.
const CLIENTS: usize = 4;

pub(super) async fn measure(bench: &mut Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    let mut pods = Vec::new();
    let empty = Empty {
        daemon: bench.daemon_pss(),
        available: meter::available()?,
    };
    for count in bench.plan.pods.clone() {
        let many = Many {
            network: bench.plan.network,
            count: count - pods.len(),
            clients: CLIENTS,
        };
        pods.extend(bring_up(bench, many, &format!("{count} pods")).await?);
        runtime.steps.push(look(bench, &empty, &pods)?);
    }
    for index in (0..runtime.steps.len()).rev() {
        let is_last = index + 1 == runtime.steps.len();
        let Some(step) = runtime.steps.get_mut(index) else {
            continue;
        };
        remove(bench, pods.split_off(step.pods)).await?;
        let others = pids(&processes(bench, &pods));
        calls::measure(bench, step, &others).await;
        step.daemon_after_calls = Some(bench.daemon_pss());
        if is_last && !bench.plan.idle.is_zero() {
            runtime.idle = Some(idle::measure(bench, &others).await);
        }
        step.restart = Some(restart::measure(bench, step.pods, step.containers).await?);
    }
    Ok(())
}

/// What there was before the first pod, in KB.
#[derive(Debug)]
struct Empty {
    daemon: u64,
    available: i64,
}

fn look(bench: &Bench<'_>, empty: &Empty, pods: &[Made]) -> Result<Step> {
    Ok(Step {
        pods: pods.len(),
        containers: pods.iter().map(|pod| pod.containers.len()).sum(),
        daemon_pss: bench.daemon_pss(),
        daemon_empty: empty.daemon,
        kinds: meter::by_name(&processes(bench, pods)),
        available_per_pod: (empty.available - meter::available()?) / i64::try_from(pods.len())?,
        charge_per_pod: bench.charge().map(|charge| charge / pods.len() as u64),
        ..Step::default()
    })
}

async fn remove(bench: &Bench<'_>, pods: Vec<Made>) -> Result<()> {
    let removals = pods.iter().map(|pod| bench.client.delete_pod(&pod.id));
    let removals = stream::iter(removals).buffer_unordered(CLIENTS);
    Ok(removals.try_collect().await?)
}

fn processes(bench: &Bench<'_>, pods: &[Made]) -> Vec<Process> {
    let ids: Vec<_> = pods.iter().flat_map(Made::ids).collect();
    meter::runtime_processes(&bench.target, &ids)
}

fn pids(processes: &[Process]) -> Vec<u32> {
    processes.iter().map(|process| process.pid).collect()
}
