//! What is refused, one line each: the pure part of the attacks on sandbox and spec.

use super::*;

mod mounts;
mod security;

type Change = fn(&mut Case);
type Table = &'static [(&'static str, Change)];
/// What is wrong, the field that the error names, and how a case becomes wrong.
type Refusals = &'static [(&'static str, &'static str, Change)];

fn check(case: &Case) -> Result<(), SpecError> {
    validate_sandbox(&case.sandbox)?;
    validate_container(&case.config, &case.sandbox, &case.host)
}

fn refused(changes: Refusals) {
    for (name, field, change) in changes {
        let mut case = Case::default();
        change(&mut case);
        let error = check(&case).expect_err(name);
        let said = crate::chain::chain(&error);
        let blamed = said.strip_prefix("cannot resolve the container's user: ");
        let words = blamed.unwrap_or(&said).strip_prefix(field);
        assert!(
            words.is_some_and(|rest| rest.starts_with(' ')),
            "{name}: {field} is not blamed: {said}"
        );
    }
}

fn accepted(changes: Table) {
    for (name, change) in changes {
        let mut case = Case::default();
        change(&mut case);
        check(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
        case.build()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn pods() {
    refused(PODS_REFUSED);
    accepted(PODS_ACCEPTED);
}

const PODS_REFUSED: Refusals = &[
    ("no metadata", "metadata", |case| {
        case.sandbox.metadata = None
    }),
    ("no name", "metadata.name", |case| {
        case.sandbox.metadata.as_mut().unwrap().name.clear()
    }),
    ("no uid", "metadata.uid", |case| {
        case.sandbox.metadata.as_mut().unwrap().uid.clear()
    }),
    ("slash in namespace", "metadata.namespace", |case| {
        case.sandbox.metadata.as_mut().unwrap().namespace = "a/../b".to_owned();
    }),
    ("hostname with newline", "hostname", |case| {
        case.sandbox.hostname = "a\nb".to_owned()
    }),
    ("hostname with slash", "hostname", |case| {
        case.sandbox.hostname = "a/b".to_owned()
    }),
    ("long hostname", "hostname", |case| {
        case.sandbox.hostname = "a".repeat(65)
    }),
    ("empty label in hostname", "hostname", |case| {
        case.sandbox.hostname = "a..b".to_owned()
    }),
    ("relative log directory", "log_directory", |case| {
        case.sandbox.log_directory = "var/log".to_owned()
    }),
    ("log directory with ..", "log_directory", |case| {
        case.sandbox.log_directory = "/var/log/../..".to_owned()
    }),
    ("port", "port_mappings.container_port", |case| {
        let port = v1::PortMapping {
            container_port: 65_536,
            ..Default::default()
        };
        case.sandbox.port_mappings = vec![port];
    }),
    ("sysctl of the host", "linux.sysctls", |case| {
        let linux = case.sandbox.linux.get_or_insert_default();
        linux.sysctls = [("kernel.core_pattern".to_owned(), "|/x".to_owned())].into();
    }),
    ("sysctl with +", "linux.sysctls", |case| {
        let linux = case.sandbox.linux.get_or_insert_default();
        linux.sysctls = [("net.x".to_owned(), "1+kernel.core_pattern=|/x".to_owned())].into();
    }),
    ("cgroup parent with ..", "linux.cgroup_parent", |case| {
        case.sandbox.linux.get_or_insert_default().cgroup_parent = "/a/../../b".to_owned();
    }),
    ("uid", "run_as_user", |case| {
        let user = Some(v1::Int64Value {
            value: 2_147_483_648,
        });
        sandbox_context(&mut case.sandbox).run_as_user = user;
    }),
    ("target network", "namespace_options.network", |case| {
        case.options().set_network(NamespaceMode::Target)
    }),
    ("container ipc", "namespace_options.ipc", |case| {
        case.options().set_ipc(NamespaceMode::Container)
    }),
    ("target pid of a pod", "namespace_options.pid", |case| {
        case.options().set_pid(NamespaceMode::Target)
    }),
    ("empty user namespace", "userns_options.uids", |case| {
        case.user_namespace(0)
    }),
    ("no mapping", "userns_options.gids", |case| {
        case.user_namespace(1);
        case.options().userns_options.as_mut().unwrap().gids.clear();
    }),
    ("two mappings", "userns_options.uids", |case| {
        case.user_namespace(1);
        let userns = case.options().userns_options.as_mut().unwrap();
        userns.uids.push(userns.uids[0]);
    }),
    ("root is not mapped", "userns_options.uids", |case| {
        case.user_namespace(1);
        case.options().userns_options.as_mut().unwrap().uids[0].container_id = 1;
    }),
    ("mapping past the end", "userns_options.uids", |case| {
        case.user_namespace(u32::MAX)
    }),
    (
        "user namespace beside the node's pids",
        "namespace_options.pid",
        |case| {
            case.user_namespace(65_536);
            case.options().set_pid(NamespaceMode::Node);
        },
    ),
    (
        "user namespace beside the node's ipc",
        "namespace_options.ipc",
        |case| {
            case.user_namespace(65_536);
            case.options().set_ipc(NamespaceMode::Node);
        },
    ),
    (
        "mapping of the host's namespace",
        "userns_options",
        |case| {
            case.user_namespace(1);
            case.options()
                .userns_options
                .as_mut()
                .unwrap()
                .set_mode(NamespaceMode::Node);
        },
    ),
];

const PODS_ACCEPTED: Table = &[
    ("plain", |_| {}),
    ("no hostname", |case| case.sandbox.hostname.clear()),
    ("dotted hostname", |case| {
        case.sandbox.hostname = "web-0.shop.example".to_owned()
    }),
    ("host namespaces", |case| {
        let options = case.options();
        options.set_network(NamespaceMode::Node);
        options.set_ipc(NamespaceMode::Node);
        options.set_pid(NamespaceMode::Node);
    }),
    ("user namespace", |case| case.user_namespace(65_536)),
];

fn own_namespaces(case: &mut Case) -> &mut v1::NamespaceOption {
    case.context().namespace_options.get_or_insert_default()
}

/// What a container needs of the OCI runtime, and whether one that has it or lacks it is enough.
#[test]
fn containers() {
    refused(CONTAINERS_REFUSED);
    accepted(CONTAINERS_ACCEPTED);
}

const CONTAINERS_REFUSED: Refusals = &[
    (
        "a user namespace that the pod has not",
        "userns_options",
        |case| {
            let options = own_namespaces(case);
            options.userns_options = Some(v1::UserNamespace::default());
        },
    ),
    (
        "another user namespace than the pod's",
        "userns_options",
        |case| {
            case.user_namespace(65_536);
            let mut other = case.options().userns_options.clone().unwrap();
            other.gids[0].length = 1;
            own_namespaces(case).userns_options = Some(other);
        },
    ),
    (
        "the node's users in a pod that has its own",
        "userns_options",
        |case| {
            case.user_namespace(65_536);
            let mut node = v1::UserNamespace::default();
            node.set_mode(NamespaceMode::Node);
            own_namespaces(case).userns_options = Some(node);
        },
    ),
    (
        "the node's pids in a pod that has its own users",
        "namespace_options.pid",
        |case| {
            case.user_namespace(65_536);
            own_namespaces(case).set_pid(NamespaceMode::Node);
        },
    ),
    ("no metadata", "metadata", |case| {
        case.config.metadata = None
    }),
    ("no image", "image", |case| case.config.image = None),
    ("absolute log path", "log_path", |case| {
        case.config.log_path = "/etc/cron.d/x".to_owned()
    }),
    ("log path with ..", "log_path", |case| {
        case.config.log_path = "app/../../../x.log".to_owned()
    }),
    ("relative working directory", "working_dir", |case| {
        case.config.working_dir = "app".to_owned()
    }),
    ("= in a key", "envs.key", |case| {
        case.config.envs = vec![v1::KeyValue {
            key: "A=B".to_owned(),
            value: Vec::new(),
        }];
    }),
    ("no key", "envs.key", |case| {
        case.config.envs = vec![v1::KeyValue::default()]
    }),
    ("NUL in a value", "envs.value", |case| {
        case.config.envs = vec![v1::KeyValue {
            key: "A".to_owned(),
            value: vec![0],
        }];
    }),
    ("device permissions", "devices.permissions", |case| {
        case.config.devices = vec![v1::Device {
            container_path: "/dev/x".to_owned(),
            host_path: "/dev/x".to_owned(),
            permissions: "rwx".to_owned(),
        }];
    }),
    ("relative device", "devices.host_path", |case| {
        case.config.devices = vec![v1::Device {
            container_path: "/dev/x".to_owned(),
            host_path: "dev/x".to_owned(),
            permissions: "rw".to_owned(),
        }];
    }),
];

const CONTAINERS_ACCEPTED: Table = &[
    ("no log", |case| case.config.log_path.clear()),
    ("newlines in a value", |case| {
        let value = b"a\nb\r\n".to_vec();
        case.config.envs = vec![v1::KeyValue {
            key: "A.B-C".to_owned(),
            value,
        }];
    }),
];

#[test]
fn resources() {
    refused(RESOURCES_REFUSED);
    accepted(RESOURCES_ACCEPTED);
}

const RESOURCES_REFUSED: Refusals = &[
    ("short period", "cpu_period", |case| {
        case.resources().cpu_period = 10
    }),
    ("long period", "cpu_period", |case| {
        case.resources().cpu_period = 2_000_000
    }),
    ("short quota", "cpu_quota", |case| {
        case.resources().cpu_quota = 999
    }),
    ("negative quota", "cpu_quota", |case| {
        case.resources().cpu_quota = -2
    }),
    ("negative shares", "cpu_shares", |case| {
        case.resources().cpu_shares = -1
    }),
    ("negative memory", "memory_limit_in_bytes", |case| {
        case.resources().memory_limit_in_bytes = -5
    }),
    ("swap below memory", "memory_swap_limit_in_bytes", |case| {
        case.resources().memory_limit_in_bytes = 2;
        case.resources().memory_swap_limit_in_bytes = 1;
    }),
    ("cpuset", "cpuset_cpus", |case| {
        case.resources().cpuset_cpus = "0-".to_owned()
    }),
    ("cpuset that goes down", "cpuset_cpus", |case| {
        case.resources().cpuset_cpus = "3-1".to_owned()
    }),
    ("cpuset with newline", "cpuset_mems", |case| {
        case.resources().cpuset_mems = "0\n1".to_owned()
    }),
    ("page size", "hugepage_limits.page_size", |case| {
        let limit = v1::HugepageLimit {
            page_size: "../x".to_owned(),
            limit: 1,
        };
        case.resources().hugepage_limits = vec![limit];
    }),
    ("key with slash", "unified", |case| {
        case.resources().unified = [("../memory.max".to_owned(), "1".to_owned())].into();
    }),
    ("key without controller", "unified", |case| {
        case.resources().unified = [("max".to_owned(), "1".to_owned())].into();
    }),
    ("the cgroup's own file", "unified", |case| {
        case.resources().unified = [("cgroup.procs".to_owned(), "1".to_owned())].into();
    }),
];

const RESOURCES_ACCEPTED: Table = &[
    ("unlimited", |case| {
        case.resources().cpu_quota = -1;
        case.resources().memory_swap_limit_in_bytes = -1;
    }),
    ("list", |case| {
        case.resources().cpuset_cpus = "0-3,7,9-9".to_owned()
    }),
];
