//! Checks of whole requests, before anything is made for them.

use std::path::{Component, Path};

use husk_cri_api::v1::{self, NamespaceMode};

use super::error::SpecError;
use super::facts::{HostFacts, RuntimeFeatures};
use super::namespaces::{self, options_of, sandbox_options};
use super::{capabilities, mounts, resources, sysctl, user};

mod mount;

/// Checks a pod's configuration.
///
/// # Errors
/// The first field that is refused, and why.
pub fn validate_sandbox(config: &v1::PodSandboxConfig) -> Result<(), SpecError> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or(SpecError::Missing { field: "metadata" })?;
    validate_name("metadata.name", &metadata.name)?;
    validate_name("metadata.namespace", &metadata.namespace)?;
    validate_name("metadata.uid", &metadata.uid)?;
    validate_hostname(&config.hostname)?;
    validate_log_directory(&config.log_directory)?;
    for port in &config.port_mappings {
        validate_port("port_mappings.container_port", port.container_port)?;
        validate_port("port_mappings.host_port", port.host_port)?;
    }
    sysctl::sysctls(config)?;
    validate_sandbox_linux(config)
}

fn validate_sandbox_linux(config: &v1::PodSandboxConfig) -> Result<(), SpecError> {
    let Some(linux) = &config.linux else {
        return Ok(());
    };
    validate_no_parent("linux.cgroup_parent", &linux.cgroup_parent)?;
    for asked in linux.resources.iter().chain(&linux.overhead) {
        resources::validate(asked)?;
    }
    if let Some(context) = &linux.security_context {
        user::validate_ids(
            context.run_as_user.as_ref(),
            context.run_as_group.as_ref(),
            &context.supplemental_groups,
        )?;
    }
    let Some(options) = sandbox_options(config) else {
        return Ok(());
    };
    for (field, mode) in [
        ("namespace_options.network", options.network()),
        ("namespace_options.ipc", options.ipc()),
    ] {
        if mode != NamespaceMode::Pod && mode != NamespaceMode::Node {
            return Err(SpecError::invalid(
                field,
                mode.as_str_name(),
                "must be POD or NODE",
            ));
        }
    }
    if options.pid() == NamespaceMode::Target {
        return Err(SpecError::invalid(
            "namespace_options.pid",
            "TARGET",
            "a pod has no target",
        ));
    }
    let Some(userns) = &options.userns_options else {
        return Ok(());
    };
    namespaces::validate_userns(userns)?;
    if userns.mode() == NamespaceMode::Pod {
        namespaces::validate_beside_userns(options)?;
    }
    Ok(())
}

/// Checks a container's configuration within its pod's and on this host.
///
/// # Errors
/// The first field that is refused, and why.
pub fn validate_container(
    config: &v1::ContainerConfig,
    sandbox: &v1::PodSandboxConfig,
    host: &HostFacts,
) -> Result<(), SpecError> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or(SpecError::Missing { field: "metadata" })?;
    validate_name("metadata.name", &metadata.name)?;
    if config
        .image
        .as_ref()
        .is_none_or(|image| image.image.is_empty())
    {
        return Err(SpecError::Missing { field: "image" });
    }
    validate_log_path(&config.log_path)?;
    validate_working_dir(&config.working_dir)?;
    config.envs.iter().try_for_each(validate_env)?;
    config
        .mounts
        .iter()
        .try_for_each(|mount| mount::validate(mount, host))?;
    config.devices.iter().try_for_each(validate_device)?;
    let Some(linux) = &config.linux else {
        return Ok(());
    };
    if let Some(asked) = &linux.resources {
        resources::validate(asked)?;
    }
    let Some(context) = &linux.security_context else {
        return Ok(());
    };
    validate_security(context, sandbox)?;
    validate_namespaces(config, sandbox)?;
    super::seccomp_request(config).map(drop)
}

/// Checks that the OCI runtime of the pod's handler can do what a container's mounts need.
///
/// # Errors
/// The first mount that it cannot make.
pub fn validate_runtime(
    config: &v1::ContainerConfig,
    host: &HostFacts,
    features: RuntimeFeatures,
) -> Result<(), SpecError> {
    let recursive = features.recursive_read_only && host.recursive_read_only();
    for mount in &config.mounts {
        if mount.recursive_read_only && !recursive {
            return Err(SpecError::unsupported(
                "mounts.recursive_read_only",
                &mount.container_path,
                "an OCI runtime and a kernel that make mounts recursively read-only",
            ));
        }
        if mounts::is_mapped(mount) && !features.idmapped_mounts {
            return Err(SpecError::unsupported(
                "mounts.uidMappings",
                &mount.container_path,
                "an OCI runtime with id-mapped mounts, such as runc 1.2",
            ));
        }
    }
    Ok(())
}

fn validate_security(
    context: &v1::LinuxContainerSecurityContext,
    sandbox: &v1::PodSandboxConfig,
) -> Result<(), SpecError> {
    user::validate_ids(
        context.run_as_user.as_ref(),
        context.run_as_group.as_ref(),
        &context.supplemental_groups,
    )?;
    if context.run_as_group.is_some()
        && context.run_as_user.is_none()
        && context.run_as_username.is_empty()
    {
        return Err(SpecError::Missing {
            field: "run_as_user (run_as_group is given)",
        });
    }
    if context.run_as_user.is_some() && !context.run_as_username.is_empty() {
        return Err(SpecError::invalid(
            "run_as_username",
            &context.run_as_username,
            "run_as_user is given too",
        ));
    }
    validate_capabilities(context.capabilities.as_ref())?;
    for (field, paths) in [
        ("masked_paths", &context.masked_paths),
        ("readonly_paths", &context.readonly_paths),
    ] {
        for path in paths {
            validate_container_path(field, path)?;
        }
    }
    let allowed = sandbox
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .is_some_and(|context| context.privileged);
    if context.privileged && !allowed {
        return Err(SpecError::invalid(
            "privileged",
            "true",
            "the pod was not made for privileged containers",
        ));
    }
    Ok(())
}

fn validate_capabilities(asked: Option<&v1::Capability>) -> Result<(), SpecError> {
    let Some(asked) = asked else { return Ok(()) };
    for (field, names) in [
        ("capabilities.add_capabilities", &asked.add_capabilities),
        ("capabilities.drop_capabilities", &asked.drop_capabilities),
        (
            "capabilities.add_ambient_capabilities",
            &asked.add_ambient_capabilities,
        ),
    ] {
        for name in names {
            capabilities::parse(field, name)?;
        }
    }
    Ok(())
}

/// Network and IPC are the pod's, whatever the container says; only process ids are its choice.
fn validate_namespaces(
    config: &v1::ContainerConfig,
    sandbox: &v1::PodSandboxConfig,
) -> Result<(), SpecError> {
    let Some(options) = options_of(config) else {
        return Ok(());
    };
    let pod = sandbox_options(sandbox).and_then(|options| options.userns_options.as_ref());
    namespaces::validate_same_userns(options.userns_options.as_ref(), pod)?;
    if options.pid() == NamespaceMode::Node && namespaces::has_user_namespace(sandbox) {
        namespaces::validate_beside_userns(&options)?;
    }
    if options.pid() == NamespaceMode::Target && options.target_id.is_empty() {
        return Err(SpecError::Missing {
            field: "namespace_options.target_id",
        });
    }
    Ok(())
}

fn validate_name(field: &'static str, name: &str) -> Result<(), SpecError> {
    if name.is_empty() {
        return Err(SpecError::Missing { field });
    }
    if name.chars().any(char::is_control) || name.contains('/') {
        return Err(SpecError::invalid(
            field,
            name,
            "a slash or a control character is in it",
        ));
    }
    Ok(())
}

/// hostname(7): letters, digits, hyphens and dots, at most 64 bytes in the kernel.
fn validate_hostname(name: &str) -> Result<(), SpecError> {
    const FIELD: &str = "hostname";
    if name.is_empty() {
        return Ok(());
    }
    if name.len() > 64 {
        return Err(SpecError::invalid(
            FIELD,
            name,
            "it is longer than 64 bytes",
        ));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err(SpecError::invalid(
        FIELD,
        name,
        "letters, digits, hyphens and dots only",
    ))
}

fn validate_log_directory(directory: &str) -> Result<(), SpecError> {
    if directory.is_empty() {
        return Ok(());
    }
    if !directory.starts_with('/') {
        return Err(SpecError::invalid(
            "log_directory",
            directory,
            "the path must be absolute",
        ));
    }
    validate_no_parent("log_directory", directory)
}

fn validate_log_path(path: &str) -> Result<(), SpecError> {
    if path.starts_with('/') {
        return Err(SpecError::invalid(
            "log_path",
            path,
            "it must be relative to the log directory",
        ));
    }
    validate_no_parent("log_path", path)
}

fn validate_no_parent(field: &'static str, path: &str) -> Result<(), SpecError> {
    if path.contains(['\0', '\n']) {
        return Err(SpecError::invalid(
            field,
            path,
            "a NUL or a newline is in it",
        ));
    }
    if Path::new(path)
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(SpecError::invalid(field, path, "it has .. in it"));
    }
    Ok(())
}

fn validate_port(field: &'static str, port: i32) -> Result<(), SpecError> {
    match u16::try_from(port) {
        Ok(_) => Ok(()),
        Err(_) => Err(SpecError::invalid(
            field,
            &port.to_string(),
            "must be 0 to 65535",
        )),
    }
}

fn validate_working_dir(directory: &str) -> Result<(), SpecError> {
    if directory.is_empty() {
        return Ok(());
    }
    validate_container_path("working_dir", directory)
}

/// A path in a container: absolute, and without `..`, which would mean different places to us and
/// to the OCI runtime where a symlink is on the way.
fn validate_container_path(field: &'static str, path: &str) -> Result<(), SpecError> {
    if !path.starts_with('/') {
        return Err(SpecError::invalid(field, path, "the path must be absolute"));
    }
    validate_no_parent(field, path)
}

/// environ(7): a key has no `=`; neither key nor value has a NUL. Newlines are data and stay.
fn validate_env(env: &v1::KeyValue) -> Result<(), SpecError> {
    if env.key.is_empty() {
        return Err(SpecError::Missing { field: "envs.key" });
    }
    if env.key.contains(['=', '\0']) {
        return Err(SpecError::invalid(
            "envs.key",
            &env.key,
            "an = or a NUL is in it",
        ));
    }
    if env.value.contains(&0) {
        return Err(SpecError::invalid(
            "envs.value",
            &env.key,
            "a NUL is in the value",
        ));
    }
    Ok(())
}

fn validate_device(device: &v1::Device) -> Result<(), SpecError> {
    validate_container_path("devices.container_path", &device.container_path)?;
    validate_container_path("devices.host_path", &device.host_path)?;
    if device.permissions.chars().any(|c| !"rwm".contains(c)) {
        return Err(SpecError::invalid(
            "devices.permissions",
            &device.permissions,
            "letters out of rwm only",
        ));
    }
    Ok(())
}
