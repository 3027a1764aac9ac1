//! Golden specs, and tables for what is refused.
//!
//! A golden file is a whole `config.json` in canonical order. `INSTA_UPDATE=always` rewrites them;
//! the diff is then read, line by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use husk_cri_api::v1::{self, MountPropagation, NamespaceMode};
use oci_spec::runtime::LinuxDeviceType;
use serde_json::Value;

use super::seccomp::Architecture;
use super::user::{self, ResolvedUser};
use super::*;

mod adjusted;
mod confinement;
mod golden;
mod limits;
mod mounts;
mod refusals;
mod rules;
mod users;

/// Everything that [`ContainerInput`] borrows, with values of a plain container on a v2 host.
pub(super) struct Case {
    pub(super) config: v1::ContainerConfig,
    pub(super) sandbox: v1::PodSandboxConfig,
    pub(super) image: ImageDefaults,
    pub(super) user: ResolvedUser,
    pub(super) namespaces: Namespaces,
    pub(super) cgroup: CgroupPath,
    pub(super) files: SandboxFiles,
    pub(super) host: HostFacts,
    pub(super) devices: Vec<ResolvedDevice>,
    pub(super) image_mounts: BTreeMap<String, PathBuf>,
    pub(super) seccomp: SeccompProfile,
}

impl Default for Case {
    fn default() -> Self {
        let run = |name: &str| Some(PathBuf::from(format!("/run/husk/pods/p1/{name}")));
        Self {
            config: container_config(),
            sandbox: sandbox_config(),
            image: ImageDefaults {
                entrypoint: vec!["/entry".to_owned()],
                cmd: vec!["--from-image".to_owned()],
                env: vec!["PATH=/app/bin".to_owned(), "LANG=C".to_owned()],
                working_dir: "/app".to_owned(),
                ..ImageDefaults::default()
            },
            user: ResolvedUser {
                uid: 0,
                gid: 0,
                additional_gids: vec![0, 10],
                home: "/root".to_owned(),
            },
            namespaces: Namespaces {
                network: Namespace::Path("/run/husk/pods/p1/ns/net".into()),
                ipc: Namespace::Path("/run/husk/pods/p1/ns/ipc".into()),
                uts: Namespace::Path("/run/husk/pods/p1/ns/uts".into()),
                pid: Namespace::New,
                user: Namespace::Host,
            },
            cgroup: CgroupPath::Cgroupfs("/kubepods/pod1/c1".into()),
            files: SandboxFiles {
                resolv_conf: run("resolv.conf"),
                hostname: run("hostname"),
                hosts: None,
                shm: run("shm"),
            },
            host: host(),
            devices: Vec::new(),
            image_mounts: BTreeMap::new(),
            seccomp: SeccompProfile::Unconfined,
        }
    }
}

impl Case {
    pub(super) fn build(&self) -> Result<ContainerSpec, SpecError> {
        container(&ContainerInput {
            config: &self.config,
            sandbox: &self.sandbox,
            identity: Identity {
                container_id: "c1",
                sandbox_id: "p1",
            },
            image: &self.image,
            user: &self.user,
            rootfs: Path::new("/var/lib/husk/containers/c1/rootfs"),
            namespaces: &self.namespaces,
            hostname: "web-0",
            cgroup: &self.cgroup,
            files: &self.files,
            host: &self.host,
            devices: &self.devices,
            image_mounts: &self.image_mounts,
            seccomp: &self.seccomp,
        })
    }

    pub(super) fn spec(&self) -> Spec {
        self.build().unwrap().spec
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.build()
            .unwrap()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    pub(super) fn context(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    pub(super) fn resources(&mut self) -> &mut v1::LinuxContainerResources {
        self.config
            .linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default()
    }

    pub(super) fn options(&mut self) -> &mut v1::NamespaceOption {
        sandbox_context(&mut self.sandbox)
            .namespace_options
            .get_or_insert_default()
    }

    pub(super) fn user_namespace(&mut self, length: u32) {
        let mapping = v1::IdMapping {
            host_id: 100_000,
            container_id: 0,
            length,
        };
        self.options().userns_options = Some(v1::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![mapping],
            gids: vec![mapping],
        });
        self.namespaces.user = Namespace::Path("/run/husk/pods/p1/ns/user".into());
    }
}

pub(super) fn sandbox_context(
    sandbox: &mut v1::PodSandboxConfig,
) -> &mut v1::LinuxSandboxSecurityContext {
    sandbox
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

fn container_config() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "sha256:0123".to_owned(),
            user_specified_image: "registry.example/app:1".to_owned(),
            ..Default::default()
        }),
        log_path: "app/0.log".to_owned(),
        ..Default::default()
    }
}

fn sandbox_config() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web-0".to_owned(),
            uid: "6d1f".to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        }),
        hostname: "web-0".to_owned(),
        log_directory: "/var/log/pods/shop_web-0_6d1f".to_owned(),
        ..Default::default()
    }
}

/// A v2 host with all rights.
pub(super) fn host() -> HostFacts {
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    HostFacts {
        cgroups: CgroupFacts {
            version: CgroupVersion::V2,
            hybrid: false,
            controllers: strings(&["cpu", "cpuset", "hugetlb", "memory", "pids"]),
            swap: true,
            hugepage_sizes: strings(&["1GB", "2MB"]),
        },
        bounding: known_capabilities().to_vec(),
        user_namespaces: true,
        seccomp: true,
        selinux: false,
        apparmor: None,
        block_io_classes: BTreeMap::new(),
        rlimits: Vec::new(),
        default_capabilities: DEFAULT_CAPABILITIES.to_vec(),
        pids_limit: 0,
        oom_score_adj_floor: -1000,
        devices: vec![device("/dev/null", 1, 3), device("/dev/kvm", 10, 232)],
        architecture: Architecture::X86_64,
        kernel: KernelVersion { major: 6, minor: 1 },
        hostname: "node-1".to_owned(),
    }
}

pub(super) fn device(path: &str, major: i64, minor: i64) -> ResolvedDevice {
    ResolvedDevice {
        container_path: path.into(),
        kind: LinuxDeviceType::C,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
        permissions: "rw".to_owned(),
    }
}

pub(super) fn mount(host: &str, container: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

/// Sets come in any order from the types: keys and capability names are sorted.
pub(super) fn canonical(value: &impl serde::Serialize) -> Value {
    sort(serde_json::to_value(value).unwrap(), "")
}

fn sort(value: Value, key: &str) -> Value {
    const SETS: [&str; 5] = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().collect();
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sort(value, &key)))
                    .collect(),
            )
        }
        Value::Array(mut list) => {
            if SETS.contains(&key) {
                list.sort_by_key(Value::to_string);
            }
            Value::Array(list.into_iter().map(|value| sort(value, "")).collect())
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

pub(super) fn propagated(mut mount: v1::Mount, propagation: MountPropagation) -> v1::Mount {
    mount.set_propagation(propagation);
    mount
}

pub(super) fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

pub(super) fn set_user(case: &mut Case, request: &str, passwd: &str, group: &str) {
    let request = user::request(&case.config, request).unwrap();
    case.user = user::resolve(&request, passwd.as_bytes(), group.as_bytes()).unwrap();
}
