//! How fast a container can log, with every line counted, and what it costs the runtime.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use husk_tests::{container, cri, wait_for};

use super::Bench;
use crate::meter;
use crate::report::{Logs, Runtime};
use crate::target::Network;

/// Bytes of a line, its end included.
const LINE: usize = 128;
/// Lines in the file that is written again and again.
const BLOCK: usize = 8192;
/// Asking more often would be felt in the daemon's CPU time; the log's own time stamps say how long it took.
const GLANCE: Duration = Duration::from_millis(200);
/// Enough for the slowest runtime on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    if bench.plan.log == 0 {
        return Ok(());
    }
    bench.progress.show("log throughput", 0, 1);
    let mut pod = bench.pod(Network::Host, 0).await?;
    // One MB is a block: 8192 lines of 128 bytes.
    let script = format!(
        "yes {} | head -n {BLOCK} > /tmp/block; n={}; l=; while [ $n -gt 0 ]; do l=\"$l /tmp/block\"; n=$((n-1)); done; \
         exec cat $l",
        "x".repeat(LINE - 1),
        bench.plan.log
    );
    let config = container("logger", &script);
    let id = bench.client.create(&pod.id, &pod.config, config).await?;
    pod.containers.push(id.clone());
    let ids: Vec<_> = pod.ids().collect();
    let others = meter::runtime_processes(&bench.target, &ids);
    let others: Vec<_> = others.iter().map(|it| it.pid).collect();
    let cpu = meter::cpu_of(&others) + meter::cpu(bench.target.daemon);
    bench.client.start(&id).await?;
    let status = wait_for("the end of the logging container", LIMIT, async || {
        tokio::time::sleep(GLANCE).await;
        let status = bench.client.container_status(&id).await.ok()?;
        (status.state() == cri::ContainerState::ContainerExited).then_some(status)
    });
    let status = status.await?;
    let cpu = meter::cpu_of(&others) + meter::cpu(bench.target.daemon) - cpu;
    let log = read(Path::new(&status.log_path))?;
    let expected = bench.plan.log * BLOCK;
    ensure!(
        log.lines == expected,
        "{} of {expected} lines are in the log",
        log.lines
    );
    let megabytes = f64::from(u32::try_from(bench.plan.log)?) * 1.048_576;
    runtime.logs = Some(Logs {
        megabytes_per_second: megabytes / log.seconds,
        cpu_seconds_per_gigabyte: cpu / megabytes,
        lines: log.lines,
    });
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    lines: usize,
    /// From the time stamp of the first line to that of the last.
    seconds: f64,
}

/// Counts the lines that are complete, however many pieces they were written in.
fn read(path: &Path) -> Result<Counted> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut line, mut lines, mut length) = (Vec::new(), 0, 0);
    let (mut first, mut last) = (Vec::new(), Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let time = words.next().unwrap_or_default();
        let (tag, text) = (words.nth(1), words.next().unwrap_or_default());
        let is_whole = tag == Some(b"F");
        // The line end of a piece is not the container's.
        length += text.len() - usize::from(!is_whole);
        if first.is_empty() {
            first.extend_from_slice(time);
        }
        if is_whole {
            ensure!(length == LINE, "line {lines} has {length} bytes");
            lines += 1;
            length = 0;
            time.clone_into(&mut last);
        }
        line.clear();
    }
    let seconds = (timestamp(&last)? - timestamp(&first)?).total(jiff::Unit::Second)?;
    Ok(Counted { lines, seconds })
}

fn timestamp(text: &[u8]) -> Result<jiff::Timestamp> {
    let text = String::from_utf8_lossy(text);
    text.parse()
        .with_context(|| format!("the time of a log line: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_line_and_a_short_line_is_an_error() {
        let text = "x".repeat(LINE - 3);
        let time = "2026-11-22T18:00:0";
        let log =
            format!("{time}0Z stdout P {text}\n{time}0Z stdout F xx\n{time}2Z stdout F {text}xx\n");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, log).unwrap();
        let counted = read(&path).unwrap();
        assert_eq!((counted.lines, counted.seconds), (2, 2.0));
        std::fs::write(&path, format!("{time}0Z stdout F xx\n")).unwrap();
        assert!(read(&path).is_err());
    }
}
