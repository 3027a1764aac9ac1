//! Specs as NRI plugins change them.

use husk_nri::api;
use oci_spec::runtime::LinuxBlockIo;

use super::golden::check_spec;
use super::*;
use crate::cdi::file::{Format, Specification};
use crate::spec::adjust::{adjust, change_resources, inject};

fn adjusted(asked: &api::ContainerAdjustment) -> Result<Spec, SpecError> {
    let case = Case::default();
    let mut spec = case.spec();
    adjust(&mut spec, asked, &case.host, &mut Vec::new())?;
    Ok(spec)
}

fn pair(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn hook(path: &str) -> Vec<api::Hook> {
    vec![api::Hook {
        path: path.to_owned(),
        args: strings(&["hook", "--now"]),
        env: strings(&["A=b"]),
        timeout: Some(api::OptionalInt { value: 5 }),
    }]
}

fn signed(value: i64) -> Option<api::OptionalInt64> {
    Some(api::OptionalInt64 { value })
}

fn unsigned(value: u64) -> Option<api::OptionalUInt64> {
    Some(api::OptionalUInt64 { value })
}

fn resources() -> api::LinuxResources {
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: signed(64 << 20),
            reservation: signed(32 << 20),
            swappiness: unsigned(10),
            ..Default::default()
        }),
        cpu: Some(api::LinuxCpu {
            shares: unsigned(512),
            quota: signed(50_000),
            period: unsigned(100_000),
            realtime_runtime: signed(900),
            cpus: "0-1".to_owned(),
            mems: "0".to_owned(),
            ..Default::default()
        }),
        hugepage_limits: vec![api::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 4 << 20,
        }],
        unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
        devices: vec![api::LinuxDeviceCgroup {
            allow: true,
            r#type: "c".to_owned(),
            major: signed(10),
            access: "rw".to_owned(),
            ..Default::default()
        }],
        pids: Some(api::LinuxPids { limit: 77 }),
        ..Default::default()
    }
}

fn linux() -> api::LinuxContainerAdjustment {
    api::LinuxContainerAdjustment {
        devices: vec![api::LinuxDevice {
            path: "/dev/vendor0".to_owned(),
            r#type: "c".to_owned(),
            major: 240,
            minor: 1,
            file_mode: Some(api::OptionalFileMode { value: 0o20660 }),
            gid: Some(api::OptionalUInt32 { value: 44 }),
            ..Default::default()
        }],
        resources: Some(resources()),
        oom_score_adj: Some(api::OptionalInt { value: 500 }),
        io_priority: Some(api::LinuxIoPriority {
            class: api::IoPrioClass::IoprioClassBe.into(),
            priority: 6,
        }),
        seccomp_policy: Some(seccomp()),
        namespaces: vec![
            api::LinuxNamespace {
                r#type: "network".to_owned(),
                path: "/run/other/net".to_owned(),
            },
            api::LinuxNamespace {
                r#type: "-cgroup".to_owned(),
                path: String::new(),
            },
        ],
        sysctl: [("net.core.somaxconn".to_owned(), "9".to_owned())].into(),
        net_devices: [(
            "eth9".to_owned(),
            api::LinuxNetDevice {
                name: "lan0".to_owned(),
            },
        )]
        .into(),
        scheduler: Some(api::LinuxScheduler {
            policy: api::LinuxSchedulerPolicy::SchedBatch.into(),
            nice: 3,
            flags: vec![api::LinuxSchedulerFlag::SchedFlagReclaim.into()],
            ..Default::default()
        }),
        rdt: Some(api::LinuxRdt {
            clos_id: Some(api::OptionalString {
                value: "gold".to_owned(),
            }),
            schemata: Some(api::OptionalRepeatedString {
                value: strings(&["L3:0=f"]),
            }),
            enable_monitoring: Some(api::OptionalBool { value: true }),
            remove: true,
        }),
        memory_policy: Some(api::LinuxMemoryPolicy {
            mode: api::MpolMode::MpolBind.into(),
            nodes: "0".to_owned(),
            flags: vec![api::MpolFlag::MpolFStaticNodes.into()],
        }),
        ..Default::default()
    }
}

fn seccomp() -> api::LinuxSeccomp {
    api::LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno: Some(api::OptionalUInt32 { value: 38 }),
        architectures: strings(&["SCMP_ARCH_X86_64"]),
        syscalls: vec![api::LinuxSyscall {
            names: strings(&["read"]),
            action: "SCMP_ACT_ALLOW".to_owned(),
            args: vec![api::LinuxSeccompArg {
                index: 0,
                value: 1,
                value_two: 2,
                op: "SCMP_CMP_EQ".to_owned(),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn everything_that_plugins_can_ask_for() {
    let mount = |destination: &str, source: &str, options: &[&str]| api::Mount {
        destination: destination.to_owned(),
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        options: strings(options),
    };
    let asked = api::ContainerAdjustment {
        annotations: [("husk.test/a".to_owned(), "1".to_owned())].into(),
        mounts: vec![
            mount("/a/b/c", "/host/c", &["bind", "ro"]),
            mount("/a", "/host/a", &["rbind", "rslave"]),
            mount("-/etc/hostname", "", &[]),
        ],
        env: vec![pair("LANG", "de"), pair("NEW", "x=y"), pair("-PATH", "")],
        hooks: Some(api::Hooks {
            prestart: hook("/opt/prestart"),
            create_runtime: hook("/opt/create-runtime"),
            poststop: hook("/opt/poststop"),
            ..Default::default()
        }),
        linux: Some(linux()),
        rlimits: vec![api::PosixRlimit {
            r#type: "RLIMIT_NOFILE".to_owned(),
            hard: 4096,
            soft: 1024,
        }],
        args: strings(&["/other", "command"]),
        ..Default::default()
    };
    check_spec("adjusted", &adjusted(&asked).unwrap());
}

#[test]
fn a_plugins_oom_score_stays_above_the_hosts_floor() {
    for (wanted, floor, used, warned) in [
        (500, -1000, 500, false),
        (-999, 100, 100, true),
        (5000, 0, 1000, true),
    ] {
        let mut case = Case::default();
        case.host.oom_score_adj_floor = floor;
        let (mut spec, mut warnings) = (case.spec(), Vec::new());
        let asked = api::ContainerAdjustment {
            linux: Some(api::LinuxContainerAdjustment {
                oom_score_adj: Some(api::OptionalInt { value: wanted }),
                ..Default::default()
            }),
            ..Default::default()
        };
        adjust(&mut spec, &asked, &case.host, &mut warnings).unwrap();
        let score = spec.process().as_ref().unwrap().oom_score_adj();
        assert_eq!(score, Some(used));
        assert_eq!(!warnings.is_empty(), warned, "{wanted} {floor}");
    }
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let asked = api::ContainerAdjustment::default();
    assert_eq!(adjusted(&asked).unwrap(), Case::default().spec());
}

#[test]
fn what_the_specification_has_no_word_for_is_refused_by_name() {
    let linux = |linux| api::ContainerAdjustment {
        linux: Some(linux),
        ..Default::default()
    };
    let namespace = api::LinuxContainerAdjustment {
        namespaces: vec![api::LinuxNamespace {
            r#type: "galaxy".to_owned(),
            path: String::new(),
        }],
        ..Default::default()
    };
    let device = api::LinuxContainerAdjustment {
        devices: vec![api::LinuxDevice {
            r#type: "x".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let rlimit = api::ContainerAdjustment {
        rlimits: vec![api::PosixRlimit {
            r#type: "RLIMIT_FUN".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let memory = api::LinuxContainerAdjustment {
        resources: Some(api::LinuxResources {
            memory: Some(api::LinuxMemory {
                limit: signed(-7),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let rows = [
        (linux(namespace), "galaxy"),
        (linux(device), "devices.type"),
        (rlimit, "RLIMIT_FUN"),
        (linux(memory), "memory_limit_in_bytes"),
    ];
    for (asked, named) in rows {
        let error = adjusted(&asked).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

fn class(of_block_io: Option<&str>, of_cache: Option<&str>) -> api::LinuxResources {
    let class = |name: &str| api::OptionalString {
        value: name.to_owned(),
    };
    api::LinuxResources {
        blockio_class: of_block_io.map(class),
        rdt_class: of_cache.map(class),
        ..Default::default()
    }
}

#[test]
fn classes_are_looked_up_by_their_names() {
    let mut case = Case::default();
    let mut slow = LinuxBlockIo::default();
    slow.set_weight(Some(80));
    let classes = &mut case.host.block_io_classes;
    classes.insert("slow".to_owned(), slow.clone());
    let adjusted = |resources| {
        let mut spec = case.spec();
        let linux = api::LinuxContainerAdjustment {
            resources: Some(resources),
            ..Default::default()
        };
        let asked = api::ContainerAdjustment {
            linux: Some(linux),
            ..Default::default()
        };
        adjust(&mut spec, &asked, &case.host, &mut Vec::new())?;
        Ok::<_, SpecError>(spec.linux().clone().unwrap_or_default())
    };
    let both = adjusted(class(Some("slow"), Some("gold"))).unwrap();
    let limits = both.resources().as_ref().unwrap().block_io();
    assert_eq!(limits.as_ref(), Some(&slow));
    let cache = both.intel_rdt().as_ref().unwrap();
    assert_eq!(cache.clos_id().as_deref(), Some("gold"));
    let none = adjusted(class(Some(""), Some(""))).unwrap();
    assert!(none.resources().as_ref().unwrap().block_io().is_none());
    assert!(none.intel_rdt().is_none());
    let error = adjusted(class(Some("fast"), None)).unwrap_err().to_string();
    assert!(error.contains("blockio_class \"fast\""), "{error}");
}

#[test]
fn a_container_keeps_its_classes_and_changes_the_rest() {
    let host = Case::default().host;
    let mut asked = class(Some("slow"), Some("gold"));
    asked.pids = Some(api::LinuxPids { limit: 77 });
    let mut warnings = Vec::new();
    let changed = change_resources(&Default::default(), &asked, &host, &mut warnings).unwrap();
    assert_eq!(changed.pids().map(|pids| pids.limit()), Some(77));
    assert!(changed.block_io().is_none());
    let names = strings(&["slow", "gold"]);
    assert_eq!(warnings, [Warning::Classes { names }]);
}

#[test]
fn cdi_devices_bring_all_that_their_files_can_say() {
    let text = r#"{
        "cdiVersion": "1.1.0", "kind": "vendor.test/class", "devices": [{"name": "d"}],
        "containerEdits": {
            "env": ["LANG=de", "NEW=x=y"],
            "deviceNodes": [
                {"path": "/dev/v0", "type": "c", "major": 240, "minor": 1, "fileMode": 432,
                 "permissions": "rw", "uid": 7, "gid": 8},
                {"path": "/dev/pipe", "type": "p"}
            ],
            "netDevices": [{"hostInterfaceName": "eth9", "name": "lan0"}],
            "hooks": [{"hookName": "createContainer", "path": "/opt/hook", "args": ["hook"], "timeout": 3}],
            "mounts": [
                {"hostPath": "/host/lib", "containerPath": "/usr/lib/v", "options": ["ro", "rbind"]},
                {"hostPath": "tmpfs", "containerPath": "/cache", "type": "tmpfs"},
                {"hostPath": "/host/file", "containerPath": "/etc/v"}
            ],
            "intelRdt": {"closID": "gold", "schemata": ["L3:0=f"]},
            "additionalGids": [0, 10, 44]
        }
    }"#;
    let specification = Specification::parse(text, Format::Json).unwrap();
    let mut spec = Case::default().spec();
    inject(&mut spec, &[specification.container_edits]).unwrap();
    check_spec("cdi", &spec);
}

#[test]
fn a_node_of_nobody_belongs_to_the_containers_user() {
    let mut case = Case::default();
    (case.user.uid, case.user.gid) = (1000, 2000);
    let text = r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [], "containerEdits":
        {"deviceNodes": [{"path": "/dev/v0", "type": "c", "major": 1, "minor": 3, "uid": 0}]}}"#;
    let specification = Specification::parse(text, Format::Json).unwrap();
    let mut spec = case.spec();
    inject(&mut spec, &[specification.container_edits]).unwrap();
    let devices = spec.linux().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!((devices[0].uid(), devices[0].gid()), (Some(0), Some(2000)));
}
