//! What NRI plugins and CDI specs want of a spec, put into it. Pure.
//!
//! Whoever may ask for this is root on the node, so what is asked for is done: beside what cannot be
//! expressed, nothing is refused here.

mod cdi;
mod linux;
mod resources;

use std::path::Path;

use husk_nri::{api, removed};
use oci_spec::runtime::{Mount, PosixRlimit, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use cdi::inject;
pub use resources::change as change_resources;

use super::error::{SpecError, Warning};
use super::facts::HostFacts;

/// Adjusts the spec of a container in the making.
///
/// # Errors
/// The first value that the OCI runtime has no word for, and resources that make no sense.
pub fn adjust(
    spec: &mut Spec,
    asked: &api::ContainerAdjustment,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    annotations(spec, asked);
    environment(spec, &asked.env);
    if let (false, Some(process)) = (asked.args.is_empty(), spec.process_mut()) {
        process.set_args(Some(asked.args.clone()));
    }
    if let Some(asked) = &asked.hooks {
        hooks(spec, asked)?;
    }
    rlimits(spec, &asked.rlimits)?;
    if let Some(asked) = &asked.linux {
        linux::adjust(spec, asked, host, warnings)?;
    }
    mounts(spec, &asked.mounts);
    Ok(())
}

fn annotations(spec: &mut Spec, asked: &api::ContainerAdjustment) {
    if asked.annotations.is_empty() {
        return;
    }
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    for (key, value) in &asked.annotations {
        match removed(key) {
            Some(key) => annotations.remove(key),
            None => annotations.insert(key.clone(), value.clone()),
        };
    }
    spec.set_annotations(Some(annotations));
}

/// Variables keep their place when they change; new ones come last.
fn environment(spec: &mut Spec, asked: &[api::KeyValue]) {
    let Some(process) = spec.process_mut() else {
        return;
    };
    let mut variables = process.env().clone().unwrap_or_default();
    for wish in asked {
        let key = removed(&wish.key).unwrap_or(&wish.key);
        let is_it = |variable: &String| variable.split('=').next() == Some(key);
        let place = variables.iter().position(is_it);
        let value = format!("{key}={}", wish.value);
        match (place, removed(&wish.key)) {
            (Some(place), Some(_)) => drop(variables.remove(place)),
            (Some(place), None) => variables[place] = value,
            (None, Some(_)) => {}
            (None, None) => variables.push(value),
        }
    }
    process.set_env(Some(variables));
}

/// Added after those that are there, by way of JSON: the protocol still has `prestart`, for which the
/// types only have a deprecated field.
fn hooks(spec: &mut Spec, asked: &api::Hooks) -> Result<(), SpecError> {
    let mut hooks = json!(spec.hooks().clone().unwrap_or_default());
    let lists = [
        ("prestart", &asked.prestart),
        ("createRuntime", &asked.create_runtime),
        ("createContainer", &asked.create_container),
        ("startContainer", &asked.start_container),
        ("poststart", &asked.poststart),
        ("poststop", &asked.poststop),
    ];
    for (name, list) in lists {
        let mut all: Vec<Value> = hooks[name].as_array().cloned().unwrap_or_default();
        all.extend(list.iter().map(hook));
        if !all.is_empty() {
            hooks[name] = Value::Array(all);
        }
    }
    spec.set_hooks(Some(oci("hooks", "", hooks)?));
    Ok(())
}

fn hook(hook: &api::Hook) -> Value {
    let mut value = json!({"path": hook.path, "args": hook.args, "env": hook.env});
    if let Some(timeout) = hook.timeout {
        value["timeout"] = timeout.value.into();
    }
    value
}

fn rlimits(spec: &mut Spec, asked: &[api::PosixRlimit]) -> Result<(), SpecError> {
    let (false, Some(process)) = (asked.is_empty(), spec.process_mut()) else {
        return Ok(());
    };
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for wish in asked {
        let value = json!({"type": wish.r#type, "hard": wish.hard, "soft": wish.soft});
        let limit: PosixRlimit = oci("rlimits", &wish.r#type, value)?;
        limits.retain(|other| other.typ() != limit.typ());
        limits.push(limit);
    }
    process.set_rlimits(Some(limits));
    Ok(())
}

/// Replaces and adds mounts; what lies deeper comes later, so that nothing is mounted over.
fn mounts(spec: &mut Spec, asked: &[api::Mount]) {
    if asked.is_empty() {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for wish in asked {
        let destination = removed(&wish.destination).unwrap_or(&wish.destination);
        mounts.retain(|mount| mount.destination() != Path::new(destination));
        if removed(&wish.destination).is_none() {
            mounts.push(mount(wish));
            propagate(spec, &wish.options);
        }
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

fn mount(asked: &api::Mount) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(asked.destination.clone().into());
    mount.set_source((!asked.source.is_empty()).then(|| asked.source.clone().into()));
    mount.set_typ((!asked.r#type.is_empty()).then(|| asked.r#type.clone()));
    mount.set_options(Some(asked.options.clone()));
    mount
}

/// A mount that passes other mounts on does so only below a root that does too.
fn propagate(spec: &mut Spec, options: &[String]) {
    let asks = |names: [&str; 2]| {
        options
            .iter()
            .any(|option| names.contains(&option.as_str()))
    };
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    if asks(["rshared", "shared"]) {
        linux.set_rootfs_propagation(Some("rshared".to_owned()));
    } else if asks(["rslave", "slave"]) && linux.rootfs_propagation().as_deref() != Some("rshared")
    {
        linux.set_rootfs_propagation(Some("rslave".to_owned()));
    }
}

/// A value of the runtime specification from its JSON.
fn oci<T: DeserializeOwned>(field: &'static str, value: &str, json: Value) -> Result<T, SpecError> {
    serde_json::from_value(json).map_err(|_| {
        SpecError::invalid(
            field,
            value,
            "the OCI runtime specification has no such value",
        )
    })
}
