//! What CDI devices bring, put into a spec.

use husk_nri::api;
use oci_spec::runtime::{Linux, Spec};
use serde_json::{Value, json};

use super::{environment, hooks, linux, mounts, oci};
use crate::cdi::file::{ContainerEdits, DeviceNode, Hook};
use crate::spec::error::SpecError;

/// Brings devices into a container. Their nodes have been looked up.
///
/// # Errors
/// The first value that the OCI runtime has no word for.
pub fn inject(spec: &mut Spec, edits: &[ContainerEdits]) -> Result<(), SpecError> {
    for edits in edits {
        let variables: Vec<_> = edits.env.iter().filter_map(|text| variable(text)).collect();
        environment(spec, &variables);
        groups(spec, &edits.additional_gids);
        for node in &edits.device_nodes {
            device(spec, node)?;
        }
        if !edits.hooks.is_empty() {
            hooks(spec, &grouped(&edits.hooks))?;
        }
        let list: Vec<_> = edits.mounts.iter().map(mount).collect();
        mounts(spec, &list);
        let mut linux = spec.linux().clone().unwrap_or_default();
        network(&mut linux, edits)?;
        if let Some(rdt) = &edits.intel_rdt {
            linux.set_intel_rdt(Some(oci("intelRdt", "", rdt.clone())?));
        }
        spec.set_linux(Some(linux));
    }
    Ok(())
}

fn variable(text: &str) -> Option<api::KeyValue> {
    let (key, value) = text.split_once('=')?;
    Some(api::KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// Group 0 is never added: a device must not make anybody root.
fn groups(spec: &mut Spec, asked: &[u32]) {
    let Some(process) = spec.process_mut() else {
        return;
    };
    let mut groups = process.user().additional_gids().clone().unwrap_or_default();
    for group in asked {
        if *group != 0 && !groups.contains(group) {
            groups.push(*group);
        }
    }
    process.user_mut().set_additional_gids(Some(groups));
}

/// A node belongs to the container's user where its file does not say whose it is.
fn device(spec: &mut Spec, node: &DeviceNode) -> Result<(), SpecError> {
    let user = spec
        .process()
        .as_ref()
        .map(|process| process.user().clone());
    let user = user.unwrap_or_default();
    let owner = |said: Option<u32>, of_user: u32| said.or((of_user > 0).then_some(of_user));
    let asked = api::LinuxDevice {
        path: node.path.clone(),
        r#type: node.r#type.clone().unwrap_or_default(),
        major: node.major.unwrap_or_default(),
        minor: node.minor.unwrap_or_default(),
        file_mode: node.file_mode.map(|value| api::OptionalFileMode { value }),
        uid: owner(node.uid, user.uid()).map(|value| api::OptionalUInt32 { value }),
        gid: owner(node.gid, user.gid()).map(|value| api::OptionalUInt32 { value }),
    };
    let permissions = node.permissions.as_deref().unwrap_or("rwm");
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux::put_device(&mut linux, &asked, permissions)?;
    spec.set_linux(Some(linux));
    Ok(())
}

fn grouped(list: &[Hook]) -> api::Hooks {
    let of = |name: &str| {
        let hooks = list.iter().filter(|hook| hook.hook_name == name);
        let hooks = hooks.map(|hook| api::Hook {
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout.map(|value| api::OptionalInt { value }),
        });
        hooks.collect()
    };
    api::Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
    }
}

fn mount(mount: &crate::cdi::file::Mount) -> api::Mount {
    let kind = if mount.r#type.is_empty() {
        "bind"
    } else {
        &mount.r#type
    };
    let mut options = mount.options.clone();
    // A bind mount is one by its option; the type is only its name.
    if kind == "bind"
        && !options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
    {
        options.insert(0, "bind".to_owned());
    }
    api::Mount {
        destination: mount.container_path.clone(),
        r#type: kind.to_owned(),
        source: mount.host_path.clone(),
        options,
    }
}

fn network(linux: &mut Linux, edits: &ContainerEdits) -> Result<(), SpecError> {
    if edits.net_devices.is_empty() {
        return Ok(());
    }
    let mut devices = linux.net_devices().clone().unwrap_or_default();
    for device in &edits.net_devices {
        let value: Value = json!({"name": device.name});
        let name = &device.host_interface_name;
        devices.insert(name.clone(), oci("netDevices", name, value)?);
    }
    linux.set_net_devices(Some(devices));
    Ok(())
}
