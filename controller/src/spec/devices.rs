//! Device nodes and the cgroup's device rules.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::ContainerInput;

/// A device node of the host with its numbers, as `host.rs` found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedDevice {
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// Block or character.
    pub kind: LinuxDeviceType,
    /// The driver's number.
    pub major: i64,
    /// The driver's number for this device.
    pub minor: i64,
    /// Permission bits of the node.
    pub mode: u32,
    /// The node's owner.
    pub uid: u32,
    /// The node's group.
    pub gid: u32,
    /// What the cgroup allows: letters out of `rwm`.
    pub permissions: String,
}

/// The nodes that the OCI runtime makes beside its own small standard set.
pub(super) fn nodes(input: &ContainerInput<'_>) -> Vec<LinuxDevice> {
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    for device in wanted(input) {
        if nodes
            .iter()
            .all(|node| node.path() != &device.container_path)
        {
            nodes.push(node(device));
        }
    }
    nodes
}

/// Devices that were asked for come first: a request for a path wins over the host's own node.
fn wanted<'a>(input: &'a ContainerInput<'_>) -> impl Iterator<Item = &'a ResolvedDevice> {
    let host: &[ResolvedDevice] = if input.privileged() {
        &input.host.devices
    } else {
        &[]
    };
    input.devices.iter().chain(host)
}

fn node(device: &ResolvedDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.container_path.clone());
    node.set_typ(device.kind);
    node.set_major(device.major);
    node.set_minor(device.minor);
    node.set_file_mode(Some(device.mode & 0o7777));
    node.set_uid(Some(device.uid));
    node.set_gid(Some(device.gid));
    node
}

/// Nothing is allowed but what is asked for; the OCI runtime adds its standard set (null, zero, …).
/// A privileged container may use every device.
pub(super) fn cgroup_rules(input: &ContainerInput<'_>) -> Vec<LinuxDeviceCgroup> {
    if input.privileged() {
        return vec![rule(true, None, "rwm")];
    }
    let mut rules = vec![rule(false, None, "rwm")];
    rules.extend(
        input
            .devices
            .iter()
            .map(|device| rule(true, Some(device), &device.permissions)),
    );
    rules
}

fn rule(allow: bool, device: Option<&ResolvedDevice>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(device.map(|device| device.kind));
    rule.set_major(device.map(|device| device.major));
    rule.set_minor(device.map(|device| device.minor));
    rule.set_access(Some(access.to_owned()));
    rule
}
