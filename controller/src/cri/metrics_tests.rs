use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;

use super::*;
use crate::stats::{
    Cpu, DeviceIo, HugePages, Interface, Memory, NetworkUsage, Psi, Usage, Written,
};
use crate::store::v1::{ContainerRecord, PodRecord, Running, pack};
use crate::view::{PodPhase, PodView};

/// The names of KEP-2371, in short: braces as a shell expands them.
const NAMES: &str = "blkio_device_usage_total cpu_{system,usage,user}_seconds_total \
cpu_cfs_{periods,throttled_periods,throttled_seconds}_total file_descriptors \
fs_{reads,writes}_total fs_{reads,writes}_bytes_total fs_usage_bytes fs_limit_bytes \
fs_inodes_free fs_inodes_total last_seen memory_cache memory_failcnt memory_failures_total \
memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap \
memory_usage_bytes memory_working_set_bytes memory_total_{active,inactive}_file_bytes \
oom_events_total processes sockets spec_cpu_period spec_cpu_shares spec_cpu_quota \
spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes \
start_time_seconds threads threads_max ulimits_soft hugetlb_usage_bytes \
hugetlb_max_usage_bytes pressure_{cpu,memory,io}_stalled_seconds_total \
pressure_{cpu,memory,io}_waiting_seconds_total network_{receive,transmit}_bytes_total \
network_{receive,transmit}_errors_total network_{receive,transmit}_packets_total \
network_{receive,transmit}_packets_dropped_total";

/// And ours: no name of the KEP's tells of these.
const OWN: [&str; 2] = ["log_lost_bytes_total", "monitor_restarts_total"];

fn names() -> BTreeSet<String> {
    let expand = |word: &str| -> Vec<String> {
        let Some((front, rest)) = word.split_once('{') else {
            return vec![word.to_owned()];
        };
        let (parts, back) = rest.split_once('}').unwrap();
        let parts = parts.split(',');
        parts.map(|part| format!("{front}{part}{back}")).collect()
    };
    let words = NAMES.split_whitespace().chain(OWN).flat_map(expand);
    words.map(|word| format!("container_{word}")).collect()
}

fn pressure() -> Option<Pressure> {
    let psi = |seconds: u64| Psi {
        total: seconds * SECOND,
        ..Psi::default()
    };
    Some(Pressure {
        some: psi(3),
        full: psi(2),
    })
}

fn record() -> ContainerRecord {
    let mut config = v1::ContainerConfig::default();
    config.metadata.get_or_insert_default().name = "main".into();
    config.image.get_or_insert_default().image = "image".into();
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default().cpu_quota = 20_000;
    ContainerRecord {
        id: "cid".into(),
        packed_config: pack(&config),
        state: Some(ContainerState::Running(Running {
            pid: 1,
            started_at: 5_000_000_000,
        })),
        ..ContainerRecord::default()
    }
}

fn usage() -> Usage {
    Usage {
        at: 9_500_000_000,
        cpu: Some(Cpu {
            total: 7 * SECOND,
            nano_cores: None,
            pressure: pressure(),
        }),
        memory: Some(Memory {
            page_faults: 4,
            major_page_faults: 1,
            pressure: pressure(),
            ..Memory::default()
        }),
        io_pressure: pressure(),
        ..Usage::default()
    }
}

fn details() -> Details {
    let device = DeviceIo {
        major: 8,
        read_bytes: 10,
        written_bytes: 20,
        ..DeviceIo::default()
    };
    Details {
        descriptors_limit: Some(1024),
        devices: vec![("sda".into(), device)],
        huge_pages: vec![HugePages {
            size: "2MB".into(),
            usage: 1,
            peak: Some(2),
        }],
        ..Details::default()
    }
}

fn measured() -> PodUsage {
    let mut config = v1::PodSandboxConfig::default();
    let metadata = config.metadata.get_or_insert_default();
    (metadata.name, metadata.namespace) = ("web".into(), "shop".into());
    let pod = PodRecord {
        id: "pid".into(),
        packed_config: pack(&config),
        monitor_restarts: 2,
        ..PodRecord::default()
    };
    let interface = Interface {
        name: "eth0".into(),
        ..Interface::default()
    };
    PodUsage {
        pod: Arc::new(PodView {
            record: Arc::new(pod),
            phase: PodPhase::Ready,
            containers: Vec::new(),
            monitor: None,
            listed: Default::default(),
        }),
        usage: Usage::default(),
        network: Some(NetworkUsage {
            at: 9,
            default: None,
            interfaces: vec![interface],
        }),
        containers: vec![ContainerUsage {
            record: Arc::new(record()),
            usage: usage(),
            written: Some(Written {
                at: 1,
                usage: husk_image::DiskUsage::default(),
            }),
            details: Some(details()),
        }],
    }
}

/// As a client reads it, which finds nothing that prost would write otherwise.
fn read(measured: &PodUsage) -> v1::PodSandboxMetrics {
    let encoded = pod(measured, &FileSystem::default());
    let read = v1::PodSandboxMetrics::decode(encoded.clone()).unwrap();
    assert_eq!(read.encode_to_vec(), encoded);
    read
}

fn all_metrics(measured: &PodUsage) -> Vec<v1::Metric> {
    let found = read(measured);
    let containers = found.container_metrics.into_iter();
    let of_containers = containers.flat_map(|it| it.metrics);
    found.metrics.into_iter().chain(of_containers).collect()
}

#[test]
fn the_table_has_the_names_of_the_kep_and_helps() {
    let descriptors = descriptors();
    let found: BTreeSet<String> = descriptors.iter().map(|it| it.name.clone()).collect();
    assert_eq!(found, names());
    assert_eq!(found.len(), descriptors.len(), "one twice");
    assert!(descriptors.iter().all(|it| it.help.ends_with('.')));
    assert_eq!(descriptors, super::descriptors());
}

#[test]
fn every_metric_has_a_descriptor_and_its_labels() {
    let descriptors = descriptors();
    let keys: HashMap<&str, usize> = descriptors
        .iter()
        .map(|it| (it.name.as_str(), it.label_keys.len()))
        .collect();
    let metrics = all_metrics(&measured());
    for metric in &metrics {
        let expected = keys.get(metric.name.as_str());
        assert_eq!(Some(&metric.label_values.len()), expected, "{metric:?}");
        let measured = metric.name != "container_monitor_restarts_total";
        assert!(metric.value.is_some() && (metric.timestamp > 0) == measured);
    }
    let told: BTreeSet<String> = metrics.into_iter().map(|it| it.name).collect();
    assert_eq!(told, names(), "not all of them have a value");
}

type Expected = (&'static str, &'static str, u64, MetricType);

#[rustfmt::skip]
const VALUES: &[Expected] = &[
    ("cpu_usage_seconds_total", "main image cid shop web total", 7, Counter),
    ("last_seen", "main image cid shop web", 9, Gauge),
    ("start_time_seconds", "main image cid shop web", 5, Gauge),
    ("spec_cpu_quota", "main image cid shop web", 20_000, Gauge),
    ("spec_cpu_shares", "main image cid shop web", 1024, Gauge),
    ("pressure_io_waiting_seconds_total", "main image cid shop web", 3, Counter),
    ("pressure_cpu_stalled_seconds_total", "main image cid shop web", 2, Counter),
    ("blkio_device_usage_total", "main image cid shop web sda 8 0 Write", 20, Counter),
    ("memory_failures_total", "main image cid shop web pgmajfault hierarchy", 1, Counter),
    ("network_receive_bytes_total", "  pid shop web eth0", 0, Counter),
    ("monitor_restarts_total", "  pid shop web", 2, Counter),
    ("ulimits_soft", "main image cid shop web max_open_files", 1024, Gauge),
];

#[test]
fn values_labels_and_kinds() {
    let metrics = all_metrics(&measured());
    for &(name, labels, value, kind) in VALUES {
        let name = format!("container_{name}");
        let found = metrics
            .iter()
            .find(|it| it.name == name && it.label_values.join(" ") == labels);
        let found = found.unwrap_or_else(|| panic!("{name} {labels} is missing"));
        assert_eq!(
            (found.value.map(|it| it.value), found.metric_type()),
            (Some(value), kind)
        );
    }
}

#[test]
fn what_the_kernel_does_not_tell_is_left_out() {
    let mut measured = measured();
    measured.network = None;
    let container = &mut measured.containers[0];
    container.usage.io_pressure = None;
    let metrics = all_metrics(&measured);
    let absent = |part: &str| metrics.iter().all(|it| !it.name.contains(part));
    assert!(absent("network_") && absent("pressure_io"));
    measured.containers[0].details = None;
    assert!(read(&measured).container_metrics.is_empty());
}
