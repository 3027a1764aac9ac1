//! The spec of a container in the making, and what is found out on the way to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use husk_cri_api::v1::{self, NamespaceMode};
use husk_image::Image;
use oci_spec::runtime::Spec;

use super::creation::{Creation, log_warnings, spec_error};
use super::{host_paths, lookups};
use crate::error::PodError;
use crate::spec::{self, ContainerInput, Identity, namespace_options};
use crate::users;

/// What is known once the spec is written.
pub(super) struct Prepared {
    pub(super) spec: Spec,
    pub(super) user: v1::ContainerUser,
    pub(super) stop_signal: u32,
    pub(super) log_path: Option<PathBuf>,
}

/// What the spec is made from, besides what a look at the host and into the image brings.
pub(super) struct Preparation {
    pub(super) creation: Arc<Creation>,
    pub(super) image: Arc<Image>,
    pub(super) id: String,
    pub(super) rootfs: PathBuf,
    pub(super) image_mounts: BTreeMap<String, PathBuf>,
}

impl Preparation {
    /// Away from the threads that serve calls: files of the image and host paths may lie on disks,
    /// or beyond networks, that take their time.
    pub(super) async fn run(self) -> Result<Prepared, PodError> {
        let Creation { services, pod, .. } = &*self.creation;
        let directory = services.directories.bundle(&pod.id, &self.id);
        let span = tracing::Span::current();
        let preparing = tokio::task::spawn_blocking(move || span.in_scope(|| self.prepare()));
        let failed =
            |error: tokio::task::JoinError| PodError::io("preparing", directory)(error.into());
        preparing.await.map_err(failed)?
    }

    /// Looks up what the spec depends on, and makes it.
    fn prepare(&self) -> Result<Prepared, PodError> {
        let Self {
            creation,
            image,
            id,
            rootfs,
            image_mounts,
        } = self;
        let Creation { services, pod, .. } = &**creation;
        let refused = |source| spec_error(creation, source);
        let mut config = creation.config.clone();
        host_paths::prepare(&mut config.mounts)?;
        let defaults = lookups::defaults(image);
        let user =
            users::resolve(rootfs, &config, &defaults.user).map_err(|source| PodError::Users {
                id: id.clone(),
                source: Box::new(source),
            })?;
        let host_ipc = namespace_options(&creation.sandbox).ipc() == NamespaceMode::Node;
        let input = ContainerInput {
            config: &config,
            sandbox: &creation.sandbox,
            identity: Identity {
                container_id: id,
                sandbox_id: &pod.id,
            },
            image: &defaults,
            user: &user,
            rootfs,
            namespaces: &lookups::namespaces(creation).map_err(refused)?,
            hostname: lookups::hostname(creation),
            cgroup: &services.cgroups.container(&pod.cgroup_parent, id),
            files: &services.directories.shared_files(&pod.id, host_ipc),
            host: &services.host,
            devices: &lookups::devices(&config)?,
            image_mounts,
            seccomp: &lookups::seccomp(creation)?,
        };
        let mut built = spec::container(&input).map_err(refused)?;
        lookups::apparmor_is_loaded(&built.spec)?;
        let names = config.cdi_devices.iter().map(|device| device.name.as_str());
        lookups::inject(creation, &mut built.spec, names)?;
        log_warnings(id, &built.warnings);
        let signal = spec::signal::StopSignal::choose(&config, &defaults).number();
        Ok(Prepared {
            user: user.to_cri(),
            spec: built.spec,
            stop_signal: u32::try_from(signal).unwrap_or(15),
            log_path: lookups::log_path(&creation.sandbox, &config)?,
        })
    }
}
