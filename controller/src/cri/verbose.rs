//! What verbose statuses add: JSON for people and for crictl, with no promise beyond its names.

use std::collections::HashMap;

use husk_cri_api::v1;
use pod_monitor_client::Monitor;
use serde_json::json;

use crate::container;
use crate::pod::Pods;
use crate::view::{Found, PodView};

/// What the runtime calls itself.
pub(super) const NAME: &str = "husk";

/// What was looked up, if it was asked for: only then is it worth the work.
pub(super) fn info(
    wanted: bool,
    look_up: impl FnOnce() -> HashMap<String, String>,
) -> HashMap<String, String> {
    if wanted { look_up() } else { HashMap::new() }
}

pub(super) fn status(pods: &Pods) -> HashMap<String, String> {
    let services = pods.services();
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "defaultHandler": services.monitors.handlers.default_name(),
        "pods": pods.list().len(),
        "monitorRestarts": services.monitors.restarts(),
        "root": services.directories.root,
        "run": services.directories.run,
        "kernel": format!("{}.{}", services.host.kernel.major, services.host.kernel.minor),
        "apparmor": services.host.apparmor.as_ref().map(|it| it.default_profile.clone()),
        "cgroupVersion": format!("{:?}", services.cgroups.version()).to_lowercase(),
    });
    HashMap::from([
        (NAME.to_owned(), info.to_string()),
        ("config".to_owned(), config(&services.config.to_toml())),
    ])
}

/// The configuration in force; its file, for want of anything better, should it not be TOML.
fn config(text: &str) -> String {
    toml::from_str::<serde_json::Value>(text).map_or_else(|_| text.to_owned(), |it| it.to_string())
}

pub(super) fn pod(view: &PodView, pods: &Pods) -> HashMap<String, String> {
    let directory = pods.services().directories.pod(&view.record.id);
    let (resources, overhead) = view.record.limits();
    let info = json!({
        "resources": limits(&resources),
        "overhead": limits(&overhead),
        "monitorPid": view.monitor.as_ref().map(Monitor::pid),
        "monitorRestarts": view.record.monitor_restarts,
        "pid": view.record.init_pid,
        "runDirectory": directory,
        "networkNamespace": directory.join("ns/net"),
        "cgroupParent": view.record.cgroup_parent,
        "reason": view.record.reason,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// What of a pod's resources can be limited, in the CRI's units.
fn limits(of: &v1::LinuxContainerResources) -> serde_json::Value {
    json!({
        "cpuPeriod": of.cpu_period,
        "cpuQuota": of.cpu_quota,
        "cpuShares": of.cpu_shares,
        "memoryLimitInBytes": of.memory_limit_in_bytes,
    })
}

pub(super) fn container(found: &Found, pods: &Pods) -> HashMap<String, String> {
    let record = &found.container;
    let bundle = pods
        .services()
        .directories
        .bundle(&record.pod_id, &record.id);
    let info = json!({
        "sandboxID": record.pod_id,
        "pid": record.pid().unwrap_or_default(),
        "bundle": bundle,
        "runtimeSpec": container::spec_json(&bundle),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
