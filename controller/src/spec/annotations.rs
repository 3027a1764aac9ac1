//! Annotations of the spec: ours, by name, and nobody else's.
//!
//! OCI runtimes take orders from annotations (`org.systemd.property.*` sets unit properties,
//! `run.oci.*` changes what crun does), so none is passed through: neither the pod's, nor the
//! container's, nor an image's labels (CVE-2024-3154, CVE-2026-53488).

use std::collections::HashMap;

use super::ContainerInput;

/// Ids of the container and its pod.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The container's id.
    pub container_id: &'a str,
    /// The pod sandbox's id.
    pub sandbox_id: &'a str,
}

/// The annotations that tools which inspect OCI bundles look for.
pub(super) fn container(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let pod = input.sandbox.metadata.clone().unwrap_or_default();
    let name = input.config.metadata.clone().unwrap_or_default().name;
    let image = input.config.image.clone().unwrap_or_default();
    let image = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    [
        ("container-type", "container".to_owned()),
        ("sandbox-id", input.identity.sandbox_id.to_owned()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
        ("container-id", input.identity.container_id.to_owned()),
        ("container-name", name),
        ("image-name", image),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value))
    .collect()
}
