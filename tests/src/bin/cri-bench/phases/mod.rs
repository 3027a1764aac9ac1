//! What is measured, part by part. A part that a runtime cannot do is left out and named; the others go on.

mod calls;
mod density;
mod exits;
mod floors;
mod idle;
mod latency;
mod logs;
mod rates;
mod restart;
mod spread;
mod streams;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use husk_tests::Client;
use husk_tests::cri;
use tonic::Code;

use crate::meter;
use crate::progress::Progress;
use crate::report::{Runtime, Series};
use crate::target::{Network, Target, sleeper};

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) pods: Vec<usize>,
    pub(crate) containers: usize,
    pub(crate) spread: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) calls: usize,
    pub(crate) idle: Duration,
    /// MB of log lines.
    pub(crate) log: usize,
    pub(crate) only: Vec<Part>,
    /// Where the pods of the density part are.
    pub(crate) network: Network,
    pub(crate) oci_runtime: String,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What the OCI runtime and the CNI plugins take by themselves
    Floors,
    Latency,
    Rates,
    Spread,
    /// Memory, the cost of calls, idling and restart, at each number of pods
    Density,
    Exits,
    Logs,
    /// Throughput of exec and attach
    Streams,
}

/// A runtime with everything that the parts need.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) target: Target,
    pub(crate) client: Client,
    pub(crate) plan: &'a Plan,
    pub(crate) progress: &'a Progress,
}

/// A pod that was made for measuring.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) containers: Vec<String>,
}

impl Made {
    /// The pod's id and those of its containers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(&self.id).chain(&self.containers).cloned()
    }
}

/// Measures everything in the plan. A failure is a line in the result.
pub(crate) async fn measure(target: Target, plan: &Plan, progress: &Progress) -> Runtime {
    let mut runtime = Runtime::new(&target.name);
    if let Err(error) = run(target, plan, progress, &mut runtime).await {
        runtime.missing(&format!("stopped: {error:#}"));
    }
    runtime
}

async fn run(
    target: Target,
    plan: &Plan,
    progress: &Progress,
    runtime: &mut Runtime,
) -> Result<()> {
    let client = target.client().await?;
    runtime.version = meter::version(&client.version().await?);
    let mut bench = Bench {
        target,
        client,
        plan,
        progress,
    };
    runtime.daemon_at_start = bench.daemon_pss();
    bench.warm_up().await.context("warm up")?;
    runtime.daemon_warm = bench.daemon_pss();
    for part in Part::value_variants() {
        if !plan.only.is_empty() && !plan.only.contains(part) {
            continue;
        }
        if let Err(error) = measure_part(&mut bench, *part, runtime).await {
            runtime.missing(&format!("{part:?}: {error:#}"));
        }
        bench.clear().await.context("remove the pods")?;
    }
    Ok(())
}

async fn measure_part(bench: &mut Bench<'_>, part: Part, runtime: &mut Runtime) -> Result<()> {
    match part {
        Part::Floors => floors::measure(bench, runtime).await,
        Part::Latency => latency::measure(bench, runtime).await,
        Part::Rates => rates::measure(bench, runtime).await,
        Part::Spread => spread::measure(bench, runtime).await,
        Part::Density => density::measure(bench, runtime).await,
        Part::Exits => exits::measure(bench, runtime).await,
        Part::Logs => logs::measure(bench, runtime).await,
        Part::Streams => streams::measure(bench, runtime).await,
    }
}

impl Bench<'_> {
    /// One pod on each network, so that nothing that is made only once is counted.
    async fn warm_up(&self) -> Result<()> {
        self.progress.show("warm up", 0, 1);
        for network in [Network::Host, Network::Cni] {
            let made = self.pod(network, 1).await?;
            self.client.delete_pod(&made.id).await?;
        }
        Ok(())
    }

    /// A pod with running containers.
    pub(crate) async fn pod(&self, network: Network, containers: usize) -> Result<Made> {
        let config = self.target.pod(network);
        fs::create_dir_all(&config.log_directory)?;
        let id = self.client.run_pod(&config).await?;
        let mut made = Made {
            id,
            config,
            containers: Vec::new(),
        };
        for number in 0..containers {
            let container = self
                .client
                .launch(&made.id, &made.config, sleeper(number))
                .await?;
            made.containers.push(container);
        }
        Ok(made)
    }

    /// Removes every pod of ours, also those that a part left when it failed.
    async fn clear(&self) -> Result<()> {
        let parent = self.target.cgroup();
        for pod in self.client.pods(None).await? {
            let uid = pod.metadata.unwrap_or_default().uid;
            if uid.starts_with(&parent) {
                self.client.delete_pod(&pod.id).await?;
            }
        }
        Ok(())
    }

    /// What the kernel charges the pods' cgroup for, in KB: the workload's memory, that of the runtime's processes in
    /// it, and what the kernel keeps for both. Nothing where it is not accounted.
    pub(crate) fn charge(&self) -> Option<u64> {
        let places = [("memory", "memory.usage_in_bytes"), ("", "memory.current")];
        let read = |(root, file): (&str, &str)| {
            let top = Path::new("/sys/fs/cgroup")
                .join(root)
                .join(self.target.cgroup());
            let pods = fs::read_dir(top).ok()?.flatten().map(|entry| entry.path());
            // The harness keeps the daemon of its own node beside the pods.
            let charges: Vec<u64> = pods
                .filter(|path| path.is_dir() && !path.ends_with("daemon"))
                .filter_map(|path| {
                    fs::read_to_string(path.join(file))
                        .ok()?
                        .trim()
                        .parse()
                        .ok()
                })
                .collect();
            (!charges.is_empty()).then(|| charges.iter().sum::<u64>() / 1024)
        };
        places.into_iter().find_map(read)
    }

    /// The daemon's PSS in KB.
    pub(crate) fn daemon_pss(&self) -> u64 {
        meter::Memory::of(self.target.daemon).map_or(0, |memory| memory.pss)
    }
}

/// Times calls, with the daemon's CPU time of each.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    daemon: u32,
    pub(crate) series: Vec<Series>,
}

impl Stopwatch {
    pub(crate) fn new(daemon: u32) -> Self {
        Self {
            daemon,
            series: Vec::new(),
        }
    }

    /// Waits for `call` and files its time under `what`.
    pub(crate) async fn time<T, E>(
        &mut self,
        what: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let (cpu, began) = (meter::cpu(self.daemon), Instant::now());
        let answer = call.await?;
        let took = began.elapsed();
        let cpu = meter::cpu(self.daemon) - cpu;
        let known = self.series.iter().position(|it| it.what == what);
        let index = known.unwrap_or_else(|| {
            self.series.push(Series::new(what));
            self.series.len() - 1
        });
        self.series[index].add(took, cpu);
        Ok(answer)
    }
}

/// Whether a runtime has told that it lacks a call.
pub(crate) fn is_absent(status: &tonic::Status) -> bool {
    status.code() == Code::Unimplemented
}
