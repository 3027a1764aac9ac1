//! From the kubelet's words to the OCI runtime's: CRI configurations become an OCI runtime spec.
//!
//! Everything here is pure: values in, value out. No file is read, no clock is asked, no process is
//! looked at. What the host can do comes in as [`HostFacts`], who the user is as
//! [`user::ResolvedUser`], and where the pod keeps its files as [`SandboxFiles`]; the rims that find
//! those out are `host.rs` and `users.rs`.
//!
//! The order a caller keeps:
//!
//! ```text
//! RunPodSandbox    validate_sandbox ─▶ sysctls (set by whoever makes the namespaces)
//! CreateContainer  validate_container ─▶ user::request + user::resolve ─▶ container
//! Exec, ExecSync   exec (from the process of the saved spec)
//! Update…Resources resources::validate ─▶ resources::update (from the saved resources)
//! Plugins, CDI     adjust::inject ─▶ adjust::adjust (over the spec of `container`)
//! ```
//!
//! Trust: the kubelet's configuration is policy, but it is still checked so that a mistake is named
//! early. Image configurations are untrusted: none of their fields chooses a host path, an
//! annotation, a hook or a device.
//!
//! Deliberately absent: hooks and annotations from anyone but the node's own plugins, namespaces made (the pod's
//! are pinned by its monitor), SELinux labels, and the argv of the OCI runtime.

pub mod adjust;
pub mod devices;
pub mod error;
pub mod facts;
pub mod namespaces;
pub mod resources;
pub mod seccomp;
pub mod signal;
pub mod sysctl;
pub mod user;
pub mod validate;

mod annotations;
mod capabilities;
mod mounts;
mod process;
mod security;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use husk_cri_api::v1;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Root, Spec};

pub use annotations::Identity;
pub(crate) use capabilities::{DEFAULT as DEFAULT_CAPABILITIES, Named, parse as parse_capability};
pub use capabilities::{bounding_from_mask, known as known_capabilities};
pub use devices::ResolvedDevice;
pub use error::{SpecError, Warning};
pub use facts::{
    AppArmorFacts, CgroupFacts, CgroupPath, CgroupVersion, HostFacts, ImageDefaults, KernelVersion,
    RuntimeFeatures, SandboxFiles,
};
pub use mounts::volume_directories;
pub use namespaces::{Namespace, Namespaces, PodNamespaces, mapped_root, namespace_options};
pub use process::exec;
pub use seccomp::{SeccompProfile, SeccompRequest};
pub use security::seccomp_request;
pub use sysctl::{Sysctl, sysctls};
pub use validate::{validate_container, validate_runtime, validate_sandbox};

/// All that decides a container's spec. The pod's code gathers it, [`container`] only reads it.
#[derive(Debug)]
pub struct ContainerInput<'a> {
    /// The container as the kubelet described it, already checked by [`validate_container`].
    pub config: &'a v1::ContainerConfig,
    /// The pod's configuration, already checked by [`validate_sandbox`].
    pub sandbox: &'a v1::PodSandboxConfig,
    /// Ids for the annotations that tell other programs what this container is.
    pub identity: Identity<'a>,
    /// What the image's configuration asks for where the kubelet says nothing.
    pub image: &'a ImageDefaults,
    /// The user that `user::resolve` found in the image's files.
    pub user: &'a user::ResolvedUser,
    /// Absolute path of the mounted root filesystem.
    pub rootfs: &'a Path,
    /// Which namespaces are the host's, the pod's or new.
    pub namespaces: &'a Namespaces,
    /// The name that the container sees: the pod's, or the node's where the network is the host's.
    pub hostname: &'a str,
    /// Where the container's cgroup is.
    pub cgroup: &'a CgroupPath,
    /// The files that the pod shares with its containers.
    pub files: &'a SandboxFiles,
    /// What this host can do.
    pub host: &'a HostFacts,
    /// Devices of `config.devices` (and CDI) with their numbers looked up.
    pub devices: &'a [ResolvedDevice],
    /// Host paths of image mounts, by the container path of the mount.
    pub image_mounts: &'a BTreeMap<String, PathBuf>,
    /// The seccomp profile that [`seccomp_request`] asked for, loaded.
    pub seccomp: &'a SeccompProfile,
}

impl ContainerInput<'_> {
    fn security(&self) -> Option<&v1::LinuxContainerSecurityContext> {
        self.config.linux.as_ref()?.security_context.as_ref()
    }

    fn privileged(&self) -> bool {
        self.security().is_some_and(|context| context.privileged)
    }

    fn readonly_rootfs(&self) -> bool {
        self.security()
            .is_some_and(|context| context.readonly_rootfs)
    }
}

/// A spec, and what was asked for but left out because this host has no such thing.
#[derive(Debug)]
pub struct ContainerSpec {
    /// What goes into the bundle's `config.json`.
    pub spec: Spec,
    /// Worth a line in the log each; never a reason to fail.
    pub warnings: Vec<Warning>,
}

/// Builds the OCI runtime spec of one container.
///
/// # Errors
/// [`SpecError`] names the first field that cannot be turned into a spec on this host.
pub fn container(input: &ContainerInput<'_>) -> Result<ContainerSpec, SpecError> {
    let mut warnings = Vec::new();
    let mounts = mounts::container(input)?;
    let process = process::container(input, &mut warnings)?;
    let linux = linux(input, &mut warnings)?;

    let mut root = Root::default();
    root.set_path(input.rootfs.to_path_buf());
    root.set_readonly(Some(input.readonly_rootfs()));

    let mut spec = Spec::default();
    spec.set_version(oci_version(&mounts).to_owned());
    spec.set_root(Some(root));
    spec.set_mounts(Some(mounts));
    spec.set_process(Some(process));
    // The pod's UTS namespace already carries the name; only a namespace of the container's own
    // needs it from the OCI runtime.
    spec.set_hostname(match input.namespaces.uts {
        Namespace::New => Some(input.hostname.to_owned()),
        Namespace::Host | Namespace::Path(_) => None,
    });
    spec.set_domainname(None);
    spec.set_hooks(None);
    spec.set_annotations(Some(annotations::container(input)));
    spec.set_linux(Some(linux));
    Ok(ContainerSpec { spec, warnings })
}

/// The lowest version that the used fields need: crun 1.8 refuses a version that is newer than it
/// knows, and nothing but idmapped mounts and `rro` goes beyond 1.0.2 here. Runtimes that know
/// `rro` accept it under 1.0.2 too, so only idmapped mounts raise the version.
fn oci_version(mounts: &[oci_spec::runtime::Mount]) -> &'static str {
    let idmapped = mounts.iter().any(|mount| mount.uid_mappings().is_some());
    if idmapped { "1.1.0" } else { "1.0.2" }
}

fn linux(input: &ContainerInput<'_>, warnings: &mut Vec<Warning>) -> Result<Linux, SpecError> {
    let mut resources = resources::create(resources_of(input.config), input.host, warnings)?;
    resources.set_devices(Some(devices::cgroup_rules(input)));

    let (uids, gids) = namespaces::id_mappings(input.sandbox);
    let mut linux = Linux::default();
    linux.set_uid_mappings(uids);
    linux.set_gid_mappings(gids);
    linux.set_sysctl(None);
    linux.set_resources(Some(resources));
    linux.set_cgroups_path(Some(input.cgroup.to_spec()));
    linux.set_namespaces(Some(namespaces::container(input)));
    linux.set_devices(Some(devices::nodes(input)));
    linux.set_seccomp(security::seccomp(input, warnings)?);
    linux.set_rootfs_propagation(mounts::rootfs_propagation(input.config));
    linux.set_masked_paths(Some(security::masked_paths(input)));
    linux.set_readonly_paths(Some(security::readonly_paths(input)));
    Ok(linux)
}

fn resources_of(config: &v1::ContainerConfig) -> Option<&v1::LinuxContainerResources> {
    config.linux.as_ref()?.resources.as_ref()
}

/// The names that the OCI runtime spec gives to namespaces, in the order in which we write them.
const NAMESPACE_ORDER: [LinuxNamespaceType; 7] = [
    LinuxNamespaceType::User,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Cgroup,
];
