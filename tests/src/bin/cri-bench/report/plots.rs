//! Which plots there are. One without points is not made.

use super::svg::{self, Bar, Line, Words};
use super::{Report, Runtime, Step, percentile};

/// File names and contents.
pub(super) fn all(report: &Report) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let spread = lines(report, |runtime| {
        let points = runtime.spread.iter();
        points
            .map(|it| (number(it.containers), kilobytes(it.private)))
            .collect()
    });
    let words = Words {
        title: "Private memory of the runtime's processes per pod",
        across: "containers in the pod",
        up: "KB",
    };
    files.extend(plot("memory-per-pod.svg", words, &spread));
    let daemon = lines(report, |runtime| {
        steps(runtime, |step| kilobytes(step.daemon_pss) / 1024.0)
    });
    let words = Words {
        title: "PSS of the daemon",
        across: "pods",
        up: "MB",
    };
    files.extend(plot("daemon-memory.svg", words, &daemon));
    let restart = lines(report, |runtime| {
        let ready = |step: &Step| Some((number(step.pods), step.restart.as_ref()?.ready_ms));
        runtime.steps.iter().filter_map(ready).collect()
    });
    let words = Words {
        title: "From the kill of the daemon to its first complete answer",
        across: "pods",
        up: "ms",
    };
    files.extend(plot("restart.svg", words, &restart));
    for call in calls(report) {
        let cost = lines(report, |runtime| cost(runtime, &call));
        let title = format!("{call}: CPU time of the daemon");
        let words = Words {
            title: &title,
            across: "pods",
            up: "ms",
        };
        files.extend(plot(&format!("cpu-{}.svg", file_name(&call)), words, &cost));
    }
    files.extend(latencies(report));
    files
}

fn plot(name: &str, words: Words<'_>, lines: &[Line]) -> Option<(String, String)> {
    (!lines.is_empty()).then(|| (name.to_owned(), svg::lines(words, lines)))
}

fn lines(report: &Report, points: impl Fn(&Runtime) -> Vec<(f64, f64)>) -> Vec<Line> {
    let lines = report.runtimes.iter().map(|runtime| Line {
        name: runtime.name.clone(),
        points: points(runtime),
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn steps(runtime: &Runtime, value: impl Fn(&Step) -> f64) -> Vec<(f64, f64)> {
    let steps = runtime.steps.iter();
    steps.map(|step| (number(step.pods), value(step))).collect()
}

fn calls(report: &Report) -> Vec<String> {
    let steps = report.runtimes.iter().flat_map(|runtime| &runtime.steps);
    let mut names: Vec<_> = steps
        .flat_map(|step| &step.calls)
        .map(|call| call.what.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn cost(runtime: &Runtime, call: &str) -> Vec<(f64, f64)> {
    let of_step = |step: &Step| {
        let series = step.calls.iter().find(|it| it.what == call)?;
        Some((number(step.pods), percentile(&series.daemon_cpu, 50)))
    };
    runtime.steps.iter().filter_map(of_step).collect()
}

fn latencies(report: &Report) -> Option<(String, String)> {
    let mut bars = Vec::new();
    for runtime in &report.runtimes {
        for series in &runtime.latencies {
            let call = series.what.split(", ").collect::<Vec<_>>();
            if call.last() == Some(&"CNI") || call.len() > 2 {
                continue;
            }
            bars.push(Bar {
                group: call[0].replace("Sandbox", "").replace(" of true", ""),
                name: runtime.name.clone(),
                least: percentile(&series.samples, 0),
                median: percentile(&series.samples, 50),
                greatest: percentile(&series.samples, 99),
            });
        }
    }
    let words = Words {
        title: "Latency on the host network: least, median, p99",
        across: "call",
        up: "ms",
    };
    (!bars.is_empty()).then(|| ("latencies.svg".to_owned(), svg::bars(words, &bars)))
}

fn file_name(call: &str) -> String {
    call.to_lowercase().replace(' ', "-")
}

fn number(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

fn kilobytes(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
