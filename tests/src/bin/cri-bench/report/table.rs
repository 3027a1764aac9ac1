//! The results as text: one row a figure, one column a runtime, peers with their relation to the first.

use std::collections::BTreeSet;

use super::{Report, Restart, Runtime, Series, Step, percentile};

/// One figure of one runtime.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// What else belongs to it, such as the spread of a time.
    detail: String,
}

fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row {
        what: what.into(),
        value,
        unit,
        detail: String::new(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes and counts are far below 2^53"
)]
fn float(value: impl TryInto<u64>) -> f64 {
    value.try_into().unwrap_or_default() as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no machine has 2^53 KB of memory"
)]
fn kilobytes(value: i64) -> f64 {
    value as f64
}

fn rows(runtime: &Runtime) -> Vec<Row> {
    let mut rows = vec![
        row("daemon PSS at start", float(runtime.daemon_at_start), "KB"),
        row(
            "daemon PSS after a first pod",
            float(runtime.daemon_warm),
            "KB",
        ),
    ];
    for step in &runtime.steps {
        rows.extend(memory(step));
    }
    for spread in &runtime.spread {
        let what = format!(
            "private memory of a pod with {} containers",
            spread.containers
        );
        rows.push(row(what, float(spread.private), "KB"));
    }
    rows.extend(runtime.floors.iter().map(time));
    rows.extend(runtime.latencies.iter().map(time));
    for rate in &runtime.rates {
        let what = format!("pods up per second, {} at a time", rate.clients);
        rows.push(row(what, rate.up, "/s"));
        let what = format!("pods removed per second, {} at a time", rate.clients);
        rows.push(row(what, rate.down, "/s"));
    }
    rows.extend(runtime.exits.iter().map(time));
    for step in &runtime.steps {
        rows.extend(step.calls.iter().flat_map(|call| costs(step, call)));
    }
    rows.extend(last(runtime));
    rows
}

/// Memory and processes at one number of pods.
fn memory(step: &Step) -> Vec<Row> {
    let (at, pods) = (format!(", {} pods", step.pods), float(step.pods));
    let growth = (float(step.daemon_pss) - float(step.daemon_empty)) / pods;
    let sum = |value: fn(&crate::meter::Kind) -> u64| {
        step.kinds
            .values()
            .map(|kind| float(value(kind)))
            .sum::<f64>()
            / pods
    };
    let names: Vec<_> = step
        .kinds
        .iter()
        .map(|(name, kind)| format!("{name} {}", number(float(kind.processes) / pods)))
        .collect();
    let mut processes = row(
        format!("processes per pod{at}"),
        sum(|kind| kind.processes as u64),
        "",
    );
    processes.detail = names.join(", ");
    let charge = step.charge_per_pod.map(|charge| {
        let what = format!("memory cgroup per pod, workload included{at}");
        row(what, float(charge), "KB")
    });
    let rows = vec![
        processes,
        row(
            format!("threads per pod{at}"),
            sum(|kind| kind.threads as u64),
            "",
        ),
        row(
            format!("private memory per pod{at}"),
            sum(|kind| kind.memory.private),
            "KB",
        ),
        row(
            format!("PSS per pod{at}"),
            sum(|kind| kind.memory.pss),
            "KB",
        ),
        row(
            format!("RSS per pod{at}"),
            sum(|kind| kind.memory.rss),
            "KB",
        ),
        row(format!("daemon PSS{at}"), float(step.daemon_pss), "KB"),
        row(format!("daemon growth per pod{at}"), growth, "KB"),
        row(
            format!("MemAvailable less per pod{at}"),
            kilobytes(step.available_per_pod),
            "KB",
        ),
    ];
    let after = step.daemon_after_calls.map(|after| {
        let what = format!("daemon PSS after the calls{at}");
        row(what, float(after), "KB")
    });
    rows.into_iter().chain(charge).chain(after).collect()
}

fn time(series: &Series) -> Row {
    let at = |percent| number(percentile(&series.samples, percent));
    let detail = format!(
        "{} to {}, p99 {}; daemon CPU {}",
        at(0),
        at(100),
        at(99),
        number(percentile(&series.daemon_cpu, 50))
    );
    Row {
        detail,
        ..row(series.what.clone(), percentile(&series.samples, 50), "ms")
    }
}

fn costs(step: &Step, call: &Series) -> Vec<Row> {
    let what = format!("{}, {} pods", call.what, step.pods);
    let cpu = row(
        format!("{what}, daemon CPU"),
        percentile(&call.daemon_cpu, 50),
        "ms",
    );
    let mut wall = row(format!("{what}, wall"), percentile(&call.samples, 50), "ms");
    wall.detail = format!(
        "{} answers, processes per pod {} ms CPU",
        call.answers,
        number(call.others_cpu)
    );
    vec![cpu, wall]
}

fn last(runtime: &Runtime) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(idle) = &runtime.idle {
        rows.push(row("idle daemon, CPU a minute", idle.daemon.cpu, "ms"));
        rows.push(row(
            "idle daemon, switches a minute",
            idle.daemon.switches,
            "",
        ));
        rows.push(row(
            "idle processes of pods, CPU a minute",
            idle.others.cpu,
            "ms",
        ));
        rows.push(row(
            "idle processes of pods, switches a minute",
            idle.others.switches,
            "",
        ));
    }
    if let Some(logs) = &runtime.logs {
        rows.push(row("log throughput", logs.megabytes_per_second, "MB/s"));
        rows.push(row("log, CPU per GB", logs.cpu_seconds_per_gigabyte, "s"));
    }
    for stream in &runtime.streams {
        let throughput = stream.megabytes_per_second;
        rows.push(row(
            format!("{} throughput", stream.what),
            throughput,
            "MB/s",
        ));
        let what = format!("{}, CPU per GB", stream.what);
        rows.push(row(what, stream.cpu_seconds_per_gigabyte, "s"));
    }
    let restarts = runtime.steps.iter();
    rows.extend(restarts.filter_map(|step| Some(ready(step.pods, step.restart.as_ref()?))));
    rows
}

fn ready(pods: usize, restart: &Restart) -> Row {
    let mut ready = row(
        format!("killed, ready again, {pods} pods"),
        restart.ready_ms,
        "ms",
    );
    ready.detail = format!(
        "{} ms of CPU, PSS {} KB",
        number(restart.cpu_ms),
        restart.daemon_pss
    );
    ready
}

/// A table with aligned columns.
pub(super) fn text(report: &Report) -> String {
    let cells = cells(report);
    let widths: Vec<_> = (0..cells[0].len())
        .map(|column| {
            let lengths = cells.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &cells {
        let padded: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text.push('\n');
    }
    text + &missing(report)
}

/// The report as a document.
pub(super) fn markdown(report: &Report, plots: &[String]) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "# Measured by cri-bench\n\n{}: {} processors ({}), {} MB of memory, Linux {}; {}.\n\nTimes are medians of \
         one run; behind them the least, the greatest, p99 and the daemon's CPU time. Absolute times move with the \
         machine; `×` is a peer's value divided by that of {}.\n\n",
        machine.date,
        machine.processors,
        machine.processor,
        machine.memory_kb / 1024,
        machine.kernel,
        machine.programs.join(", "),
        report.runtimes.first().map_or("none", |first| &first.name)
    );
    let mut cells = cells(report).into_iter();
    if let Some(head) = cells.next() {
        text += &format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    }
    for row in cells {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text += &missing(report);
    for plot in plots {
        text += &format!("\n![{}]({plot})\n", plot.trim_end_matches(".svg"));
    }
    text
}

fn missing(report: &Report) -> String {
    let mut text = String::new();
    for runtime in &report.runtimes {
        let steps = runtime.steps.iter().flat_map(|step| &step.missing);
        let lines: BTreeSet<_> = runtime.missing.iter().chain(steps).collect();
        for line in lines {
            text += &format!("\n- not measured of {}: {line}", runtime.name);
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn cells(report: &Report) -> Vec<Vec<String>> {
    let columns: Vec<_> = report.runtimes.iter().map(rows).collect();
    let mut head = vec![String::new()];
    head.extend(
        report
            .runtimes
            .iter()
            .map(|it| format!("{} ({})", it.name, it.version)),
    );
    let mut cells = vec![head];
    let mut seen = BTreeSet::new();
    for what in columns.iter().flatten().map(|row| &row.what) {
        if !seen.insert(what) {
            continue;
        }
        let found: Vec<_> = columns
            .iter()
            .map(|rows| rows.iter().find(|row| row.what == *what))
            .collect();
        let first = found.first().copied().flatten();
        let mut line = vec![what.clone()];
        line.extend(found.iter().enumerate().map(|(index, row)| {
            row.map_or("–".to_owned(), |row| {
                cell(row, first.filter(|_row| index > 0))
            })
        }));
        cells.push(line);
    }
    cells
}

fn cell(row: &Row, first: Option<&Row>) -> String {
    let mut text = format!("{} {}", number(row.value), row.unit)
        .trim()
        .to_owned();
    if let Some(first) = first.filter(|first| first.value > 0.0) {
        text += &format!(" ({}×)", number(row.value / first.value));
    }
    if !row.detail.is_empty() {
        text += &format!(" [{}]", row.detail);
    }
    text
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Logs, Machine};
    use super::*;

    fn runtime(name: &str, speed: f64) -> Runtime {
        Runtime {
            logs: Some(Logs {
                megabytes_per_second: speed,
                cpu_seconds_per_gigabyte: 1.0,
                lines: 1,
            }),
            ..Runtime::new(name)
        }
    }

    #[test]
    fn a_peer_is_set_in_relation_to_the_first() {
        let mut peer = runtime("peer", 50.0);
        peer.missing("stats");
        let report = Report {
            machine: Machine::here(),
            runtimes: vec![runtime("husk", 200.0), peer],
        };
        let text = text(&report);
        let line = text.lines().find(|line| line.starts_with("log throughput"));
        let words: Vec<_> = line.unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            ["log", "throughput", "200", "MB/s", "50", "MB/s", "(0.25×)"]
        );
        assert!(text.ends_with("- not measured of peer: stats\n"), "{text}");
        assert!(markdown(&report, &["a.svg".to_owned()]).contains("| log throughput | 200 MB/s |"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.126, "0.13"),
            (9.5, "9.5"),
            (12.34, "12.3"),
            (1234.5, "1234"),
            (100.0, "100"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
