//! The results: plain data that becomes a table, JSON and plots.

mod plots;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::meter::Kind;

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) runtimes: Vec<Runtime>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_kb: u64,
    pub(crate) date: String,
    /// Programs that all runtimes use, with their versions.
    pub(crate) programs: Vec<String>,
}

/// The results of one runtime; what is absent was not measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) version: String,
    /// PSS in KB before the first pod, and after one pod has come and gone.
    pub(crate) daemon_at_start: u64,
    pub(crate) daemon_warm: u64,
    pub(crate) latencies: Vec<Series>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) spread: Vec<Spread>,
    pub(crate) steps: Vec<Step>,
    pub(crate) idle: Option<Idle>,
    pub(crate) exits: Option<Series>,
    pub(crate) logs: Option<Logs>,
    pub(crate) streams: Vec<Throughput>,
    /// Own times of the programs that every runtime starts.
    pub(crate) floors: Vec<Series>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Runtime {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn missing(&mut self, what: &str) {
        self.missing.push(what.to_owned());
    }
}

/// Times of one kind of call.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Series {
    pub(crate) what: String,
    /// Milliseconds from the request to the answer, in the order of the calls.
    pub(crate) samples: Vec<f64>,
    /// The daemon's CPU time of each call, in milliseconds.
    pub(crate) daemon_cpu: Vec<f64>,
    /// CPU milliseconds of the processes per pod, a call.
    pub(crate) others_cpu: f64,
    /// How many things one call answered with.
    pub(crate) answers: usize,
}

impl Series {
    pub(crate) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, took: Duration, daemon_cpu: f64) {
        self.samples.push(took.as_secs_f64() * 1e3);
        self.daemon_cpu.push(daemon_cpu);
    }
}

/// The value below which `percent` of `samples` are; 0 of none.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
    sorted.get(index).copied().unwrap_or(0.0)
}

/// Pods a second.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) clients: usize,
    pub(crate) up: f64,
    pub(crate) down: f64,
}

/// Private memory per pod, in KB, with so many containers in each.
#[derive(Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) containers: usize,
    pub(crate) private: u64,
}

/// What was found at one number of pods; memory in KB.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Step {
    pub(crate) pods: usize,
    /// In all pods together.
    pub(crate) containers: usize,
    pub(crate) daemon_empty: u64,
    pub(crate) daemon_pss: u64,
    pub(crate) daemon_after_calls: Option<u64>,
    /// The processes of all pods, by name.
    pub(crate) kinds: BTreeMap<String, Kind>,
    pub(crate) available_per_pod: i64,
    /// What the kernel charges the pods' cgroup for, workload included, where it does.
    pub(crate) charge_per_pod: Option<u64>,
    pub(crate) restart: Option<Restart>,
    pub(crate) calls: Vec<Series>,
    pub(crate) missing: Vec<String>,
}

/// A minute of nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) daemon: Rest,
    /// The processes of all pods together.
    pub(crate) others: Rest,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rest {
    /// Milliseconds a minute.
    pub(crate) cpu: f64,
    /// Context switches a minute.
    pub(crate) switches: f64,
}

/// A daemon that was killed and came back.
#[derive(Debug, Serialize)]
pub(crate) struct Restart {
    pub(crate) ready_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) daemon_pss: u64,
}

/// One container that logs as fast as it can.
#[derive(Debug, Serialize)]
pub(crate) struct Logs {
    pub(crate) megabytes_per_second: f64,
    /// Of the runtime's processes, the container's own not included.
    pub(crate) cpu_seconds_per_gigabyte: f64,
    pub(crate) lines: usize,
}

/// A stream of exec or attach that is read as fast as it comes.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) what: String,
    pub(crate) megabytes_per_second: f64,
    /// Of the daemon and the processes per pod.
    pub(crate) cpu_seconds_per_gigabyte: f64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or(String::new(), |(_name, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_kb: memory.trim_end_matches(" kB").parse().unwrap_or_default(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            programs: ["crun", "runc"].into_iter().filter_map(program).collect(),
        }
    }
}

/// The first line of what a program says its version is; nothing where it is not installed.
fn program(name: &str) -> Option<String> {
    let text =
        husk_tests::command::output(husk_tests::command::command(name).arg("--version")).ok()?;
    text.lines().next().map(str::to_owned)
}

impl Report {
    /// For a terminal.
    pub(crate) fn table(&self) -> String {
        table::text(self)
    }

    /// Writes the report in all its forms into `directory`.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let mut files = plots::all(self);
        files.push((
            "report.json".to_owned(),
            serde_json::to_string_pretty(self)?,
        ));
        let plots: Vec<_> = files
            .iter()
            .map(|(name, _text)| name.clone())
            .filter(|name| name.ends_with(".svg"))
            .collect();
        files.push(("README.md".to_owned(), table::markdown(self, &plots)));
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<_> = (1..=100).rev().map(f64::from).collect();
        for (percent, expected) in [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)] {
            assert!(
                (percentile(&samples, percent) - expected).abs() < 0.01,
                "{percent}"
            );
        }
        assert!((percentile(&[4.0], 99) - 4.0).abs() < 0.01);
        assert!(percentile(&[], 50).abs() < 0.01);
    }
}
