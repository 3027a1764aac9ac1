//! Single rules, as tables.

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
