//! Resources in the plugins' words. What the CRI has words for goes the kubelet's way, with its rules
//! for swap and for what the host lacks; the rest is put on top.

use husk_cri_api::v1;
use husk_nri::api;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxPids, LinuxResources};
use serde_json::json;

use super::oci;
use crate::spec::error::{SpecError, Warning};
use crate::spec::facts::HostFacts;
use crate::spec::resources;

/// Resources of a container that exists, changed as plugins want. It keeps its classes: not every OCI
/// runtime changes all that one stands for, and plugins name them again in every update.
///
/// # Errors
/// What makes no sense.
pub fn change(
    existing: &LinuxResources,
    asked: &api::LinuxResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<LinuxResources, SpecError> {
    let classes = [&asked.blockio_class, &asked.rdt_class];
    let names: Vec<_> = classes.into_iter().flatten().collect();
    if !names.is_empty() {
        let names = names.iter().map(|class| class.value.clone()).collect();
        warnings.push(Warning::Classes { names });
    }
    apply(existing, asked, host, warnings)
}

/// Resources as plugins want them, but for classes.
pub(super) fn apply(
    existing: &LinuxResources,
    asked: &api::LinuxResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<LinuxResources, SpecError> {
    let mut changed = resources::update(existing, &to_cri(asked), host, warnings)?;
    rest(&mut changed, asked)?;
    Ok(changed)
}

/// The part that the CRI has words for; what is not set is zero there.
fn to_cri(of: &api::LinuxResources) -> v1::LinuxContainerResources {
    let memory = of.memory.unwrap_or_default();
    let cpu = of.cpu.clone().unwrap_or_default();
    let signed = |value: Option<api::OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned = |value: Option<api::OptionalUInt64>| {
        value.map_or(0, |value| i64::try_from(value.value).unwrap_or(i64::MAX))
    };
    v1::LinuxContainerResources {
        cpu_period: unsigned(cpu.period),
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned(cpu.shares),
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        memory_limit_in_bytes: signed(memory.limit),
        memory_swap_limit_in_bytes: signed(memory.swap),
        hugepage_limits: of
            .hugepage_limits
            .iter()
            .map(|limit| v1::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit,
            })
            .collect(),
        unified: of.unified.clone().into_iter().collect(),
        ..v1::LinuxContainerResources::default()
    }
}

fn rest(resources: &mut LinuxResources, asked: &api::LinuxResources) -> Result<(), SpecError> {
    if let Some(wish) = asked.memory {
        let mut memory = resources.memory().unwrap_or_default();
        if let Some(value) = wish.reservation {
            memory.set_reservation(Some(value.value));
        }
        if let Some(value) = wish.kernel {
            memory.set_kernel(Some(value.value));
        }
        if let Some(value) = wish.kernel_tcp {
            memory.set_kernel_tcp(Some(value.value));
        }
        if let Some(value) = wish.swappiness {
            memory.set_swappiness(Some(value.value));
        }
        if let Some(value) = wish.disable_oom_killer {
            memory.set_disable_oom_killer(Some(value.value));
        }
        if let Some(value) = wish.use_hierarchy {
            memory.set_use_hierarchy(Some(value.value));
        }
        resources.set_memory(Some(memory));
    }
    if let Some(wish) = &asked.cpu {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        if let Some(value) = wish.realtime_runtime {
            cpu.set_realtime_runtime(Some(value.value));
        }
        if let Some(value) = wish.realtime_period {
            cpu.set_realtime_period(Some(value.value));
        }
        resources.set_cpu(Some(cpu));
    }
    if let Some(wish) = asked.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(wish.limit);
        resources.set_pids(Some(pids));
    }
    device_rules(resources, &asked.devices)
}

fn device_rules(
    resources: &mut LinuxResources,
    asked: &[api::LinuxDeviceCgroup],
) -> Result<(), SpecError> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut rules = resources.devices().clone().unwrap_or_default();
    for wish in asked {
        let kind = if wish.r#type.is_empty() {
            "a"
        } else {
            &wish.r#type
        };
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(wish.allow);
        rule.set_typ(Some(oci("resources.devices.type", kind, json!(kind))?));
        rule.set_major(wish.major.map(|value| value.value));
        rule.set_minor(wish.minor.map(|value| value.value));
        rule.set_access((!wish.access.is_empty()).then(|| wish.access.clone()));
        rules.push(rule);
    }
    resources.set_devices(Some(rules));
    Ok(())
}
