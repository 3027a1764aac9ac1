//! Pods, containers and images in the CRI's messages. Pure.

use std::path::Path;

use husk_cri_api::v1;
use husk_image::{DiskUsage, Image, Usage};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::events::{Kind, PodEvent};
use crate::spec::signal::StopSignal;
use crate::store::v1::{ContainerRecord, ContainerState};
use crate::view::{Listed, PodPhase, PodView};

pub(super) fn pod_state(phase: PodPhase) -> v1::PodSandboxState {
    match phase {
        PodPhase::Ready => v1::PodSandboxState::SandboxReady,
        PodPhase::Stopping | PodPhase::NotReady | PodPhase::Removing => {
            v1::PodSandboxState::SandboxNotready
        }
    }
}

pub(super) fn pod(view: &PodView) -> v1::PodSandbox {
    let (record, config) = (&view.record, view.record.config());
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: config.metadata,
        state: pod_state(view.phase).into(),
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.handler.clone(),
    }
}

/// What lists say of a pod and its containers: encoded once, since a view never changes, and into
/// one piece of memory.
pub(super) fn listed(view: &PodView) -> &Listed {
    view.listed.get_or_init(|| {
        let pod = pod(view).encode_to_vec();
        let mut ends = vec![pod.len()];
        let mut all = pod;
        for record in &view.containers {
            all.extend(container(record).encode_to_vec());
            ends.push(all.len());
        }
        all.shrink_to_fit();
        let all = Bytes::from(all);
        let containers = ends.windows(2).map(|piece| all.slice(piece[0]..piece[1]));
        Listed {
            pod: all.slice(..ends[0]),
            containers: containers.collect(),
        }
    })
}

pub(super) fn pod_status(view: &PodView) -> v1::PodSandboxStatus {
    let (record, config) = (&view.record, view.record.config());
    let mut addresses = record.addresses.iter();
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: pod_state(view.phase).into(),
        created_at: record.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: addresses.next().cloned().unwrap_or_default(),
            additional_ips: addresses.map(|ip| v1::PodIp { ip: ip.clone() }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(crate::spec::namespace_options(&config)),
            }),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.handler.clone(),
    }
}

pub(super) fn container_state(record: &ContainerRecord) -> v1::ContainerState {
    match &record.state {
        Some(ContainerState::Created(_)) => v1::ContainerState::ContainerCreated,
        Some(ContainerState::Running(_)) => v1::ContainerState::ContainerRunning,
        Some(ContainerState::Exited(_)) => v1::ContainerState::ContainerExited,
        None => v1::ContainerState::ContainerUnknown,
    }
}

pub(super) fn container(record: &ContainerRecord) -> v1::Container {
    let config = record.config();
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        metadata: config.metadata,
        image: config.image,
        image_ref: record.image_ref.clone(),
        state: container_state(record).into(),
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: record.image_id.clone(),
    }
}

/// As the kubelet sent them, and which image each image mount shows.
fn mounts(mut mounts: Vec<v1::Mount>, mounted_images: &[String]) -> Vec<v1::Mount> {
    let images = mounts.iter_mut().filter_map(|mount| mount.image.as_mut());
    let images = images.filter(|image| !image.image.is_empty());
    for (image, id) in images.zip(mounted_images) {
        image.image_ref.clone_from(id);
    }
    mounts
}

pub(super) fn container_status(record: &ContainerRecord) -> v1::ContainerStatus {
    let exited = match record.state() {
        ContainerState::Exited(exited) => exited,
        ContainerState::Running(running) => crate::store::v1::Exited {
            started_at: running.started_at,
            ..Default::default()
        },
        ContainerState::Created(_) => crate::store::v1::Exited::default(),
    };
    let config = record.config();
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata,
        state: container_state(record).into(),
        created_at: record.created_at,
        started_at: exited.started_at,
        finished_at: exited.finished_at,
        exit_code: exited.code,
        image: config.image.map(as_named),
        image_ref: record.image_ref.clone(),
        reason: exited.reason,
        message: exited.message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: mounts(config.mounts, &record.mounted_images),
        log_path: record.log_path.clone(),
        resources: record.resources().map(|linux| v1::ContainerResources {
            linux: Some(linux),
            windows: None,
        }),
        image_id: record.image_id.clone(),
        user: record.user.clone(),
        stop_signal: StopSignal::from_number(record.stop_signal).to_cri().into(),
    }
}

/// An image as its user named it. The kubelet makes containers from an image's id, and shows users what it is told
/// here.
fn as_named(mut spec: v1::ImageSpec) -> v1::ImageSpec {
    if !spec.user_specified_image.is_empty() {
        spec.image.clone_from(&spec.user_specified_image);
    }
    spec
}

pub(super) fn event(event: &PodEvent) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        Kind::Started => v1::ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    let containers = event.pod.containers.iter();
    v1::ContainerEventResponse {
        container_id: event.subject.clone(),
        container_event_type: kind.into(),
        created_at: event.created_at,
        pod_sandbox_status: Some(pod_status(&event.pod)),
        containers_statuses: containers.map(|c| container_status(c)).collect(),
    }
}

pub(super) fn image(image: &Image) -> v1::Image {
    let (uid, username) = image_user(&image.config.user);
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.clone(),
            ..v1::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// The kubelet refuses to run as root by these: a number or a name, never both.
fn image_user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<i64>() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// Both kinds of usage: the kubelet's eviction manager needs the images' and the containers'.
pub(super) fn image_fs_info(
    usage: &Usage,
    containers: &DiskUsage,
    timestamp: i64,
) -> v1::ImageFsInfoResponse {
    let filesystem = |usage: &DiskUsage, mountpoint: &Path| v1::FilesystemUsage {
        timestamp,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
        inodes_used: Some(v1::UInt64Value {
            value: usage.inodes,
        }),
    };
    v1::ImageFsInfoResponse {
        image_filesystems: vec![filesystem(&usage.images, &usage.mountpoint)],
        container_filesystems: vec![filesystem(containers, &usage.mountpoint)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_shows_the_image_that_its_user_asked_for() {
        let rows = [("sha256:1", "app:1", "app:1"), ("sha256:1", "", "sha256:1")];
        for (image, user, shown) in rows {
            let spec = v1::ImageSpec {
                image: image.into(),
                user_specified_image: user.into(),
                ..v1::ImageSpec::default()
            };
            assert_eq!(as_named(spec).image, shown);
        }
    }

    #[test]
    fn users_of_images() {
        let rows = [
            ("", None, ""),
            ("1000", Some(1000), ""),
            ("1000:50", Some(1000), ""),
            ("www:50", None, "www"),
        ];
        for (user, uid, name) in rows {
            let (found, username) = image_user(user);
            assert_eq!((found.map(|v| v.value), username.as_str()), (uid, name));
        }
    }
}
