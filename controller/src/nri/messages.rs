//! Records and specs in the protocol's words. Pure.

use std::collections::HashMap;
use std::path::Path;

use husk_cri_api::v1;
use husk_nri::api;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources, Mount, Process, Spec};
use serde::Serialize;

use crate::store::v1::{ContainerRecord, ContainerState, PodRecord};

/// A pod.
pub fn pod(record: &PodRecord) -> api::PodSandbox {
    let config = record.config();
    let metadata = config.metadata.unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let resources = |of: Option<&v1::LinuxContainerResources>| of.map(resources_from_cri);
    api::PodSandbox {
        id: record.id.clone(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: ordered(&config.labels),
        annotations: ordered(&config.annotations),
        runtime_handler: record.handler.clone(),
        linux: Some(api::LinuxPodSandbox {
            pod_overhead: resources(record.overhead.as_deref().or(linux.overhead.as_ref())),
            pod_resources: resources(record.resources.as_deref().or(linux.resources.as_ref())),
            cgroup_parent: record.cgroup_parent.clone(),
            ..api::LinuxPodSandbox::default()
        }),
        pid: record.init_pid,
        ips: record.addresses.clone(),
    }
}

/// A container, with what its spec says where that is known.
pub fn container(record: &ContainerRecord, spec: Option<&Spec>) -> api::Container {
    let config = record.config();
    let mut container = api::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        name: config.metadata.clone().unwrap_or_default().name,
        labels: ordered(&config.labels),
        annotations: ordered(&config.annotations),
        image: Some(image(record, &config)),
        created_at: record.created_at,
        ..api::Container::default()
    };
    if let Some(spec) = spec {
        describe(&mut container, spec, &config);
    }
    set_state(&mut container, record);
    container
}

/// Where the container's life stands.
pub fn set_state(container: &mut api::Container, record: &ContainerRecord) {
    container.pid = record.pid().unwrap_or_default();
    let state = match record.state() {
        ContainerState::Created(_) => api::ContainerState::ContainerCreated,
        ContainerState::Running(running) => {
            container.started_at = running.started_at;
            api::ContainerState::ContainerRunning
        }
        ContainerState::Exited(exited) => {
            container.started_at = exited.started_at;
            container.finished_at = exited.finished_at;
            container.exit_code = exited.code;
            container.status_reason = exited.reason;
            container.status_message = exited.message;
            api::ContainerState::ContainerStopped
        }
    };
    container.state = state.into();
}

fn image(record: &ContainerRecord, config: &v1::ContainerConfig) -> api::Image {
    let spec = config.image.clone().unwrap_or_default();
    let name = if spec.user_specified_image.is_empty() {
        spec.image
    } else {
        spec.user_specified_image
    };
    let digest = record.image_ref.split_once('@').map(|(_, digest)| digest);
    api::Image {
        name,
        digest: digest.unwrap_or_default().to_owned(),
        config_digest: record.image_id.clone(),
    }
}

fn describe(container: &mut api::Container, spec: &Spec, config: &v1::ContainerConfig) {
    // What plugins set stands only there.
    container
        .annotations
        .extend(ordered(&spec.annotations().clone().unwrap_or_default()));
    container.mounts = spec.mounts().iter().flatten().map(mount).collect();
    if let Some(process) = spec.process() {
        describe_process(container, process);
    }
    container.hooks = spec.hooks().as_ref().map(hooks);
    container.linux = Some(linux(spec, config));
    let named = |name: &String| api::CdiDevice { name: name.clone() };
    container.cdi_devices = config
        .cdi_devices
        .iter()
        .map(|device| named(&device.name))
        .collect();
}

fn describe_process(container: &mut api::Container, process: &Process) {
    container.args = process.args().clone().unwrap_or_default();
    container.env = process.env().clone().unwrap_or_default();
    container.rlimits = process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| api::PosixRlimit {
            r#type: word(&limit.typ()),
            hard: limit.hard(),
            soft: limit.soft(),
        })
        .collect();
    let user = process.user();
    container.user = Some(api::User {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
    });
}

fn hooks(hooks: &oci_spec::runtime::Hooks) -> api::Hooks {
    let list = |hooks: &Option<Vec<oci_spec::runtime::Hook>>| {
        let hooks = hooks.iter().flatten().map(|hook| api::Hook {
            path: text(hook.path()),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone().unwrap_or_default(),
            timeout: hook.timeout().map(|value| api::OptionalInt { value }),
        });
        hooks.collect()
    };
    api::Hooks {
        prestart: Vec::new(),
        create_runtime: list(hooks.create_runtime()),
        create_container: list(hooks.create_container()),
        start_container: list(hooks.start_container()),
        poststart: list(hooks.poststart()),
        poststop: list(hooks.poststop()),
    }
}

fn mount(mount: &Mount) -> api::Mount {
    api::Mount {
        destination: text(mount.destination()),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    }
}

fn linux(spec: &Spec, config: &v1::ContainerConfig) -> api::LinuxContainer {
    let Some(linux) = spec.linux() else {
        return api::LinuxContainer::default();
    };
    let namespace = |namespace: &oci_spec::runtime::LinuxNamespace| api::LinuxNamespace {
        r#type: word(&namespace.typ()),
        path: namespace.path().as_deref().map(text).unwrap_or_default(),
    };
    let score = spec
        .process()
        .as_ref()
        .and_then(|process| process.oom_score_adj());
    api::LinuxContainer {
        namespaces: linux.namespaces().iter().flatten().map(namespace).collect(),
        devices: linux.devices().iter().flatten().map(device).collect(),
        resources: linux.resources().as_ref().map(resources),
        oom_score_adj: score.map(|value| api::OptionalInt {
            value: value.into(),
        }),
        cgroups_path: linux
            .cgroups_path()
            .as_deref()
            .map(text)
            .unwrap_or_default(),
        seccomp_profile: seccomp_profile(config),
        sysctl: ordered(&linux.sysctl().clone().unwrap_or_default()),
        ..api::LinuxContainer::default()
    }
}

fn seccomp_profile(config: &v1::ContainerConfig) -> Option<api::SecurityProfile> {
    let context = config.linux.as_ref()?.security_context.as_ref()?;
    let profile = context.seccomp.as_ref()?;
    // The two protocols have the same values.
    Some(api::SecurityProfile {
        profile_type: profile.profile_type,
        localhost_ref: profile.localhost_ref.clone(),
    })
}

fn device(device: &oci_spec::runtime::LinuxDevice) -> api::LinuxDevice {
    api::LinuxDevice {
        path: text(device.path()),
        r#type: word(&device.typ()),
        major: device.major(),
        minor: device.minor(),
        file_mode: device
            .file_mode()
            .map(|value| api::OptionalFileMode { value }),
        uid: device.uid().map(|value| api::OptionalUInt32 { value }),
        gid: device.gid().map(|value| api::OptionalUInt32 { value }),
    }
}

/// The resources of a spec.
pub fn resources(of: &LinuxResources) -> api::LinuxResources {
    let signed = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    let unsigned = |value: Option<u64>| value.map(|value| api::OptionalUInt64 { value });
    let memory = of.memory().as_ref().map(|memory| api::LinuxMemory {
        limit: signed(memory.limit()),
        reservation: signed(memory.reservation()),
        swap: signed(memory.swap()),
        kernel: signed(memory.kernel()),
        kernel_tcp: signed(memory.kernel_tcp()),
        swappiness: unsigned(memory.swappiness()),
        ..api::LinuxMemory::default()
    });
    let cpu = of.cpu().as_ref().map(|cpu| api::LinuxCpu {
        shares: unsigned(cpu.shares()),
        quota: signed(cpu.quota()),
        period: unsigned(cpu.period()),
        realtime_runtime: signed(cpu.realtime_runtime()),
        realtime_period: unsigned(cpu.realtime_period()),
        cpus: cpu.cpus().clone().unwrap_or_default(),
        mems: cpu.mems().clone().unwrap_or_default(),
    });
    let hugepages = of.hugepage_limits().iter().flatten();
    api::LinuxResources {
        memory,
        cpu,
        hugepage_limits: hugepages
            .map(|limit| api::HugepageLimit {
                page_size: limit.page_size().clone(),
                limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
            })
            .collect(),
        unified: ordered(&of.unified().clone().unwrap_or_default()),
        devices: of.devices().iter().flatten().map(device_rule).collect(),
        pids: of.pids().as_ref().map(|pids| api::LinuxPids {
            limit: pids.limit(),
        }),
        ..api::LinuxResources::default()
    }
}

fn device_rule(rule: &LinuxDeviceCgroup) -> api::LinuxDeviceCgroup {
    let number = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    api::LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().as_ref().map(word).unwrap_or_default(),
        major: number(rule.major()),
        minor: number(rule.minor()),
        access: rule.access().clone().unwrap_or_default(),
    }
}

/// The kubelet's resources, where zero says nothing.
pub fn resources_from_cri(of: &v1::LinuxContainerResources) -> api::LinuxResources {
    let signed = |value: i64| (value != 0).then_some(api::OptionalInt64 { value });
    let unsigned = |value: i64| {
        let value = u64::try_from(value).ok().filter(|value| *value > 0);
        value.map(|value| api::OptionalUInt64 { value })
    };
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: signed(of.memory_limit_in_bytes),
            swap: signed(of.memory_swap_limit_in_bytes),
            ..api::LinuxMemory::default()
        }),
        cpu: Some(api::LinuxCpu {
            shares: unsigned(of.cpu_shares),
            quota: signed(of.cpu_quota),
            period: unsigned(of.cpu_period),
            cpus: of.cpuset_cpus.clone(),
            mems: of.cpuset_mems.clone(),
            ..api::LinuxCpu::default()
        }),
        hugepage_limits: of
            .hugepage_limits
            .iter()
            .map(|limit| api::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit,
            })
            .collect(),
        unified: ordered(&of.unified),
        ..api::LinuxResources::default()
    }
}

fn ordered<V: Clone>(map: &HashMap<String, V>) -> std::collections::BTreeMap<String, V> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The specification's word for a value.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}
