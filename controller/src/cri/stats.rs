//! Statistics in the CRI's messages. Pure.

use husk_cri_api::v1;

use crate::stats::{
    ContainerUsage, Cpu, Interface, Memory, NetworkUsage, PodUsage, Pressure, Psi, Usage, Written,
};

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

pub(super) fn container(measured: &ContainerUsage, mountpoint: &str) -> v1::ContainerStats {
    let (record, usage) = (&measured.record, &measured.usage);
    let config = record.config();
    let limits = Limits::of(&config);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
        }),
        cpu: usage.cpu.map(|used| cpu(usage.at, used)),
        memory: usage
            .memory
            .map(|used| memory(usage.at, used, limits.memory)),
        writable_layer: measured.written.map(|written| layer(written, mountpoint)),
        swap: usage.swap.map(|used| swap(usage.at, used, limits.swap)),
        io: io(usage),
    }
}

pub(super) fn pod(measured: &PodUsage, mountpoint: &str) -> v1::PodSandboxStats {
    let (record, usage) = (&measured.pod.record, &measured.usage);
    let config = record.config();
    let containers = measured.containers.iter();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: usage.cpu.map(|used| cpu(usage.at, used)),
            memory: usage.memory.map(|used| memory(usage.at, used, None)),
            network: measured.network.as_ref().map(network),
            process: usage.tasks.map(|tasks| v1::ProcessUsage {
                timestamp: usage.at,
                process_count: value(tasks),
            }),
            containers: containers.map(|it| container(it, mountpoint)).collect(),
            io: io(usage),
        }),
        windows: None,
    }
}

/// A container's limits in bytes, where there are any.
struct Limits {
    memory: Option<u64>,
    swap: Option<u64>,
}

impl Limits {
    fn of(config: &v1::ContainerConfig) -> Self {
        let linux = config.linux.as_ref();
        let resources = linux.and_then(|linux| linux.resources.as_ref());
        let limit = |of: fn(&v1::LinuxContainerResources) -> i64| {
            let limit = resources.map(of).and_then(|it| u64::try_from(it).ok());
            limit.filter(|limit| *limit > 0)
        };
        let memory = limit(|resources| resources.memory_limit_in_bytes);
        // The CRI's swap limit is of memory and swap together.
        let both = limit(|resources| resources.memory_swap_limit_in_bytes);
        Self {
            memory,
            swap: both
                .zip(memory)
                .map(|(both, memory)| both.saturating_sub(memory)),
        }
    }
}

fn cpu(timestamp: i64, cpu: Cpu) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(cpu.total),
        usage_nano_cores: cpu.nano_cores.and_then(value),
        psi: psi(cpu.pressure),
    }
}

fn memory(timestamp: i64, memory: Memory, limit: Option<u64>) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: limit.and_then(|it| value(it.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.anonymous),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: psi(memory.pressure),
    }
}

fn swap(timestamp: i64, used: u64, limit: Option<u64>) -> v1::SwapUsage {
    v1::SwapUsage {
        timestamp,
        swap_available_bytes: limit.and_then(|it| value(it.saturating_sub(used))),
        swap_usage_bytes: value(used),
    }
}

/// The time is always told where the cgroup was read: pressure is all that could be in it, and
/// version 1 has none.
fn io(usage: &Usage) -> Option<v1::IoUsage> {
    usage.cpu.map(|_| v1::IoUsage {
        timestamp: usage.at,
        psi: psi(usage.io_pressure),
    })
}

fn psi(pressure: Option<Pressure>) -> Option<v1::PsiStats> {
    let line = |psi: Psi| {
        Some(v1::PsiData {
            total: psi.total,
            avg10: psi.avg10,
            avg60: psi.avg60,
            avg300: psi.avg300,
        })
    };
    pressure.map(|pressure| v1::PsiStats {
        full: line(pressure.full),
        some: line(pressure.some),
    })
}

fn layer(written: Written, mountpoint: &str) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: written.at,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: mountpoint.to_owned(),
        }),
        used_bytes: value(written.usage.bytes),
        inodes_used: value(written.usage.inodes),
    }
}

fn network(network: &NetworkUsage) -> v1::NetworkUsage {
    let is_default = |it: &&Interface| network.default.as_ref() == Some(&it.name);
    let (default, others): (Vec<_>, Vec<_>) = network.interfaces.iter().partition(is_default);
    v1::NetworkUsage {
        timestamp: network.at,
        default_interface: default.into_iter().next().map(interface),
        interfaces: others.into_iter().map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    }
}
