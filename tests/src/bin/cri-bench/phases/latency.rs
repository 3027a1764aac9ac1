//! How long each call of a pod's life takes, one at a time.

use anyhow::{Result, ensure};

use super::{Bench, Stopwatch};
use crate::report::Runtime;
use crate::target::{Network, sleeper};

/// `true` is run so often in each container.
const EXECS: usize = 3;
/// A CNI chain takes so long that fewer rounds must do.
const CNI_SHARE: usize = 2;

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    let rounds = bench.plan.rounds;
    let mut watch = Stopwatch::new(bench.target.daemon);
    for round in 0..rounds {
        bench.progress.show("latency", round, rounds);
        life(bench, &mut watch).await?;
        if round % CNI_SHARE == 0 {
            with_network(bench, &mut watch).await?;
        }
    }
    runtime.latencies = watch.series;
    Ok(())
}

/// A pod on the host's network with every call that a container sees.
async fn life(bench: &Bench<'_>, watch: &mut Stopwatch) -> Result<()> {
    let client = &bench.client;
    let config = bench.target.pod(Network::Host);
    std::fs::create_dir_all(&config.log_directory)?;
    let pod = watch
        .time("RunPodSandbox, host network", client.run_pod(&config))
        .await?;
    let mut containers = Vec::new();
    for number in 0..bench.plan.containers {
        let create = client.create(&pod, &config, sleeper(number));
        let id = watch.time("CreateContainer", create).await?;
        watch.time("StartContainer", client.start(&id)).await?;
        containers.push(id);
    }
    if let Some(id) = containers.first() {
        for _round in 0..EXECS {
            let exec = client.exec(id, &["/bin/true"], 10);
            let answer = watch.time("ExecSync of true", exec).await?;
            ensure!(answer.exit_code == 0, "true has failed");
        }
        watch.time("StopContainer", client.stop(id, 0)).await?;
        watch.time("RemoveContainer", client.remove(id)).await?;
    }
    let left = containers.len().saturating_sub(1);
    let what = format!("StopPodSandbox, {left} running");
    watch.time(&what, client.stop_pod(&pod)).await?;
    let what = "RemovePodSandbox, host network";
    Ok(watch.time(what, client.remove_pod(&pod)).await?)
}

/// A pod with an address and all containers running when it is stopped.
async fn with_network(bench: &Bench<'_>, watch: &mut Stopwatch) -> Result<()> {
    let client = &bench.client;
    let config = bench.target.pod(Network::Cni);
    std::fs::create_dir_all(&config.log_directory)?;
    let pod = watch
        .time("RunPodSandbox, CNI", client.run_pod(&config))
        .await?;
    for number in 0..bench.plan.containers {
        client.launch(&pod, &config, sleeper(number)).await?;
    }
    let what = format!("StopPodSandbox, CNI, {} running", bench.plan.containers);
    watch.time(&what, client.stop_pod(&pod)).await?;
    let what = "RemovePodSandbox, CNI";
    Ok(watch.time(what, client.remove_pod(&pod)).await?)
}
