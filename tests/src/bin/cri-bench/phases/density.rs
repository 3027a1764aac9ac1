//! What grows with the number of pods: memory, the cost of calls, idling, restart. Pods are added step by step.

use anyhow::Result;
use husk_tests::process::Process;

use super::rates::{Many, bring_up};
use super::{Bench, calls, idle, restart};
use crate::meter;
use crate::report::{Runtime, Step};

/// Pods are made so many at a time; more would measure the machine.
const CLIENTS: usize = 4;

pub(super) async fn measure(bench: &mut Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    let mut ids = Vec::new();
    let mut containers = 0;
    let empty = bench.daemon_pss();
    let available = meter::available()?;
    let mut there = 0;
    for count in bench.plan.pods.clone() {
        let what = format!("{count} pods");
        let many = Many {
            network: bench.plan.network,
            count: count - there,
            clients: CLIENTS,
        };
        for pod in bring_up(bench, many, &what).await? {
            containers += pod.containers.len();
            ids.extend(pod.ids());
        }
        there = count;
        let processes = meter::runtime_processes(&bench.target, &ids);
        let mut step = Step {
            pods: count,
            containers,
            daemon_pss: bench.daemon_pss(),
            daemon_empty: empty,
            kinds: meter::by_name(&processes),
            available_per_pod: (available - meter::available()?) / i64::try_from(count)?,
            charge_per_pod: bench.charge().map(|charge| charge / count as u64),
            ..Step::default()
        };
        calls::measure(bench, &mut step, &pids(&processes)).await;
        step.daemon_after_calls = bench.daemon_pss();
        if Some(&count) == bench.plan.pods.last() && !bench.plan.idle.is_zero() {
            runtime.idle = Some(idle::measure(bench, &pids(&processes)).await);
        }
        let restart = restart::measure(bench, there, containers).await;
        runtime.steps.push(step);
        if let Some(step) = runtime.steps.last_mut() {
            step.restart = Some(restart?);
        }
    }
    Ok(())
}

fn pids(processes: &[Process]) -> Vec<u32> {
    processes.iter().map(|process| process.pid).collect()
}
