//! What a container's spec depends on and its own configuration does not say: the pod's namespaces,
//! the host's devices, the seccomp profile, the image's defaults.

use std::path::{Path, PathBuf};

use husk_cri_api::v1::{self, NamespaceMode};
use husk_image::Image;
use oci_spec::runtime::Spec;

use super::creation::{Creation, spec_error};
use crate::apparmor;
use crate::cdi;
use crate::error::PodError;
use crate::host;
use crate::spec::namespace_options;
use crate::spec::{
    self, ImageDefaults, Namespaces, PodNamespaces, SeccompProfile, SeccompRequest, SpecError,
};

/// What the image says of how it is run.
pub(super) fn defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        user: config.user.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        volumes: config.volumes.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
    }
}

/// The pod's host name, or the node's where the pod has none of its own.
pub(super) fn hostname(creation: &Creation) -> &str {
    let Creation {
        services, sandbox, ..
    } = creation;
    let host_network = namespace_options(sandbox).network() == NamespaceMode::Node;
    if host_network || sandbox.hostname.is_empty() {
        &services.host.hostname
    } else {
        &sandbox.hostname
    }
}

/// Which of the pod's pinned namespaces the container joins.
pub(super) fn namespaces(creation: &Creation) -> Result<Namespaces, SpecError> {
    let pod = namespace_options(&creation.sandbox);
    let pinned = creation
        .services
        .directories
        .pod(&creation.pod.id)
        .join("ns");
    let of_pod =
        |mode: NamespaceMode, name: &str| (mode == NamespaceMode::Pod).then(|| pinned.join(name));
    let user_mode = pod.userns_options.clone().unwrap_or_default().mode();
    let mapped = pod.userns_options.is_some() && user_mode == NamespaceMode::Pod;
    let namespaces = PodNamespaces {
        network: of_pod(pod.network(), "net"),
        ipc: of_pod(pod.ipc(), "ipc"),
        uts: of_pod(pod.network(), "uts"),
        pid: of_pod(pod.pid(), "pid"),
        user: mapped.then(|| pinned.join("user")),
    };
    Namespaces::for_container(&creation.config, &namespaces, target(creation))
}

/// The PID namespace of the container that this one wants to look into.
fn target(creation: &Creation) -> Option<PathBuf> {
    let context = creation.config.linux.as_ref()?.security_context.as_ref()?;
    let wanted = &context.namespace_options.as_ref()?.target_id;
    let sibling = creation
        .siblings
        .iter()
        .find(|sibling| !wanted.is_empty() && sibling.id.starts_with(wanted.as_str()))?;
    Some(format!("/proc/{}/ns/pid", sibling.pid()?).into())
}

/// The host's devices that the container is given.
pub(super) fn devices(config: &v1::ContainerConfig) -> Result<Vec<spec::ResolvedDevice>, PodError> {
    let mut devices = Vec::new();
    for device in &config.devices {
        let resolved = host::resolve_device(device).map_err(|source| PodError::Device {
            path: device.host_path.clone(),
            source: Box::new(source),
        })?;
        devices.extend(resolved);
    }
    Ok(devices)
}

/// Brings CDI devices into a spec.
pub(super) fn inject<'a>(
    creation: &Creation,
    spec: &mut Spec,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), PodError> {
    let mut names = names.peekable();
    if names.peek().is_none() {
        return Ok(());
    }
    let directories = &creation.services.config.cdi.dirs;
    let edits = cdi::edits(directories, names).map_err(|source| PodError::Cdi {
        subject: creation.config.metadata.clone().unwrap_or_default().name,
        source: Box::new(source),
    })?;
    spec::adjust::inject(spec, &edits).map_err(|source| spec_error(creation, source))
}

/// Loads the profile that the container asks for.
pub(super) fn seccomp(creation: &Creation) -> Result<SeccompProfile, PodError> {
    let configured = &creation.services.config.defaults.seccomp_profile;
    let request =
        spec::seccomp_request(&creation.config).map_err(|source| spec_error(creation, source))?;
    let path = match (request, configured) {
        (SeccompRequest::Unconfined, _) => return Ok(SeccompProfile::Unconfined),
        (SeccompRequest::RuntimeDefault, None) => return Ok(SeccompProfile::RuntimeDefault),
        (SeccompRequest::RuntimeDefault, Some(path)) => path.clone(),
        (SeccompRequest::Localhost(path), _) => path,
    };
    let json = std::fs::read(&path).map_err(PodError::io("reading the seccomp profile", &path))?;
    Ok(SeccompProfile::Localhost {
        name: path.to_string_lossy().into_owned(),
        json,
    })
}

/// A profile that the kernel does not have would fail the container's start with less to say.
pub(super) fn apparmor_is_loaded(spec: &Spec) -> Result<(), PodError> {
    let process = spec.process().as_ref();
    let Some(name) = process.and_then(|process| process.apparmor_profile().as_ref()) else {
        return Ok(());
    };
    if apparmor::is_loaded(name) == Some(false) {
        return Err(PodError::Invalid {
            subject: format!("AppArmor profile {name:?}"),
            cause: "is not loaded on this node".into(),
        });
    }
    Ok(())
}

/// Where the output goes; the directory is made. That the paths stay inside was checked before.
pub(super) fn log_path(
    sandbox: &v1::PodSandboxConfig,
    config: &v1::ContainerConfig,
) -> Result<Option<PathBuf>, PodError> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&sandbox.log_directory).join(&config.log_path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(PodError::io("making", parent))?;
    }
    Ok(Some(path))
}
