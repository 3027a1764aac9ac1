//! A CDI file: its text to its values, checked. Pure. (github.com/cncf-tags/container-device-interface,
//! SPEC.md, up to version 1.1.)

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// What a file's text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.json`
    Json,
    /// `.yaml`
    Yaml,
}

impl Format {
    /// By the file's name; none where it is no CDI file.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// The devices of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Specification {
    /// The version that the file is written for.
    pub cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    /// The devices.
    pub devices: Vec<Device>,
    /// What every one of them brings.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// One device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// What it brings.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What is brought into a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerEdits {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Nodes of devices.
    pub device_nodes: Vec<DeviceNode>,
    /// Network devices that are moved into the container.
    pub net_devices: Vec<NetDevice>,
    /// OCI hooks.
    pub hooks: Vec<Hook>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// As the OCI runtime specification has it.
    pub intel_rdt: Option<Value>,
    /// Groups that the first process is in too.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A node of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host; the same where it is not said.
    pub host_path: Option<String>,
    /// b, c, u or p; as on the host where it is not said.
    pub r#type: Option<String>,
    /// The driver's number.
    pub major: Option<i64>,
    /// The driver's number for the device.
    pub minor: Option<i64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// What the cgroup permits: letters out of `rwm`, all where it is not said.
    pub permissions: Option<String>,
    /// The owner; the container's user where it is not said.
    pub uid: Option<u32>,
    /// The group; the container's where it is not said.
    pub gid: Option<u32>,
}

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetDevice {
    /// On the host.
    pub host_interface_name: String,
    /// In the container.
    pub name: String,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// As in mount(2).
    pub options: Vec<String>,
    /// The file system; empty for a bind mount.
    pub r#type: String,
}

/// An OCI hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// When: `createContainer` and the like.
    pub hook_name: String,
    /// The program.
    pub path: String,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout: Option<i64>,
}

/// The moments that hooks are for.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

impl Specification {
    /// Reads a file's text.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn parse(text: &str, format: Format) -> Result<Self, String> {
        let parsed: Self = match format {
            Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
            Format::Yaml => yaml_serde::from_str(text).map_err(|error| error.to_string())?,
        };
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), String> {
        if !self.cdi_version.starts_with("0.") && !self.cdi_version.starts_with("1.") {
            return Err(format!("cdiVersion {:?} is not known", self.cdi_version));
        }
        let named = self.kind.split_once('/');
        if !named.is_some_and(|(vendor, class)| is_name(vendor) && is_name(class)) {
            return Err(format!("kind {:?} is not vendor/class", self.kind));
        }
        self.container_edits.check()?;
        for device in &self.devices {
            if !is_device(&device.name) {
                return Err(format!("{:?} is no name of a device", device.name));
            }
            let wrong = |why| format!("device {:?}: {why}", device.name);
            device.container_edits.check().map_err(wrong)?;
        }
        Ok(())
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        let is_variable = |variable: &&String| variable.find('=').is_some_and(|at| at > 0);
        if let Some(wrong) = self.env.iter().find(|variable| !is_variable(variable)) {
            return Err(format!("env {wrong:?} is not KEY=value"));
        }
        for node in &self.device_nodes {
            let kind = node.r#type.as_deref().unwrap_or("c");
            let permissions = node.permissions.as_deref().unwrap_or_default();
            let fits = node.path.starts_with('/')
                && ["b", "c", "u", "p"].contains(&kind)
                && permissions.chars().all(|letter| "rwm".contains(letter));
            if !fits {
                return Err(format!("device node {:?} makes no sense", node.path));
            }
        }
        for mount in &self.mounts {
            if mount.container_path.is_empty() || mount.host_path.is_empty() {
                return Err("a mount needs hostPath and containerPath".to_owned());
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.hook_name.as_str()) || hook.path.is_empty() {
                return Err(format!("hook {:?} is none", hook.hook_name));
            }
        }
        for device in &self.net_devices {
            if device.host_interface_name.is_empty() || device.name.is_empty() {
                return Err("a network device needs hostInterfaceName and name".to_owned());
            }
        }
        Ok(())
    }
}

/// Whether a vendor, or a class, may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    name.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && name.ends_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.chars().all(inner)
}

/// Whether a device may be called so.
pub(super) fn is_device(name: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || "_-.:".contains(letter);
    name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.ends_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.chars().all(inner)
}
