//! The Linux part of an adjustment.

use std::path::Path;

use husk_nri::{api, removed};
use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, Spec,
};
use serde_json::{Value, json};

use super::{oci, resources};
use crate::spec::error::{SpecError, Warning};
use crate::spec::facts::HostFacts;
use crate::spec::process::possible_oom_score_adj;

pub(super) fn adjust(
    spec: &mut Spec,
    asked: &api::LinuxContainerAdjustment,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    process(spec, asked, host, warnings)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    if let Some(asked) = &asked.resources {
        let existing = linux.resources().clone().unwrap_or_default();
        let mut changed = resources::apply(&existing, asked, host, warnings)?;
        if let Some(class) = &asked.blockio_class {
            changed.set_block_io(block_io(&class.value, host)?);
        }
        linux.set_resources(Some(changed));
        if let Some(class) = &asked.rdt_class {
            let wanted = !class.value.is_empty();
            let value = json!({"closID": class.value});
            linux.set_intel_rdt(wanted.then(|| oci("rdt_class", "", value)).transpose()?);
        }
    }
    devices(&mut linux, &asked.devices)?;
    namespaces(&mut linux, &asked.namespaces)?;
    sysctls(&mut linux, asked);
    if let Some(policy) = &asked.seccomp_policy {
        linux.set_seccomp(Some(seccomp(policy)?));
    }
    if let Some(policy) = &asked.memory_policy {
        linux.set_memory_policy(Some(memory_policy(policy)?));
    }
    net_devices(&mut linux, asked)?;
    if let Some(asked) = &asked.rdt {
        rdt(&mut linux, asked)?;
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// What the protocol counts to Linux and the specification to the process.
fn process(
    spec: &mut Spec,
    asked: &api::LinuxContainerAdjustment,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    let Some(process) = spec.process_mut() else {
        return Ok(());
    };
    if let Some(score) = asked.oom_score_adj {
        let possible = possible_oom_score_adj(score.value, host, warnings);
        process.set_oom_score_adj(Some(possible));
    }
    if let Some(asked) = asked.io_priority {
        let class = asked.class().as_str_name();
        let value = json!({"class": class, "priority": asked.priority});
        // None takes the setting away.
        let wanted = asked.class() != api::IoPrioClass::IoprioClassNone;
        let priority = wanted
            .then(|| oci("io_priority", class, value))
            .transpose()?;
        process.set_io_priority(priority);
    }
    if let Some(asked) = &asked.scheduler {
        let policy = asked.policy().as_str_name();
        // The types misname RESET_ON_FORK and DL_OVERRUN, so these two are refused, not mistaken.
        let flags: Vec<_> = asked.flags().map(|flag| flag.as_str_name()).collect();
        let value = json!({
            "policy": policy, "nice": asked.nice, "priority": asked.priority, "flags": flags,
            "runtime": asked.runtime, "deadline": asked.deadline, "period": asked.period,
        });
        let wanted = asked.policy() != api::LinuxSchedulerPolicy::SchedNone;
        let scheduler = wanted
            .then(|| oci("scheduler", policy, value))
            .transpose()?;
        process.set_scheduler(scheduler);
    }
    Ok(())
}

fn devices(linux: &mut Linux, asked: &[api::LinuxDevice]) -> Result<(), SpecError> {
    for wish in asked {
        match removed(&wish.path) {
            Some(path) => remove_device(linux, path),
            None => put_device(linux, wish, "rwm")?,
        }
    }
    Ok(())
}

fn remove_device(linux: &mut Linux, path: &str) {
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|device| device.path() != Path::new(path));
    linux.set_devices(Some(devices));
}

/// Puts a node in the place of the one that is there, and lets the cgroup permit its use.
pub(super) fn put_device(
    linux: &mut Linux,
    asked: &api::LinuxDevice,
    permissions: &str,
) -> Result<(), SpecError> {
    remove_device(linux, &asked.path);
    let device = device(asked)?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    // A FIFO is no device to the cgroup.
    if device.typ() != LinuxDeviceType::P {
        rules.push(rule(&device, permissions));
    }
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.push(device);
    linux.set_devices(Some(devices));
    Ok(())
}

fn device(asked: &api::LinuxDevice) -> Result<LinuxDevice, SpecError> {
    let mut device = LinuxDevice::default();
    device.set_path(asked.path.clone().into());
    device.set_typ(oci("devices.type", &asked.r#type, json!(asked.r#type))?);
    device.set_major(asked.major);
    device.set_minor(asked.minor);
    device.set_file_mode(asked.file_mode.map(|mode| mode.value & 0o7777));
    device.set_uid(asked.uid.map(|uid| uid.value));
    device.set_gid(asked.gid.map(|gid| gid.value));
    Ok(device)
}

fn rule(device: &LinuxDevice, permissions: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(device.typ()));
    rule.set_major(Some(device.major()));
    rule.set_minor(Some(device.minor()));
    rule.set_access(Some(permissions.to_owned()));
    rule
}

fn namespaces(linux: &mut Linux, asked: &[api::LinuxNamespace]) -> Result<(), SpecError> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for wish in asked {
        let kind = removed(&wish.r#type).unwrap_or(&wish.r#type);
        let mut value = json!({"type": kind});
        if !wish.path.is_empty() {
            value["path"] = json!(wish.path);
        }
        let namespace: LinuxNamespace = oci("namespaces.type", kind, value)?;
        namespaces.retain(|other| other.typ() != namespace.typ());
        if removed(&wish.r#type).is_none() {
            namespaces.push(namespace);
        }
    }
    linux.set_namespaces(Some(namespaces));
    Ok(())
}

fn sysctls(linux: &mut Linux, asked: &api::LinuxContainerAdjustment) {
    if asked.sysctl.is_empty() {
        return;
    }
    let mut sysctls = linux.sysctl().clone().unwrap_or_default();
    for (key, value) in &asked.sysctl {
        match removed(key) {
            Some(key) => sysctls.remove(key),
            None => sysctls.insert(key.clone(), value.clone()),
        };
    }
    linux.set_sysctl(Some(sysctls));
}

fn seccomp(policy: &api::LinuxSeccomp) -> Result<oci_spec::runtime::LinuxSeccomp, SpecError> {
    let call = |call: &api::LinuxSyscall| {
        let argument = |argument: &api::LinuxSeccompArg| {
            json!({
                "index": argument.index, "value": argument.value,
                "valueTwo": argument.value_two, "op": argument.op,
            })
        };
        let mut value = json!({
            "names": call.names, "action": call.action,
            "args": call.args.iter().map(argument).collect::<Vec<_>>(),
        });
        if let Some(number) = call.errno_ret {
            value["errnoRet"] = number.value.into();
        }
        value
    };
    let mut value = json!({
        "defaultAction": policy.default_action,
        "architectures": policy.architectures,
        "flags": policy.flags,
        "syscalls": policy.syscalls.iter().map(call).collect::<Vec<_>>(),
    });
    if let Some(number) = policy.default_errno {
        value["defaultErrnoRet"] = number.value.into();
    }
    if !policy.listener_path.is_empty() {
        value["listenerPath"] = json!(policy.listener_path);
        value["listenerMetadata"] = json!(policy.listener_metadata);
    }
    oci("seccomp_policy", &policy.default_action, value)
}

fn memory_policy(
    policy: &api::LinuxMemoryPolicy,
) -> Result<oci_spec::runtime::LinuxMemoryPolicy, SpecError> {
    let mode = policy.mode().as_str_name();
    let flags: Vec<_> = policy.flags().map(|flag| flag.as_str_name()).collect();
    let value = json!({"mode": mode, "nodes": policy.nodes, "flags": flags});
    oci("memory_policy", mode, value)
}

fn net_devices(linux: &mut Linux, asked: &api::LinuxContainerAdjustment) -> Result<(), SpecError> {
    if asked.net_devices.is_empty() {
        return Ok(());
    }
    let mut devices = linux.net_devices().clone().unwrap_or_default();
    for (name, device) in &asked.net_devices {
        if let Some(name) = removed(name) {
            devices.remove(name);
            continue;
        }
        let mut value = json!({});
        if !device.name.is_empty() {
            value["name"] = json!(device.name);
        }
        devices.insert(name.clone(), oci("net_devices", name, value)?);
    }
    linux.set_net_devices(Some(devices));
    Ok(())
}

/// The limits that a class stands for; the empty one stands for none.
fn block_io(class: &str, host: &HostFacts) -> Result<Option<LinuxBlockIo>, SpecError> {
    if class.is_empty() {
        return Ok(None);
    }
    let known = host.block_io_classes.get(class).cloned();
    let reason = "nri.blockio_config_file has no such class";
    let refused = || SpecError::invalid("resources.blockio_class", class, reason);
    known.map(Some).ok_or_else(refused)
}

fn rdt(linux: &mut Linux, asked: &api::LinuxRdt) -> Result<(), SpecError> {
    let before = linux.intel_rdt().clone().filter(|_| !asked.remove);
    let mut value = before.map_or(Value::Null, |before| json!(before));
    if let Some(class) = &asked.clos_id {
        value["closID"] = json!(class.value);
    }
    if let Some(schemata) = &asked.schemata {
        value["schemata"] = json!(schemata.value);
    }
    if let Some(enable) = asked.enable_monitoring {
        value["enableMonitoring"] = json!(enable.value);
    }
    let wanted = !value.is_null();
    linux.set_intel_rdt(wanted.then(|| oci("rdt", "", value)).transpose()?);
    Ok(())
}
