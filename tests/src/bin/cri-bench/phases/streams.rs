//! How fast the output of exec and attach reaches a client, and what it costs the runtime.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, ensure};
use husk_tests::{container, cri, websocket};

use super::{Bench, Made};
use crate::meter;
use crate::report::{Runtime, Throughput};
use crate::target::Network;

const MEGABYTE: usize = 1 << 20;

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    if bench.plan.log == 0 {
        return Ok(());
    }
    bench.progress.show("exec and attach", 0, 2);
    let mut pod = bench.pod(Network::Host, 0).await?;
    // Without a log, so that only the stream is measured.
    let mut config = container("talker", "read -r _go; exec cat /dev/zero");
    config.log_path.clear();
    config.stdin = true;
    let id = bench.client.launch(&pod.id, &pod.config, config).await?;
    pod.containers.push(id.clone());
    let mut service = bench.client.runtime.clone();
    let exec = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["/bin/cat".to_owned(), "/dev/zero".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let url = service.exec(exec).await?.into_inner().url;
    let stream = websocket::open(Some(bench.target.daemon), &url)?;
    runtime
        .streams
        .push(throughput(bench, &pod, "exec", stream).await?);
    bench.progress.show("exec and attach", 1, 2);
    let attach = cri::AttachRequest {
        container_id: id,
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let url = service.attach(attach).await?.into_inner().url;
    let mut stream = websocket::open(Some(bench.target.daemon), &url)?;
    websocket::send(&mut stream, b"go\n")?;
    runtime
        .streams
        .push(throughput(bench, &pod, "attach", stream).await?);
    Ok(())
}

/// Reads as much as is logged elsewhere. The stream is endless, and ends with its connection.
async fn throughput(
    bench: &Bench<'_>,
    pod: &Made,
    what: &str,
    mut stream: TcpStream,
) -> Result<Throughput> {
    let ids: Vec<_> = pod.ids().collect();
    let mut pids: Vec<_> = meter::runtime_processes(&bench.target, &ids)
        .iter()
        .filter(|process| process.name != "cat")
        .map(|process| process.pid)
        .collect();
    pids.push(bench.target.daemon);
    let wanted = bench.plan.log * MEGABYTE;
    let work = move || -> Result<(f64, f64)> {
        let mut buffer = vec![0; MEGABYTE];
        // The first bytes take as long as a program takes to start.
        let mut first = stream.read(&mut buffer)?;
        let (began, cpu) = (Instant::now(), meter::cpu_of(&pids));
        let mut total = 0;
        while total < wanted {
            ensure!(first > 0, "the stream has ended after {total} bytes");
            first = stream.read(&mut buffer)?;
            total += first;
        }
        Ok((began.elapsed().as_secs_f64(), meter::cpu_of(&pids) - cpu))
    };
    let (seconds, cpu) = tokio::task::spawn_blocking(work).await??;
    let megabytes = f64::from(u32::try_from(bench.plan.log)?) * 1.048_576;
    Ok(Throughput {
        what: what.to_owned(),
        megabytes_per_second: megabytes / seconds,
        cpu_seconds_per_gigabyte: cpu / megabytes,
    })
}
