//! Metrics in the CRI's messages (KEP-2371): a table of names, each with how its value is found. Pure.
//!
//! Names and extra labels are cAdvisor's, so that what reads a kubelet's metrics finds them again.
//! `name` is the container's id, as cAdvisor has it; its label `id`, a cgroup path, is left out: it
//! would be a third of an answer that has to fit one message. Values are whole numbers by the CRI's
//! definition, also those in seconds.
//!
//! The table never changes while the process lives. A value that the kernel does not tell (pressure
//! and much of huge pages on cgroup version 1, devices without any transfer) is left out.

mod encode;

use husk_cri_api::v1;
use prost::bytes::Bytes;

use crate::stats::{ContainerUsage, Details, FileSystem, PodUsage, Pressure};
use crate::store::v1::{ContainerState, PodRecord};
use encode::Metrics;
use v1::MetricType::{self, Counter, Gauge};

const BASE_LABELS: [&str; 5] = ["container", "image", "name", "namespace", "pod"];
const SECOND: u64 = 1_000_000_000;
/// What a cgroup has where nothing was asked for: the kernel's own defaults.
const DEFAULT_CPU_PERIOD: u64 = 100_000;
const DEFAULT_CPU_SHARES: u64 = 1024;

/// Is told values, each with its extra labels.
type Tell<'a> = dyn FnMut(u64, &[&str]) + 'a;

/// How a value is found.
enum Source {
    Container(fn(&Sample<'_>) -> Option<u64>),
    Labelled(&'static [&'static str], fn(&Sample<'_>, &mut Tell<'_>)),
    Network(fn(&crate::stats::Interface) -> u64),
    Pod(fn(&PodRecord) -> u64),
}

struct Row {
    name: &'static str,
    kind: MetricType,
    source: Source,
    help: &'static str,
}

/// What a container's values are found in.
struct Sample<'a> {
    container: &'a ContainerUsage,
    details: &'a Details,
    resources: v1::LinuxContainerResources,
    disk: &'a FileSystem,
}

const fn row(
    name: &'static str,
    kind: MetricType,
    source: fn(&Sample<'_>) -> Option<u64>,
    help: &'static str,
) -> Row {
    Row {
        name,
        kind,
        source: Source::Container(source),
        help,
    }
}

const fn labelled(
    (name, kind): (&'static str, MetricType),
    labels: &'static [&'static str],
    source: fn(&Sample<'_>, &mut Tell<'_>),
    help: &'static str,
) -> Row {
    Row {
        name,
        kind,
        source: Source::Labelled(labels, source),
        help,
    }
}

const fn of_network(
    name: &'static str,
    source: fn(&crate::stats::Interface) -> u64,
    help: &'static str,
) -> Row {
    Row {
        name,
        kind: Counter,
        source: Source::Network(source),
        help,
    }
}

const fn of_pod(name: &'static str, source: fn(&PodRecord) -> u64, help: &'static str) -> Row {
    Row {
        name,
        kind: Counter,
        source: Source::Pod(source),
        help,
    }
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    labelled(("container_blkio_device_usage_total", Counter), &["device", "major", "minor", "operation"], device_usage, "Bytes transferred by block device and operation."),
    row("container_cpu_cfs_periods_total", Counter, |s| Some(s.details.periods), "Periods of the CPU quota that have passed."),
    row("container_cpu_cfs_throttled_periods_total", Counter, |s| Some(s.details.throttled_periods), "Periods in which the CPU quota was used up."),
    row("container_cpu_cfs_throttled_seconds_total", Counter, |s| Some(s.details.throttled / SECOND), "Time for which the container was held back by its CPU quota."),
    row("container_cpu_system_seconds_total", Counter, |s| Some(s.details.cpu_system / SECOND), "CPU time in the kernel."),
    labelled(("container_cpu_usage_seconds_total", Counter), &["cpu"], cpu_usage, "CPU time."),
    row("container_cpu_user_seconds_total", Counter, |s| Some(s.details.cpu_user / SECOND), "CPU time in user space."),
    row("container_file_descriptors", Gauge, |s| Some(s.details.descriptors), "Open files of all processes."),
    labelled(("container_fs_inodes_free", Gauge), &["device"], |s, tell| disk(s, s.disk.inodes_free, tell), "Files that the file system of the writable layer has room for."),
    labelled(("container_fs_inodes_total", Gauge), &["device"], |s, tell| disk(s, s.disk.inodes, tell), "Files that the file system of the writable layer can hold."),
    labelled(("container_fs_limit_bytes", Gauge), &["device"], |s, tell| disk(s, s.disk.bytes, tell), "Size of the file system of the writable layer."),
    labelled(("container_fs_reads_bytes_total", Counter), &["device"], |s, tell| devices(s, |io| io.read_bytes, tell), "Bytes read from block devices."),
    labelled(("container_fs_reads_total", Counter), &["device"], |s, tell| devices(s, |io| io.reads, tell), "Reads from block devices."),
    labelled(("container_fs_usage_bytes", Gauge), &["device"], written, "Bytes written to the root file system."),
    labelled(("container_fs_writes_bytes_total", Counter), &["device"], |s, tell| devices(s, |io| io.written_bytes, tell), "Bytes written to block devices."),
    labelled(("container_fs_writes_total", Counter), &["device"], |s, tell| devices(s, |io| io.writes, tell), "Writes to block devices."),
    labelled(("container_hugetlb_max_usage_bytes", Gauge), &["pagesize"], |s, tell| huge_pages(s, |it| it.peak, tell), "The most huge pages that were ever used."),
    labelled(("container_hugetlb_usage_bytes", Gauge), &["pagesize"], |s, tell| huge_pages(s, |it| Some(it.usage), tell), "Huge pages in use."),
    row("container_last_seen", Gauge, |s| Some(unsigned(s.container.usage.at) / SECOND), "When the container was last measured, in seconds since 1970."),
    row("container_log_lost_bytes_total", Counter, |s| Some(s.details.log_lost), "Bytes of output that could not be written to the log."),
    row("container_memory_cache", Gauge, |s| Some(s.details.cache), "Bytes of file cache."),
    row("container_memory_failcnt", Counter, |s| Some(s.details.limit_hits), "How often the memory limit was hit."),
    labelled(("container_memory_failures_total", Counter), &["failure_type", "scope"], faults, "Page faults."),
    row("container_memory_kernel_usage", Gauge, |s| Some(s.details.kernel), "Bytes of kernel memory."),
    row("container_memory_mapped_file", Gauge, |s| Some(s.details.mapped_file), "Bytes of mapped files."),
    row("container_memory_max_usage_bytes", Gauge, |s| Some(s.details.peak), "The most memory that was ever used."),
    row("container_memory_rss", Gauge, |s| s.container.usage.memory.map(|it| it.anonymous), "Bytes of anonymous memory."),
    row("container_memory_swap", Gauge, |s| Some(s.container.usage.swap.unwrap_or_default()), "Bytes in swap."),
    row("container_memory_total_active_file_bytes", Gauge, |s| Some(s.details.active_file), "Bytes of file cache that was used of late."),
    row("container_memory_total_inactive_file_bytes", Gauge, |s| Some(s.details.inactive_file), "Bytes of file cache that is easy to reclaim."),
    row("container_memory_usage_bytes", Gauge, |s| s.container.usage.memory.map(|it| it.usage), "Bytes of memory of all kinds."),
    row("container_memory_working_set_bytes", Gauge, |s| s.container.usage.memory.map(|it| it.working_set), "Bytes of memory without what is easy to reclaim."),
    of_pod("container_monitor_restarts_total", |it| it.monitor_restarts.into(), "How often the pod was given to another monitor because its own had died."),
    of_network("container_network_receive_bytes_total", |it| it.received.bytes, "Bytes received."),
    of_network("container_network_receive_errors_total", |it| it.received.errors, "Broken packets received."),
    of_network("container_network_receive_packets_dropped_total", |it| it.received.dropped, "Packets thrown away at reception."),
    of_network("container_network_receive_packets_total", |it| it.received.packets, "Packets received."),
    of_network("container_network_transmit_bytes_total", |it| it.sent.bytes, "Bytes sent."),
    of_network("container_network_transmit_errors_total", |it| it.sent.errors, "Packets that could not be sent."),
    of_network("container_network_transmit_packets_dropped_total", |it| it.sent.dropped, "Packets thrown away at sending."),
    of_network("container_network_transmit_packets_total", |it| it.sent.packets, "Packets sent."),
    row("container_oom_events_total", Counter, |s| Some(s.details.oom_kills), "Processes killed for want of memory."),
    row("container_pressure_cpu_stalled_seconds_total", Counter, |s| stalled(s.container.usage.cpu?.pressure), "Time for which all tasks waited for the CPU."),
    row("container_pressure_cpu_waiting_seconds_total", Counter, |s| waiting(s.container.usage.cpu?.pressure), "Time for which a task waited for the CPU."),
    row("container_pressure_io_stalled_seconds_total", Counter, |s| stalled(s.container.usage.io_pressure), "Time for which all tasks waited for block devices."),
    row("container_pressure_io_waiting_seconds_total", Counter, |s| waiting(s.container.usage.io_pressure), "Time for which a task waited for block devices."),
    row("container_pressure_memory_stalled_seconds_total", Counter, |s| stalled(s.container.usage.memory?.pressure), "Time for which all tasks waited for memory."),
    row("container_pressure_memory_waiting_seconds_total", Counter, |s| waiting(s.container.usage.memory?.pressure), "Time for which a task waited for memory."),
    row("container_processes", Gauge, |s| Some(s.details.processes), "Processes."),
    row("container_sockets", Gauge, |s| Some(s.details.sockets), "Open sockets of all processes."),
    row("container_spec_cpu_period", Gauge, |s| Some(given(s.resources.cpu_period).unwrap_or(DEFAULT_CPU_PERIOD)), "Period of the CPU quota, in microseconds."),
    row("container_spec_cpu_quota", Gauge, |s| given(s.resources.cpu_quota), "CPU time per period, in microseconds; absent without a quota."),
    row("container_spec_cpu_shares", Gauge, |s| Some(given(s.resources.cpu_shares).unwrap_or(DEFAULT_CPU_SHARES)), "Share of the CPU, relative to other containers."),
    row("container_spec_memory_limit_bytes", Gauge, |s| Some(unsigned(s.resources.memory_limit_in_bytes)), "Memory limit; 0 is none."),
    row("container_spec_memory_reservation_limit_bytes", Gauge, |s| Some(reservation(&s.resources)), "Memory that reclaim spares; 0 is none."),
    row("container_spec_memory_swap_limit_bytes", Gauge, |s| Some(unsigned(s.resources.memory_swap_limit_in_bytes)), "Limit of memory and swap together; 0 is none."),
    row("container_start_time_seconds", Gauge, |s| Some(started(s) / SECOND), "When the container started, in seconds since 1970."),
    row("container_threads", Gauge, |s| Some(s.container.usage.tasks.unwrap_or_default()), "Processes and threads."),
    row("container_threads_max", Gauge, |s| Some(s.details.tasks_limit), "Limit of processes and threads; 0 is none."),
    labelled(("container_ulimits_soft", Gauge), &["ulimit"], ulimits, "Soft limits of the first process."),
];

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn given(value: i64) -> Option<u64> {
    Some(unsigned(value)).filter(|value| *value > 0)
}

fn stalled(pressure: Option<Pressure>) -> Option<u64> {
    pressure.map(|it| it.full.total / SECOND)
}

fn waiting(pressure: Option<Pressure>) -> Option<u64> {
    pressure.map(|it| it.some.total / SECOND)
}

/// The kubelet asks for it on version 2 only, by the file that has it there.
fn reservation(resources: &v1::LinuxContainerResources) -> u64 {
    let low = resources.unified.get("memory.low");
    low.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn started(sample: &Sample<'_>) -> u64 {
    let record = &sample.container.record;
    unsigned(match record.state() {
        ContainerState::Running(running) => running.started_at,
        ContainerState::Created(_) | ContainerState::Exited(_) => record.created_at,
    })
}

fn cpu_usage(sample: &Sample<'_>, tell: &mut Tell<'_>) {
    if let Some(cpu) = sample.container.usage.cpu {
        tell(cpu.total / SECOND, &["total"]);
    }
}

fn faults(sample: &Sample<'_>, tell: &mut Tell<'_>) {
    if let Some(memory) = sample.container.usage.memory {
        tell(memory.page_faults, &["pgfault", "hierarchy"]);
        tell(memory.major_page_faults, &["pgmajfault", "hierarchy"]);
    }
}

fn written(sample: &Sample<'_>, tell: &mut Tell<'_>) {
    if let Some(written) = sample.container.written {
        disk(sample, written.usage.bytes, tell);
    }
}

fn disk(sample: &Sample<'_>, value: u64, tell: &mut Tell<'_>) {
    tell(value, &[&sample.disk.device]);
}

fn devices(sample: &Sample<'_>, value: fn(&crate::stats::DeviceIo) -> u64, tell: &mut Tell<'_>) {
    for (name, io) in &sample.details.devices {
        tell(value(io), &[name]);
    }
}

fn device_usage(sample: &Sample<'_>, tell: &mut Tell<'_>) {
    for (name, io) in &sample.details.devices {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
            tell(bytes, &[name, &major, &minor, operation]);
        }
    }
}

fn huge_pages(
    sample: &Sample<'_>,
    value: fn(&crate::stats::HugePages) -> Option<u64>,
    tell: &mut Tell<'_>,
) {
    for pages in &sample.details.huge_pages {
        if let Some(value) = value(pages) {
            tell(value, &[&pages.size]);
        }
    }
}

fn ulimits(sample: &Sample<'_>, tell: &mut Tell<'_>) {
    if let Some(limit) = sample.details.descriptors_limit {
        tell(limit, &["max_open_files"]);
    }
}

/// Every metric that may be told.
pub(super) fn descriptors() -> Vec<v1::MetricDescriptor> {
    let descriptor = |row: &Row| {
        let extra: &[&str] = match row.source {
            Source::Container(_) | Source::Pod(_) => &[],
            Source::Labelled(labels, _) => labels,
            Source::Network(_) => &["interface"],
        };
        let keys = BASE_LABELS.iter().chain(extra);
        v1::MetricDescriptor {
            name: row.name.to_owned(),
            help: row.help.to_owned(),
            label_keys: keys.map(|key| (*key).to_owned()).collect(),
        }
    };
    TABLE.iter().map(descriptor).collect()
}

/// The metrics of a pod and its containers: a `PodSandboxMetrics`, encoded.
pub(super) fn pod(measured: &PodUsage, disk: &FileSystem) -> Bytes {
    let config = measured.pod.record.config();
    let mut message = of_itself(measured, &config);
    for container in &measured.containers {
        if let Some(metrics) = container_metrics(&config, container, disk) {
            encode::message(3, &metrics, &mut message);
        }
    }
    message.into()
}

/// The first labels of every value.
fn base<'a>(
    pod: &'a v1::PodSandboxConfig,
    container: &'a str,
    image: &'a str,
    name: &'a str,
) -> [&'a str; 5] {
    let metadata = pod.metadata.as_ref();
    let of = |field: fn(&v1::PodSandboxMetadata) -> &String| metadata.map_or("", |it| field(it));
    [
        container,
        image,
        name,
        of(|it| &it.namespace),
        of(|it| &it.name),
    ]
}

/// The pod's id and the metrics that are of no single container.
fn of_itself(pod: &PodUsage, config: &v1::PodSandboxConfig) -> Vec<u8> {
    let record = &pod.pod.record;
    let mut begin = Vec::new();
    encode::text(1, &record.id, &mut begin);
    let base = base(config, "", "", &record.id);
    // Known rather than measured: without a time a value is that of the moment in which it is asked for.
    let mut metrics = Metrics::new(2, 0, &base, begin);
    for row in TABLE {
        if let Source::Pod(source) = row.source {
            metrics.add(row.name, row.kind, source(record), &[]);
        }
    }
    let Some(network) = &pod.network else {
        return metrics.done();
    };
    let mut metrics = Metrics::new(2, network.at, &base, metrics.done());
    for row in TABLE {
        let Source::Network(source) = row.source else {
            continue;
        };
        for interface in &network.interfaces {
            metrics.add(row.name, row.kind, source(interface), &[&interface.name]);
        }
    }
    metrics.done()
}

/// A `ContainerMetrics`, encoded; none of a container that ended meanwhile.
fn container_metrics(
    pod: &v1::PodSandboxConfig,
    measured: &ContainerUsage,
    disk: &FileSystem,
) -> Option<Vec<u8>> {
    let (record, config) = (&measured.record, measured.record.config());
    let metadata = config.metadata.as_ref();
    let linux = config.linux.as_ref();
    let sample = Sample {
        container: measured,
        details: measured.details.as_ref()?,
        resources: linux
            .and_then(|it| it.resources.clone())
            .unwrap_or_default(),
        disk,
    };
    let mut begin = Vec::new();
    encode::text(1, &record.id, &mut begin);
    let name = metadata.map_or("", |it| &it.name);
    let base = base(pod, name, image(&config), &record.id);
    let mut metrics = Metrics::new(2, measured.usage.at, &base, begin);
    for row in TABLE {
        match row.source {
            Source::Container(source) => {
                if let Some(value) = source(&sample) {
                    metrics.add(row.name, row.kind, value, &[]);
                }
            }
            Source::Labelled(_, source) => source(&sample, &mut |value, labels| {
                metrics.add(row.name, row.kind, value, labels);
            }),
            Source::Network(_) | Source::Pod(_) => {}
        }
    }
    Some(metrics.done())
}

/// The image as its user named it, which is also the short form.
fn image(config: &v1::ContainerConfig) -> &str {
    let spec = config.image.as_ref();
    spec.map_or("", |spec| match spec.user_specified_image.as_str() {
        "" => &spec.image,
        name => name,
    })
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
