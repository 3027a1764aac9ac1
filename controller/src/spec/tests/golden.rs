//! Whole specs.

use super::*;

fn check(name: &str, case: &Case) {
    check_spec(name, &case.spec());
}

pub(super) fn check_spec(name: &str, spec: &Spec) {
    let text = serde_json::to_string_pretty(&canonical(spec)).unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn plain() {
    check("plain", &Case::default());
}

#[test]
fn everything_the_kubelet_sets() {
    let mut case = Case::default();
    case.config.command = strings(&["/bin/app"]);
    case.config.args = strings(&["--serve"]);
    case.config.working_dir = "/srv/./data/".to_owned();
    case.config.tty = true;
    case.config.envs = vec![
        v1::KeyValue {
            key: "LANG".to_owned(),
            value: b"de_DE".to_vec(),
        },
        v1::KeyValue {
            key: "CERT".to_owned(),
            value: b"line 1\nline 2\r\n".to_vec(),
        },
    ];
    case.config.mounts = vec![
        mount("/var/lib/kubelet/pods/6d1f/etc-hosts", "/etc/hosts"),
        v1::Mount {
            readonly: true,
            recursive_read_only: true,
            ..mount("/srv/a/b", "/data/a/b")
        },
        v1::Mount {
            mount_options: strings(&["noexec", "nosuid"]),
            ..propagated(
                mount("/srv/a", "/data/a"),
                MountPropagation::PropagationHostToContainer,
            )
        },
        v1::Mount {
            readonly: true,
            ..mount("/var/lib/kubelet/pods/6d1f/log", "/dev/termination-log")
        },
    ];
    *case.resources() = all_resources();
    restrict(case.context());
    set_user(
        &mut case,
        "",
        "app:x:1000:1000::/home/app:\n",
        "more:x:4000:app\n",
    );
    case.devices = vec![device("/dev/ttyS7", 4, 71)];
    check("everything", &case);
}

fn all_resources() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 978,
        cpuset_cpus: "0-1".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![v1::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 4 << 20,
        }],
        unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
        memory_swap_limit_in_bytes: 96 << 20,
    }
}

fn restrict(context: &mut v1::LinuxContainerSecurityContext) {
    context.run_as_user = Some(v1::Int64Value { value: 1000 });
    context.run_as_group = Some(v1::Int64Value { value: 2000 });
    context.supplemental_groups = vec![3000];
    context.readonly_rootfs = true;
    context.no_new_privs = true;
    context.capabilities = Some(v1::Capability {
        add_capabilities: strings(&["net_admin"]),
        drop_capabilities: strings(&["ALL"]),
        add_ambient_capabilities: strings(&["CAP_NET_BIND_SERVICE"]),
    });
    context.masked_paths = strings(&["/proc/kcore"]);
    context.readonly_paths = strings(&["/proc/sys"]);
}

#[test]
fn privileged() {
    let mut case = Case::default();
    case.context().privileged = true;
    case.config.mounts = vec![propagated(
        mount("/mnt", "/mnt"),
        MountPropagation::PropagationBidirectional,
    )];
    case.seccomp = SeccompProfile::RuntimeDefault;
    check("privileged", &case);
}

#[test]
fn host_namespaces_on_cgroup_v1() {
    let mut case = Case {
        namespaces: Namespaces {
            network: Namespace::Host,
            ipc: Namespace::Host,
            uts: Namespace::Host,
            pid: Namespace::Host,
            user: Namespace::Host,
        },
        ..Case::default()
    };
    case.host.cgroups.version = CgroupVersion::V1;
    case.files.shm = Some("/dev/shm".into());
    case.cgroup = CgroupPath::Systemd {
        slice: "kubepods-besteffort.slice".to_owned(),
        prefix: "husk".to_owned(),
        name: "c1".to_owned(),
    };
    check("host_namespaces", &case);
}

#[test]
fn user_namespace_with_image_and_idmapped_mounts() {
    let mut case = Case::default();
    case.user_namespace(65_536);
    let mapping = v1::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    };
    case.config.mounts = vec![
        v1::Mount {
            uid_mappings: vec![mapping],
            gid_mappings: vec![mapping],
            ..mount("/srv/volume", "/volume")
        },
        v1::Mount {
            image: Some(v1::ImageSpec {
                image: "sha256:beef".to_owned(),
                ..Default::default()
            }),
            readonly: true,
            ..mount("", "/model")
        },
    ];
    case.image_mounts = [("/model".to_owned(), "/var/lib/husk/images/beef".into())].into();
    check("user_namespace", &case);
}

#[test]
fn seccomp_runtime_default_on_both_architectures() {
    let mut case = Case {
        seccomp: SeccompProfile::RuntimeDefault,
        ..Case::default()
    };
    check("seccomp_x86_64", &case);
    case.host.architecture = Architecture::Aarch64;
    case.context().capabilities = Some(v1::Capability {
        add_capabilities: strings(&["SYS_ADMIN", "SYS_TIME"]),
        ..Default::default()
    });
    check("seccomp_aarch64_admin", &case);
}
