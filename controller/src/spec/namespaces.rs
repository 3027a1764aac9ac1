//! Which namespaces a container joins, and how users are mapped into a user namespace.

use std::path::PathBuf;

use husk_cri_api::v1::{self, NamespaceMode};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
};

use super::error::SpecError;
use super::facts::CgroupVersion;
use super::{ContainerInput, NAMESPACE_ORDER};

/// Where a container's namespace of one kind comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The host's: the spec does not mention it.
    Host,
    /// One that exists, such as the pod's pinned one or a target container's.
    Path(PathBuf),
    /// A new one, made by the OCI runtime.
    New,
}

/// The namespaces of one container. Mount is always new; cgroup follows the host's cgroup version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Network devices, addresses and routes.
    pub network: Namespace,
    /// System V and POSIX message queues and shared memory.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// Process ids.
    pub pid: Namespace,
    /// User and group ids.
    pub user: Namespace,
}

/// Where the pod's namespaces are pinned; `None` where the pod uses the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNamespaces {
    /// The pinned network namespace.
    pub network: Option<PathBuf>,
    /// The pinned IPC namespace.
    pub ipc: Option<PathBuf>,
    /// The pinned UTS namespace.
    pub uts: Option<PathBuf>,
    /// The PID namespace that containers share, where the pod has one.
    pub pid: Option<PathBuf>,
    /// The pinned user namespace.
    pub user: Option<PathBuf>,
}

impl Namespaces {
    /// Chooses a container's namespaces.
    ///
    /// `target` is the PID namespace of the container that `NamespaceOption.target_id` names,
    /// such as `/proc/PID/ns/pid`; it is only read in mode TARGET.
    ///
    /// # Errors
    /// Mode TARGET without a target, and mode POD for process ids in a pod that shares none.
    pub fn for_container(
        config: &v1::ContainerConfig,
        pod: &PodNamespaces,
        target: Option<PathBuf>,
    ) -> Result<Self, SpecError> {
        let options = options_of(config);
        let mode = options
            .as_ref()
            .map_or(NamespaceMode::Container, v1::NamespaceOption::pid);
        let pid = match mode {
            NamespaceMode::Container => Namespace::New,
            NamespaceMode::Node => Namespace::Host,
            NamespaceMode::Pod => Namespace::Path(pod.pid.clone().ok_or(SpecError::invalid(
                "namespace_options.pid",
                "POD",
                "the pod has no PID namespace that containers share",
            ))?),
            NamespaceMode::Target => Namespace::Path(target.ok_or(SpecError::Missing {
                field: "namespace_options.target_id",
            })?),
        };
        let pinned = |path: &Option<PathBuf>| path.clone().map_or(Namespace::Host, Namespace::Path);
        Ok(Self {
            network: pinned(&pod.network),
            ipc: pinned(&pod.ipc),
            uts: pinned(&pod.uts),
            pid,
            user: pinned(&pod.user),
        })
    }
}

/// The namespace options of a container.
pub(super) fn options_of(config: &v1::ContainerConfig) -> Option<v1::NamespaceOption> {
    config
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .namespace_options
        .clone()
}

/// The namespace options of a pod.
pub(super) fn sandbox_options(sandbox: &v1::PodSandboxConfig) -> Option<&v1::NamespaceOption> {
    sandbox
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .namespace_options
        .as_ref()
}

pub(super) fn container(input: &ContainerInput<'_>) -> Vec<LinuxNamespace> {
    NAMESPACE_ORDER
        .into_iter()
        .filter_map(|kind| entry(input, kind))
        .collect()
}

fn entry(input: &ContainerInput<'_>, kind: LinuxNamespaceType) -> Option<LinuxNamespace> {
    let source = match kind {
        LinuxNamespaceType::Mount => &Namespace::New,
        LinuxNamespaceType::Cgroup => cgroup(input),
        LinuxNamespaceType::Uts => &input.namespaces.uts,
        LinuxNamespaceType::Ipc => &input.namespaces.ipc,
        LinuxNamespaceType::User => &input.namespaces.user,
        LinuxNamespaceType::Pid => &input.namespaces.pid,
        LinuxNamespaceType::Network => &input.namespaces.network,
        LinuxNamespaceType::Time => &Namespace::Host,
    };
    let path = match source {
        Namespace::Host => return None,
        Namespace::Path(path) => Some(path.clone()),
        Namespace::New => None,
    };
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace.set_path(path);
    Some(namespace)
}

/// Private on v2, so that a container sees its own cgroup as the root. On v1 the view through
/// several hierarchies breaks programs that look up their own path, and privileged containers
/// manage the host's.
fn cgroup(input: &ContainerInput<'_>) -> &'static Namespace {
    match input.host.cgroups.version {
        CgroupVersion::V2 if !input.privileged() => &Namespace::New,
        CgroupVersion::V1 | CgroupVersion::V2 => &Namespace::Host,
    }
}

type Mappings = Option<Vec<LinuxIdMapping>>;

/// The pod's user and group mappings, where it has a user namespace.
pub(super) fn id_mappings(sandbox: &v1::PodSandboxConfig) -> (Mappings, Mappings) {
    match sandbox_options(sandbox).and_then(|options| options.userns_options.as_ref()) {
        Some(userns) if userns.mode() == NamespaceMode::Pod => {
            (Some(mappings(&userns.uids)), Some(mappings(&userns.gids)))
        }
        Some(_) | None => (None, None),
    }
}

/// The namespace modes of a pod, with the CRI's defaults where nothing is said.
pub fn namespace_options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

/// The host's user and group that are root in the pod's user namespace, where it has one.
#[must_use]
pub fn mapped_root(sandbox: &v1::PodSandboxConfig) -> Option<(u32, u32)> {
    let (uids, gids) = id_mappings(sandbox);
    let host = |mappings: Mappings| Some(mappings?.first()?.host_id());
    host(uids).zip(host(gids))
}

/// Whether the pod has a user namespace of its own.
pub(super) fn has_user_namespace(sandbox: &v1::PodSandboxConfig) -> bool {
    id_mappings(sandbox).0.is_some()
}

pub(super) fn mappings(from: &[v1::IdMapping]) -> Vec<LinuxIdMapping> {
    from.iter()
        .map(|mapping| {
            LinuxIdMappingBuilder::default()
                .host_id(mapping.host_id)
                .container_id(mapping.container_id)
                .size(mapping.length)
                .build()
                // Every field has a default, so building cannot fail.
                .unwrap_or_default()
        })
        .collect()
}

/// Checks a pod's user namespace: one mapping each, which maps container id 0.
pub(super) fn validate_userns(userns: &v1::UserNamespace) -> Result<(), SpecError> {
    const FIELD: &str = "userns_options";
    match userns.mode() {
        NamespaceMode::Node if userns.uids.is_empty() && userns.gids.is_empty() => Ok(()),
        NamespaceMode::Node => Err(SpecError::invalid(
            FIELD,
            "NODE",
            "the host's user namespace takes no mappings",
        )),
        NamespaceMode::Pod => {
            validate_mapping("userns_options.uids", &userns.uids)?;
            validate_mapping("userns_options.gids", &userns.gids)
        }
        NamespaceMode::Container | NamespaceMode::Target => Err(SpecError::invalid(
            FIELD,
            userns.mode().as_str_name(),
            "must be POD or NODE",
        )),
    }
}

/// Checks the other namespaces of a pod with a user namespace: its root has no power over the
/// host's, and cannot mount a /proc or a message queue file system of them.
pub(super) fn validate_beside_userns(options: &v1::NamespaceOption) -> Result<(), SpecError> {
    for (field, mode) in [
        ("namespace_options.pid", options.pid()),
        ("namespace_options.ipc", options.ipc()),
    ] {
        if mode == NamespaceMode::Node {
            return Err(SpecError::invalid(
                field,
                "NODE",
                "a pod with a user namespace cannot share it with the node",
            ));
        }
    }
    Ok(())
}

/// Checks that a container wants the user namespace of its pod, where it says anything.
pub(super) fn validate_same_userns(
    container: Option<&v1::UserNamespace>,
    sandbox: Option<&v1::UserNamespace>,
) -> Result<(), SpecError> {
    let Some(container) = container else {
        return Ok(());
    };
    let node = v1::UserNamespace {
        mode: NamespaceMode::Node.into(),
        ..Default::default()
    };
    if container == sandbox.unwrap_or(&node) {
        return Ok(());
    }
    Err(SpecError::invalid(
        "userns_options",
        container.mode().as_str_name(),
        "it differs from the pod's",
    ))
}

pub(super) fn validate_mapping(
    field: &'static str,
    from: &[v1::IdMapping],
) -> Result<(), SpecError> {
    let [mapping] = from else {
        return Err(SpecError::invalid(
            field,
            &format!("{} mappings", from.len()),
            "exactly one mapping is supported",
        ));
    };
    let text = format!(
        "{}:{}:{}",
        mapping.container_id, mapping.host_id, mapping.length
    );
    if mapping.container_id != 0 {
        return Err(SpecError::invalid(
            field,
            &text,
            "container id 0 must be mapped",
        ));
    }
    if mapping.length == 0 {
        return Err(SpecError::invalid(field, &text, "the length must not be 0"));
    }
    if mapping.host_id.checked_add(mapping.length).is_none() {
        return Err(SpecError::invalid(
            field,
            &text,
            "the range ends beyond the last id",
        ));
    }
    Ok(())
}
