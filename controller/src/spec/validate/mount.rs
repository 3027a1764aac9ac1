//! Checks of one mount.

use std::path::Path;

use husk_cri_api::v1::{self, MountPropagation};

use super::{validate_container_path, validate_no_parent};
use crate::spec::error::SpecError;
use crate::spec::facts::HostFacts;
use crate::spec::{mounts, namespaces};

pub(super) fn validate(mount: &v1::Mount, host: &HostFacts) -> Result<(), SpecError> {
    const PATH: &str = "mounts.container_path";
    validate_container_path(PATH, &mount.container_path)?;
    if mounts::clean(&mount.container_path) == Path::new("/") {
        return Err(SpecError::invalid(
            PATH,
            &mount.container_path,
            "the root is not a place for a mount",
        ));
    }
    validate_source(mount)?;
    validate_kind(mount, host)?;
    for option in &mount.mount_options {
        if !matches!(option.as_str(), "noexec" | "nodev" | "nosuid") {
            return Err(SpecError::invalid(
                "mounts.mount_options",
                option,
                "must be noexec, nodev or nosuid",
            ));
        }
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return Err(SpecError::Missing {
            field: "mounts.uidMappings and gidMappings (one is given)",
        });
    }
    if !mount.uid_mappings.is_empty() {
        namespaces::validate_mapping("mounts.uidMappings", &mount.uid_mappings)?;
        namespaces::validate_mapping("mounts.gidMappings", &mount.gid_mappings)?;
    }
    Ok(())
}

fn validate_source(mount: &v1::Mount) -> Result<(), SpecError> {
    const PATH: &str = "mounts.host_path";
    if mounts::is_image(mount) {
        if !mount.host_path.is_empty() {
            return Err(SpecError::invalid(
                PATH,
                &mount.host_path,
                "an image mount has no host path",
            ));
        }
        return validate_no_parent("mounts.image_sub_path", &mount.image_sub_path);
    }
    if !mount.image_sub_path.is_empty() {
        return Err(SpecError::Missing {
            field: "mounts.image (image_sub_path is given)",
        });
    }
    if !mount.host_path.starts_with('/') {
        return Err(SpecError::invalid(
            PATH,
            &mount.host_path,
            "the path must be absolute",
        ));
    }
    validate_no_parent(PATH, &mount.host_path)
}

fn validate_kind(mount: &v1::Mount, host: &HostFacts) -> Result<(), SpecError> {
    const RECURSIVE: &str = "mounts.recursive_read_only";
    // The feature's definition: an image is shown as it is to all who mount it.
    if mounts::is_image(mount) && !mount.readonly {
        return Err(SpecError::invalid(
            "mounts.readonly",
            "false",
            "the mount of an image must be readonly",
        ));
    }
    if mount.recursive_read_only && !mount.readonly {
        return Err(SpecError::invalid(
            RECURSIVE,
            "true",
            "the mount must be readonly",
        ));
    }
    if mount.recursive_read_only && mount.propagation() != MountPropagation::PropagationPrivate {
        return Err(SpecError::invalid(
            RECURSIVE,
            "true",
            "the propagation must be private",
        ));
    }
    // Where SELinux is off there is nothing to relabel; clients ask for it on every host.
    if mount.selinux_relabel && host.selinux {
        return Err(SpecError::invalid(
            "mounts.selinux_relabel",
            &mount.container_path,
            "relabelling is not supported",
        ));
    }
    Ok(())
}
