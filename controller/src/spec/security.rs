//! Masked and read-only paths, AppArmor and the choice of a seccomp profile.

use husk_cri_api::v1::{self, security_profile::ProfileType};
use oci_spec::runtime::LinuxSeccomp;

use super::error::{SpecError, Warning};
use super::seccomp::{self, ProfileContext, SeccompProfile, SeccompRequest};
use super::{ContainerInput, capabilities, namespaces};

/// Files of the kernel that tell about, or act on, the whole host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Power readings leak keys (GHSA-7ww5-4wqc-m92c): masked also where the kubelet's list forgets it.
const POWERCAP: &str = "/sys/devices/virtual/powercap";

/// Files of the kernel that may be read but never written.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The kubelet sends its own list, and an empty one for `procMount: Unmasked`, which Kubernetes
/// allows in user namespaces only. An empty list anywhere else comes from a client that does not
/// care: it gets the defaults.
pub(super) fn masked_paths(input: &ContainerInput<'_>) -> Vec<String> {
    let asked = input
        .security()
        .map(|context| context.masked_paths.as_slice());
    let mut paths = paths(input, asked, &MASKED);
    if !paths.is_empty() && !paths.iter().any(|path| path == POWERCAP) {
        paths.push(POWERCAP.to_owned());
    }
    paths
}

pub(super) fn readonly_paths(input: &ContainerInput<'_>) -> Vec<String> {
    let asked = input
        .security()
        .map(|context| context.readonly_paths.as_slice());
    paths(input, asked, &READONLY)
}

fn paths(input: &ContainerInput<'_>, asked: Option<&[String]>, defaults: &[&str]) -> Vec<String> {
    if input.privileged() {
        return Vec::new();
    }
    let unmasked = input.security().is_some() && namespaces::has_user_namespace(input.sandbox);
    match asked {
        Some(asked) if !asked.is_empty() || unmasked => asked.to_vec(),
        Some(_) | None => defaults.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// The AppArmor profile's name, or nothing for an unconfined process.
pub(super) fn apparmor(
    input: &ContainerInput<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<String>, SpecError> {
    match apparmor_request(input.security()) {
        Request::Unconfined => Ok(None),
        // A privileged container is confined only where its profile is named.
        Request::RuntimeDefault if input.privileged() => Ok(None),
        Request::Localhost(name) if input.host.apparmor.is_some() => Ok(Some(name)),
        Request::Localhost(name) => Err(SpecError::unsupported("apparmor", &name, "AppArmor")),
        Request::RuntimeDefault => {
            let Some(facts) = &input.host.apparmor else {
                return Ok(None);
            };
            if facts.default_profile.is_none() {
                warnings.push(Warning::AppArmor);
            }
            Ok(facts.default_profile.clone())
        }
    }
}

enum Request {
    Unconfined,
    RuntimeDefault,
    Localhost(String),
}

/// Clients without the structured field still send the old one, in its three spellings.
fn apparmor_request(context: Option<&v1::LinuxContainerSecurityContext>) -> Request {
    let Some(context) = context else {
        return Request::RuntimeDefault;
    };
    if let Some(profile) = &context.apparmor {
        return match request(profile) {
            // Some clients keep the old field's prefix in the new one.
            Request::Localhost(name) => {
                Request::Localhost(name.strip_prefix("localhost/").unwrap_or(&name).to_owned())
            }
            other @ (Request::Unconfined | Request::RuntimeDefault) => other,
        };
    }
    #[expect(deprecated, reason = "older clients fill only this field")]
    let old = context.apparmor_profile.as_str();
    old_request(old, Request::RuntimeDefault)
}

fn request(profile: &v1::SecurityProfile) -> Request {
    match profile.profile_type() {
        ProfileType::RuntimeDefault => Request::RuntimeDefault,
        ProfileType::Unconfined => Request::Unconfined,
        ProfileType::Localhost => Request::Localhost(profile.localhost_ref.clone()),
    }
}

fn old_request(old: &str, absent: Request) -> Request {
    match old {
        "" => absent,
        "runtime/default" | "docker/default" => Request::RuntimeDefault,
        "unconfined" => Request::Unconfined,
        other => Request::Localhost(other.strip_prefix("localhost/").unwrap_or(other).to_owned()),
    }
}

/// Which seccomp profile a container asks for; whoever calls loads the file of a local one.
///
/// # Errors
/// A local profile whose path is not absolute.
pub fn seccomp_request(config: &v1::ContainerConfig) -> Result<SeccompRequest, SpecError> {
    let context = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let Some(context) = context else {
        return Ok(SeccompRequest::Unconfined);
    };
    if context.privileged {
        return Ok(SeccompRequest::Unconfined);
    }
    #[expect(deprecated, reason = "older clients fill only this field")]
    let old = context.seccomp_profile_path.as_str();
    let asked = match &context.seccomp {
        Some(profile) => request(profile),
        None => old_request(old, Request::Unconfined),
    };
    match asked {
        Request::Unconfined => Ok(SeccompRequest::Unconfined),
        Request::RuntimeDefault => Ok(SeccompRequest::RuntimeDefault),
        Request::Localhost(path) if path.starts_with('/') && !path.contains('\0') => {
            Ok(SeccompRequest::Localhost(path.into()))
        }
        Request::Localhost(path) => Err(SpecError::invalid(
            "seccomp.localhost_ref",
            &path,
            "the path must be absolute",
        )),
    }
}

/// The filter for the spec.
pub(super) fn seccomp(
    input: &ContainerInput<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    if input.privileged() {
        return Ok(None);
    }
    let context = ProfileContext {
        capabilities: &capabilities::granted(input)?.bounding,
        architecture: input.host.architecture,
        kernel: input.host.kernel,
    };
    match input.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault if !input.host.seccomp => {
            warnings.push(Warning::Seccomp);
            Ok(None)
        }
        SeccompProfile::RuntimeDefault => Ok(Some(seccomp::runtime_default(&context))),
        SeccompProfile::Localhost { name, .. } if !input.host.seccomp => {
            Err(SpecError::unsupported("seccomp", name, "seccomp"))
        }
        SeccompProfile::Localhost { name, json } => seccomp::localhost(json, &context)
            .map(Some)
            .map_err(|source| SpecError::Seccomp {
                name: name.clone(),
                source,
            }),
    }
}
