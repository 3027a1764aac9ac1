//! What a relist and each call for statistics costs: time, and CPU time of the daemon and of what it keeps per pod.

use std::time::Instant;

use husk_tests::cri;
use tonic::Status;

use super::{Bench, is_absent};
use crate::meter;
use crate::report::{Series, Step};

/// Calls slower than this altogether are made less often.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Call {
    Relist,
    ContainerStats,
    PodStats,
    PodMetrics,
    Statuses,
}

impl Call {
    const ALL: [Self; 5] = [
        Self::Relist,
        Self::Statuses,
        Self::ContainerStats,
        Self::PodStats,
        Self::PodMetrics,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Relist => "relist",
            Self::Statuses => "status of a pod and its containers",
            Self::ContainerStats => "ListContainerStats",
            Self::PodStats => "ListPodSandboxStats",
            Self::PodMetrics => "ListPodSandboxMetrics",
        }
    }

    /// Makes the call and tells how many things it answered with.
    async fn make(self, bench: &Bench<'_>) -> Result<usize, Status> {
        let mut runtime = bench.client.runtime.clone();
        match self {
            Self::Relist => {
                let pods = bench.client.pods(None).await?;
                Ok(pods.len() + bench.client.containers(None).await?.len())
            }
            Self::Statuses => statuses(bench).await,
            Self::ContainerStats => {
                let request = cri::ListContainerStatsRequest::default();
                let answer = runtime.list_container_stats(request).await?;
                Ok(answer.into_inner().stats.len())
            }
            Self::PodStats => {
                let request = cri::ListPodSandboxStatsRequest::default();
                let answer = runtime.list_pod_sandbox_stats(request).await?;
                Ok(answer.into_inner().stats.len())
            }
            Self::PodMetrics => {
                let request = cri::ListPodSandboxMetricsRequest::default();
                let answer = runtime.list_pod_sandbox_metrics(request).await?;
                Ok(answer.into_inner().items.len())
            }
        }
    }
}

/// What a kubelet asks when it works on one pod.
async fn statuses(bench: &Bench<'_>) -> Result<usize, Status> {
    let pods = bench.client.pods(None).await?;
    let Some(pod) = pods.first() else {
        return Ok(0);
    };
    bench.client.pod_status(&pod.id).await?;
    let filter = cri::ContainerFilter {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    };
    let containers = bench.client.containers(Some(filter)).await?;
    for container in &containers {
        bench.client.container_status(&container.id).await?;
    }
    Ok(1 + containers.len())
}

/// Files the cost of every call in `step`; `others` are the runtime processes beside the daemon.
pub(super) async fn measure(bench: &Bench<'_>, step: &mut Step, others: &[u32]) {
    for (index, call) in Call::ALL.into_iter().enumerate() {
        let part = format!("calls at {} pods", step.pods);
        bench.progress.show(&part, index, Call::ALL.len());
        match series(bench, call, others).await {
            Ok(series) => step.calls.push(series),
            Err(status) if is_absent(&status) => {
                step.missing
                    .push(format!("{}: not implemented", call.name()));
            }
            Err(status) => step
                .missing
                .push(format!("{}: {}", call.name(), status.message())),
        }
    }
}

async fn series(bench: &Bench<'_>, call: Call, others: &[u32]) -> Result<Series, Status> {
    let mut series = Series::new(call.name());
    // The first call is not counted, because it may fill caches.
    series.answers = call.make(bench).await?;
    let others_before = meter::cpu_of(others);
    let begin = Instant::now();
    while series.samples.len() < bench.plan.calls
        && (series.samples.len() < 3 || begin.elapsed() < PATIENCE)
    {
        let (cpu, began) = (meter::cpu(bench.target.daemon), Instant::now());
        call.make(bench).await?;
        series.add(began.elapsed(), meter::cpu(bench.target.daemon) - cpu);
    }
    let rounds = u32::try_from(series.samples.len()).unwrap_or(1);
    series.others_cpu = (meter::cpu_of(others) - others_before) / f64::from(rounds);
    Ok(series)
}
