//! Single rules, as tables.

use oci_spec::runtime::{LinuxSeccompAction, Mount};

use super::*;

#[test]
fn the_command_is_the_kubelets_then_the_images() {
    for (command, args, entrypoint, cmd, expected) in [
        (&[][..], &[][..], &["/e"][..], &["c"][..], Some("/e c")),
        (&["/k"], &[], &["/e"], &["c"], Some("/k")),
        (&["/k"], &["a"], &["/e"], &["c"], Some("/k a")),
        (&[], &["a"], &["/e"], &["c"], Some("/e a")),
        (&[], &[], &[], &["c"], Some("c")),
        (&[], &["a"], &[], &["c"], Some("a")),
        (&[], &[], &["/e"], &[], Some("/e")),
        (&[], &[], &[], &[], None),
        (&[""], &[], &["/e"], &[], None),
    ] {
        let mut case = Case::default();
        case.config.command = strings(command);
        case.config.args = strings(args);
        case.image.entrypoint = strings(entrypoint);
        case.image.cmd = strings(cmd);
        let built = case.build().map(|built| {
            built
                .spec
                .process()
                .clone()
                .unwrap()
                .args()
                .clone()
                .unwrap()
                .join(" ")
        });
        match expected {
            Some(expected) => assert_eq!(built.unwrap(), expected),
            None => assert!(
                matches!(built, Err(SpecError::NoCommand)),
                "{command:?} {args:?}"
            ),
        }
    }
}

#[test]
fn a_newline_in_a_value_stays_one_value() {
    let mut case = Case::default();
    let value = "/root\nevil:x:0:0::/:/bin/sh\r\n".to_owned();
    case.config.envs = vec![v1::KeyValue {
        key: "HOME".to_owned(),
        value: value.clone().into_bytes(),
    }];
    let environment = case
        .spec()
        .process()
        .clone()
        .unwrap()
        .env()
        .clone()
        .unwrap();
    let homes: Vec<_> = environment
        .iter()
        .filter(|entry| entry.starts_with("HOME="))
        .collect();
    assert_eq!(homes, [&format!("HOME={value}")]);
}

#[test]
fn malformed_image_environment_is_left_out() {
    let mut case = Case::default();
    case.image.env = strings(&["GOOD=1", "BAD", "=x", "NUL=\0", "GOOD=2"]);
    let environment = case
        .spec()
        .process()
        .clone()
        .unwrap()
        .env()
        .clone()
        .unwrap();
    assert!(environment.contains(&"GOOD=2".to_owned()));
    assert!(
        !environment
            .iter()
            .any(|entry| entry.contains("BAD") || entry.starts_with('='))
    );
    assert_eq!(
        case.warnings(),
        ["3 entries of the image's environment are no KEY=value"]
    );
}

#[test]
fn a_working_directory_never_leads_through_open_files() {
    for directory in [
        "/proc/self/fd/7",
        "/proc/1/fd/7/../../etc",
        "/proc/./thread-self//fd",
        "/dev/fd/3",
    ] {
        let mut case = Case::default();
        case.image.working_dir = directory.to_owned();
        let refused = case.build().is_err();
        // The second one climbs out again by its letters, and stays in the container's /proc.
        assert_eq!(refused, !directory.contains(".."), "{directory}");
    }
}

#[test]
fn capabilities() {
    let sorted = |case: &Case, set: &str| -> String {
        let spec = canonical(&case.spec());
        let names: Vec<_> = spec["process"]["capabilities"][set]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().trim_start_matches("CAP_").to_owned())
            .collect();
        names.join(" ")
    };
    let defaults = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE \
                    NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT";
    for (add, drop, ambient, bounding, inheritable) in [
        (&[][..], &[][..], &[][..], defaults.to_owned(), ""),
        (&[], &["ALL"], &[], String::new(), ""),
        (&["sys_time"], &["all"], &[], "SYS_TIME".to_owned(), ""),
        (
            &["CAP_KILL"],
            &["ALL"],
            &["KILL"],
            "KILL".to_owned(),
            "KILL",
        ),
        (&["KILL"], &["ALL", "KILL"], &["KILL"], String::new(), ""),
        (
            &[],
            &["ALL"],
            &["NET_ADMIN"],
            "NET_ADMIN".to_owned(),
            "NET_ADMIN",
        ),
    ] {
        let mut case = Case::default();
        case.context().capabilities = Some(v1::Capability {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            add_ambient_capabilities: strings(ambient),
        });
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(
                sorted(&case, set),
                bounding,
                "{set} {add:?} {drop:?} {ambient:?}"
            );
        }
        for set in ["inheritable", "ambient"] {
            assert_eq!(
                sorted(&case, set),
                inheritable,
                "{set} {add:?} {drop:?} {ambient:?}"
            );
        }
    }
}

#[test]
fn all_capabilities_are_our_own_bounding_set() {
    let mut case = Case::default();
    case.host.bounding = bounding_from_mask(0x1ff_feff_ffff);
    assert_eq!(case.host.bounding.len(), 40);
    case.context().capabilities = Some(v1::Capability {
        add_capabilities: strings(&["ALL", "SYS_RESOURCE"]),
        drop_capabilities: strings(&["KILL"]),
        ..Default::default()
    });
    let bounding = canonical(&case.spec())["process"]["capabilities"]["bounding"].clone();
    assert_eq!(bounding.as_array().unwrap().len(), 39);
    assert_eq!(
        case.warnings(),
        ["capabilities this daemon lacks were left out: CAP_SYS_RESOURCE"]
    );
}

#[test]
fn oom_score_adj_stays_above_the_hosts_floor() {
    for (wanted, floor, used, warned) in [
        (0, -1000, 0, false),
        (0, 100, 100, false),
        (-997, -1000, -997, false),
        (-997, 0, 0, true),
        (1000, 0, 1000, false),
        (5000, 0, 1000, true),
        (i64::MIN, -1000, -1000, true),
    ] {
        let mut case = Case::default();
        case.resources().oom_score_adj = wanted;
        case.host.oom_score_adj_floor = floor;
        assert_eq!(
            case.spec().process().clone().unwrap().oom_score_adj(),
            Some(used)
        );
        assert_eq!(!case.warnings().is_empty(), warned, "{wanted} {floor}");
    }
}

fn mounts_of(case: &Case) -> Vec<Mount> {
    case.spec().mounts().clone().unwrap()
}

fn options_at(case: &Case, path: &str) -> Vec<String> {
    let mounts = mounts_of(case);
    let found: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.destination() == Path::new(path))
        .collect();
    assert_eq!(found.len(), 1, "{path}");
    found[0].options().clone().unwrap()
}

#[test]
fn requested_mounts_replace_standard_ones() {
    let mut case = Case::default();
    case.config.mounts = vec![
        mount("/srv/resolv", "/etc/../etc/resolv.conf"),
        mount("/srv/shm", "/dev/shm/"),
    ];
    let mounts = mounts_of(&case);
    for (path, source) in [
        ("/etc/resolv.conf", "/srv/resolv"),
        ("/dev/shm", "/srv/shm"),
    ] {
        let sources: Vec<_> = mounts
            .iter()
            .filter(|mount| mount.destination() == Path::new(path))
            .map(|mount| mount.source().clone().unwrap())
            .collect();
        assert_eq!(sources, [Path::new(source)], "{path}");
    }
    case.config.mounts = vec![mount("/dev", "/dev")];
    let below = mounts_of(&case)
        .into_iter()
        .filter(|mount| mount.destination().starts_with("/dev"));
    assert_eq!(below.count(), 1);
}

#[test]
fn parents_are_mounted_before_children() {
    let mut case = Case::default();
    case.config.mounts = ["/a/b/c", "/a", "/z", "/a/b"]
        .map(|path| mount("/srv", path))
        .to_vec();
    let order: Vec<_> = mounts_of(&case)
        .iter()
        .filter(|mount| mount.source().as_deref() == Some(Path::new("/srv")))
        .map(|mount| mount.destination().display().to_string())
        .collect();
    assert_eq!(order, ["/a", "/z", "/a/b", "/a/b/c"]);
}

#[test]
fn propagation_reaches_the_root_filesystem() {
    use MountPropagation as M;
    for (kinds, option, root) in [
        (&[M::PropagationPrivate][..], "rprivate", None),
        (&[M::PropagationHostToContainer], "rslave", Some("rslave")),
        (
            &[M::PropagationBidirectional, M::PropagationHostToContainer],
            "rshared",
            Some("rshared"),
        ),
    ] {
        let mut case = Case::default();
        case.config.mounts = kinds
            .iter()
            .zip(["/m0", "/m1"])
            .map(|(kind, path)| propagated(mount("/srv", path), *kind))
            .collect();
        assert!(
            options_at(&case, "/m0").contains(&option.to_owned()),
            "{kinds:?}"
        );
        let spec = case.spec();
        assert_eq!(
            spec.linux()
                .as_ref()
                .unwrap()
                .rootfs_propagation()
                .as_deref(),
            root
        );
    }
}

#[test]
fn pod_files_are_read_only_with_the_root_filesystem() {
    let mut case = Case::default();
    assert!(options_at(&case, "/etc/resolv.conf").contains(&"rw".to_owned()));
    case.context().readonly_rootfs = true;
    assert!(options_at(&case, "/etc/resolv.conf").contains(&"ro".to_owned()));
    assert!(options_at(&case, "/dev/shm").contains(&"rw".to_owned()));
}

#[test]
fn small_user_namespaces_have_no_tty_group() {
    let mut case = Case::default();
    for (length, mapped) in [(5, false), (6, true)] {
        case.user_namespace(length);
        assert_eq!(
            options_at(&case, "/dev/pts").contains(&"gid=5".to_owned()),
            mapped
        );
    }
}

#[test]
fn an_image_mount_needs_a_mounted_image() {
    let mut case = Case::default();
    case.config.mounts = vec![v1::Mount {
        image: Some(v1::ImageSpec {
            image: "x".to_owned(),
            ..Default::default()
        }),
        readonly: true,
        ..mount("", "/model")
    }];
    assert!(case.build().is_err());
    case.image_mounts = [("/model".to_owned(), "/images/x".into())].into();
    assert!(options_at(&case, "/model").contains(&"ro".to_owned()));
}

#[test]
fn volumes_stay_in_the_root_filesystem() {
    let mut case = Case::default();
    case.image.volumes = strings(&[
        "../../etc",
        "/data/./x/",
        "/data//x",
        "/",
        "",
        "/a/../../b",
        "nul\0",
    ]);
    let directories: Vec<_> = volume_directories(&case.image)
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(directories, ["b", "data/x", "etc"]);
    let without = Case::default();
    assert_eq!(canonical(&case.spec()), canonical(&without.spec()));
}

#[test]
fn nothing_that_is_not_ours_reaches_annotations_or_hooks() {
    let mut case = Case::default();
    let hostile: std::collections::HashMap<String, String> = [
        ("org.systemd.property.ExecStartPre", "'/bin/sh'"),
        ("run.oci.hooks.stdout", "/etc/passwd"),
        ("run.oci.handler", "wasm"),
        ("io.kubernetes.cri.sandbox-id", "forged"),
        ("io.kubernetes.cri.untrusted-workload", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    case.config.annotations = hostile.clone();
    case.config.labels = hostile.clone();
    case.sandbox.annotations = hostile.clone();
    case.config.image.as_mut().unwrap().annotations = hostile;
    assert_eq!(canonical(&case.spec()), canonical(&Case::default().spec()));
    assert!(case.spec().hooks().is_none());
}

#[test]
fn what_the_host_lacks_is_left_out_with_one_warning() {
    let mut case = Case::default();
    case.host.cgroups.version = CgroupVersion::V1;
    case.host.cgroups.hugepage_sizes.clear();
    case.host.cgroups.swap = false;
    let resources = case.resources();
    resources.memory_limit_in_bytes = 1 << 20;
    resources.memory_swap_limit_in_bytes = 2 << 20;
    resources.unified = [("memory.high".to_owned(), "1".to_owned())].into();
    resources.hugepage_limits = ["2MB", "1GB"]
        .map(|size| v1::HugepageLimit {
            page_size: size.to_owned(),
            limit: 0,
        })
        .to_vec();
    let resources = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    assert!(resources.unified().is_none() && resources.hugepage_limits().is_none());
    assert_eq!(resources.memory().unwrap().swap(), None);
    assert_eq!(case.warnings().len(), 3, "{:?}", case.warnings());
}

#[test]
fn a_memory_limit_alone_forbids_swap() {
    let mut case = Case::default();
    case.resources().memory_limit_in_bytes = 1 << 20;
    let resources = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    assert_eq!(resources.memory().unwrap().swap(), Some(1 << 20));
}

#[test]
fn swap_follows_the_memory_limit_unless_it_was_allowed() {
    const M: i64 = 1 << 20;
    for (limit, swap, new_limit, new_swap, expected) in [
        (64, 0, 128, 0, 128),
        (64, 64, 128, 0, 128),
        (64, 96, 80, 0, 96),
        (64, 96, 128, 0, 128),
        (64, 96, 0, 200, 200),
        (64, 96, 0, 0, 96),
        (0, 0, 64, 0, 64),
    ] {
        let mut case = Case::default();
        case.resources().memory_limit_in_bytes = limit * M;
        case.resources().memory_swap_limit_in_bytes = swap * M;
        let before = case
            .spec()
            .linux()
            .clone()
            .unwrap()
            .resources()
            .clone()
            .unwrap();
        let change = v1::LinuxContainerResources {
            memory_limit_in_bytes: new_limit * M,
            memory_swap_limit_in_bytes: new_swap * M,
            ..Default::default()
        };
        let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
        assert_eq!(
            after.memory().unwrap().swap(),
            Some(expected * M),
            "{limit} {swap}"
        );
    }
}

#[test]
fn unlimited_swap_and_memory_stay_unlimited() {
    let mut case = Case::default();
    case.resources().memory_limit_in_bytes = 1 << 20;
    case.resources().memory_swap_limit_in_bytes = -1;
    let before = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    for (limit, expected) in [(2 << 20, -1), (-1, -1)] {
        let change = v1::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            ..Default::default()
        };
        let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
        let memory = after.memory().unwrap();
        assert_eq!(
            (memory.limit(), memory.swap()),
            (Some(limit), Some(expected))
        );
    }
}

#[test]
fn an_update_changes_what_it_names() {
    let mut case = Case::default();
    *case.resources() = v1::LinuxContainerResources {
        cpu_shares: 100,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 1 << 20,
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let before = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    let change = v1::LinuxContainerResources {
        cpu_shares: 200,
        unified: [("memory.low".to_owned(), "2".to_owned())].into(),
        ..Default::default()
    };
    let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
    let seen = resources::to_cri(&after, Some(5));
    assert_eq!(
        (seen.cpu_shares, seen.cpu_quota, seen.cpu_period),
        (200, 20_000, 100_000)
    );
    assert_eq!(
        (seen.memory_limit_in_bytes, seen.oom_score_adj),
        (1 << 20, 5)
    );
    assert_eq!(seen.unified.len(), 2);
    assert_eq!(after.devices(), before.devices());
    assert!(resources::for_update(&after).devices().is_none());
    let nothing = v1::LinuxContainerResources::default();
    assert_eq!(
        resources::update(&after, &nothing, &case.host, &mut Vec::new()).unwrap(),
        after
    );
}

#[test]
fn an_exec_runs_as_the_container_does() {
    let mut case = Case::default();
    case.context().no_new_privs = true;
    case.user.uid = 7;
    let process = case.spec().process().clone().unwrap();
    let command = strings(&["ls", "-l"]);
    let plain = exec(&process, &command, false).unwrap();
    let mut expected = process.clone();
    expected.set_args(Some(command.clone()));
    assert_eq!(plain, expected);
    let terminal = exec(&process, &command, true).unwrap();
    assert_eq!(terminal.terminal(), Some(true));
    assert!(
        terminal
            .env()
            .clone()
            .unwrap()
            .contains(&"TERM=xterm".to_owned())
    );
    for refused in [&[][..], &[""], &["ls", "\0"]] {
        assert!(
            exec(&process, &strings(refused), false).is_err(),
            "{refused:?}"
        );
    }
}

#[test]
fn masked_paths_are_the_kubelets_or_ours() {
    let masked = |case: &Case| {
        case.spec()
            .linux()
            .clone()
            .unwrap()
            .masked_paths()
            .clone()
            .unwrap()
    };
    let mut case = Case::default();
    assert!(masked(&case).contains(&"/sys/devices/virtual/powercap".to_owned()));
    case.context().masked_paths = strings(&["/proc/kcore"]);
    assert_eq!(
        masked(&case),
        ["/proc/kcore", "/sys/devices/virtual/powercap"]
    );
    case.context().masked_paths.clear();
    assert!(
        masked(&case).len() > 10,
        "an empty list without a user namespace is no request"
    );
    case.user_namespace(65_536);
    assert!(masked(&case).is_empty(), "procMount Unmasked");
}

#[test]
fn seccomp_requests() {
    use v1::security_profile::ProfileType;
    let profile = |kind: ProfileType, path: &str| {
        Some(v1::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: path.to_owned(),
        })
    };
    for (profile, privileged, expected) in [
        (None, false, Some(SeccompRequest::Unconfined)),
        (
            profile(ProfileType::RuntimeDefault, ""),
            false,
            Some(SeccompRequest::RuntimeDefault),
        ),
        (
            profile(ProfileType::Unconfined, ""),
            false,
            Some(SeccompRequest::Unconfined),
        ),
        (
            profile(ProfileType::RuntimeDefault, ""),
            true,
            Some(SeccompRequest::Unconfined),
        ),
        (
            profile(ProfileType::Localhost, "/p"),
            false,
            Some(SeccompRequest::Localhost("/p".into())),
        ),
        (profile(ProfileType::Localhost, "p.json"), false, None),
        (profile(ProfileType::Localhost, ""), false, None),
    ] {
        let mut case = Case::default();
        case.context().privileged = privileged;
        case.context().seccomp.clone_from(&profile);
        assert_eq!(seccomp_request(&case.config).ok(), expected, "{profile:?}");
    }
}

fn local(case: &mut Case, json: &str) {
    case.seccomp = SeccompProfile::Localhost {
        name: "/p".to_owned(),
        json: json.as_bytes().to_vec(),
    };
}

#[test]
fn local_profiles_follow_their_conditions() {
    let mut case = Case::default();
    local(
        &mut case,
        r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64"}
            ],
            "syscalls": [
                {"names": ["always"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x"},
                {"name": "old", "action": "SCMP_ACT_ALLOW"},
                {"names": ["chroots"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
                {"names": ["admins"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["no-admins"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["arms"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
                {"names": ["known"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}
            ]
        }"#,
    );
    let filter = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .seccomp()
        .clone()
        .unwrap();
    let names: Vec<_> = filter
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names().clone())
        .collect();
    assert_eq!(names, ["always", "old", "chroots", "no-admins", "known"]);
    assert_eq!(filter.default_errno_ret(), Some(38));
    assert_eq!(filter.architectures().as_ref().unwrap().len(), 2);
}

#[test]
fn broken_local_profiles_are_refused() {
    for json in [
        "",
        "{}",
        r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["x"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}]}"#,
    ] {
        let mut case = Case::default();
        local(&mut case, json);
        assert!(
            matches!(case.build(), Err(SpecError::Seccomp { .. })),
            "{json}"
        );
    }
}

/// A call in two unconditional rules would have two answers.
#[test]
fn the_default_profile_gives_each_call_one_answer() {
    for capabilities in [&[][..], &["ALL"], &["SYS_ADMIN"], &["SYS_PTRACE", "BPF"]] {
        let mut case = Case {
            seccomp: SeccompProfile::RuntimeDefault,
            ..Case::default()
        };
        case.context().capabilities = Some(v1::Capability {
            add_capabilities: strings(capabilities),
            ..Default::default()
        });
        let filter = case
            .spec()
            .linux()
            .clone()
            .unwrap()
            .seccomp()
            .clone()
            .unwrap();
        let mut seen = BTreeMap::new();
        for rule in filter
            .syscalls()
            .iter()
            .flatten()
            .filter(|rule| rule.args().is_none())
        {
            for name in rule.names() {
                assert_eq!(
                    seen.insert(name.clone(), rule.action()),
                    None,
                    "{name} {capabilities:?}"
                );
            }
        }
        assert_eq!(seen["openat"], LinuxSeccompAction::ScmpActAllow);
        assert_eq!(seen["keyctl"], LinuxSeccompAction::ScmpActErrno);
        let admin = capabilities
            .iter()
            .any(|name| *name == "ALL" || *name == "SYS_ADMIN");
        let expected = if admin {
            LinuxSeccompAction::ScmpActAllow
        } else {
            LinuxSeccompAction::ScmpActErrno
        };
        assert_eq!(seen["mount"], expected, "{capabilities:?}");
        assert_eq!(seen.contains_key("clone"), admin);
    }
}

#[test]
fn a_kernel_without_seccomp_runs_the_default_unfiltered_and_refuses_local_profiles() {
    let mut case = Case {
        seccomp: SeccompProfile::RuntimeDefault,
        ..Case::default()
    };
    case.host.seccomp = false;
    assert!(case.spec().linux().clone().unwrap().seccomp().is_none());
    assert_eq!(case.warnings().len(), 1);
    local(&mut case, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    assert!(matches!(case.build(), Err(SpecError::Unsupported { .. })));
}

#[test]
fn apparmor_profiles() {
    use v1::security_profile::ProfileType;
    let facts = |profile: Option<&str>| {
        Some(AppArmorFacts {
            default_profile: profile.map(str::to_owned),
        })
    };
    for (kind, name, host, expected) in [
        (ProfileType::RuntimeDefault, "", None, Ok(None)),
        (
            ProfileType::RuntimeDefault,
            "",
            facts(Some("husk")),
            Ok(Some("husk")),
        ),
        (ProfileType::RuntimeDefault, "", facts(None), Ok(None)),
        (ProfileType::Unconfined, "", facts(Some("husk")), Ok(None)),
        (
            ProfileType::Localhost,
            "mine",
            facts(None),
            Ok(Some("mine")),
        ),
        (
            ProfileType::Localhost,
            "localhost/mine",
            facts(None),
            Ok(Some("mine")),
        ),
        (ProfileType::Localhost, "mine", None, Err(())),
    ] {
        let mut case = Case::default();
        case.host.apparmor = host;
        case.context().apparmor = Some(v1::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.to_owned(),
        });
        let built = case.build().map_err(drop).map(|built| {
            built
                .spec
                .process()
                .clone()
                .unwrap()
                .apparmor_profile()
                .clone()
        });
        assert_eq!(
            built,
            expected.map(|name| name.map(str::to_owned)),
            "{kind:?}"
        );
    }
}

#[test]
fn apparmor_profiles_by_the_field_of_older_clients_and_in_privileged_containers() {
    for (old, privileged, expected) in [
        ("", false, Some("husk-default")),
        ("runtime/default", false, Some("husk-default")),
        ("unconfined", false, None),
        ("localhost/mine", false, Some("mine")),
        ("localhost/mine", true, Some("mine")),
        ("runtime/default", true, None),
    ] {
        let mut case = Case::default();
        case.host.apparmor = Some(AppArmorFacts {
            default_profile: Some("husk-default".to_owned()),
        });
        sandbox_context(&mut case.sandbox).privileged = privileged;
        let context = case.context();
        context.privileged = privileged;
        #[expect(deprecated, reason = "older clients fill only this field")]
        old.clone_into(&mut context.apparmor_profile);
        let spec = case.spec();
        let profile = spec.process().as_ref().unwrap().apparmor_profile().clone();
        assert_eq!(profile.as_deref(), expected, "{old:?} {privileged}");
    }
}

#[test]
fn namespaces_follow_the_pod_and_the_request() {
    let pod = PodNamespaces {
        network: Some("/ns/net".into()),
        uts: Some("/ns/uts".into()),
        pid: Some("/ns/pid".into()),
        ..PodNamespaces::default()
    };
    let choose = |mode: NamespaceMode, pod: &PodNamespaces, target: Option<&str>| {
        let mut case = Case::default();
        case.context()
            .namespace_options
            .get_or_insert_default()
            .set_pid(mode);
        Namespaces::for_container(&case.config, pod, target.map(PathBuf::from))
    };
    for (mode, target, pid) in [
        (NamespaceMode::Container, None, Namespace::New),
        (NamespaceMode::Node, None, Namespace::Host),
        (NamespaceMode::Pod, None, Namespace::Path("/ns/pid".into())),
        (
            NamespaceMode::Target,
            Some("/proc/9/ns/pid"),
            Namespace::Path("/proc/9/ns/pid".into()),
        ),
    ] {
        let chosen = choose(mode, &pod, target).unwrap();
        assert_eq!(chosen.pid, pid);
        assert_eq!(chosen.network, Namespace::Path("/ns/net".into()));
        assert_eq!(chosen.ipc, Namespace::Host);
    }
    assert!(choose(NamespaceMode::Target, &pod, None).is_err());
    assert!(choose(NamespaceMode::Pod, &PodNamespaces::default(), None).is_err());
    let unset = Namespaces::for_container(&v1::ContainerConfig::default(), &pod, None).unwrap();
    assert_eq!(unset.pid, Namespace::New);
}
