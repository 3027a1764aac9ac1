//! From the end of a container's process to the moment when a client knows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use husk_tests::wait::{DEADLINE, wait_for};
use husk_tests::{container, cri};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Bench, is_absent};
use crate::meter;
use crate::report::{Runtime, Series};
use crate::target::Network;

/// Where there are no events, the status is asked for this often.
const GLANCE: Duration = Duration::from_micros(500);

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    let request = cri::GetEventsRequest::default();
    let mut runtime_service = bench.client.runtime.clone();
    let mut events = match runtime_service.get_container_events(request).await {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) if is_absent(&status) => None,
        Err(status) => return Err(status.into()),
    };
    let what = match &events {
        Some(_) => "exit → event",
        None => "exit → status (no events)",
    };
    let mut series = Series::new(what);
    let pod = bench.pod(Network::Host, 0).await?;
    for round in 0..bench.plan.rounds {
        bench.progress.show("exits", round, bench.plan.rounds);
        let (id, pid) = victim(bench, &pod, round).await?;
        let (cpu, began) = (meter::cpu(bench.target.daemon), Instant::now());
        kill(pid, Signal::SIGKILL)?;
        match &mut events {
            Some(events) => stopped(events, &id).await?,
            None => exited(bench, &id).await?,
        }
        series.add(began.elapsed(), meter::cpu(bench.target.daemon) - cpu);
        bench.client.remove(&id).await?;
    }
    runtime.exits = Some(series);
    Ok(())
}

/// A new container and its process, which `marker` makes known.
async fn victim(bench: &Bench<'_>, pod: &super::Made, round: usize) -> Result<(String, Pid)> {
    let marker = format!("{}", 41_536_000 + round);
    let config = container(&format!("exit{round}"), &format!("exec sleep {marker}"));
    let id = bench.client.launch(&pod.id, &pod.config, config).await?;
    let process = wait_for("the container's process", DEADLINE, async || {
        meter::workload(&marker)
    })
    .await?;
    Ok((id, Pid::from_raw(i32::try_from(process.pid)?)))
}

async fn stopped(
    events: &mut tonic::Streaming<cri::ContainerEventResponse>,
    id: &str,
) -> Result<()> {
    loop {
        let next = tokio::time::timeout(DEADLINE, events.message()).await;
        let event = next.context("no event came")??;
        let event = event.context("the stream of events has ended")?;
        let is_stop =
            event.container_event_type() == cri::ContainerEventType::ContainerStoppedEvent;
        if is_stop && event.container_id == id {
            return Ok(());
        }
    }
}

async fn exited(bench: &Bench<'_>, id: &str) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let status = bench.client.container_status(id).await?;
        if status.state() == cri::ContainerState::ContainerExited {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "the exit of {id} was never seen");
        tokio::time::sleep(GLANCE).await;
    }
}
