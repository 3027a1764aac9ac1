//! Rules of what confines a container's processes: masked paths, seccomp, AppArmor.

use oci_spec::runtime::LinuxSeccompAction;

use super::*;

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
