use super::*;
use crate::api::{
    self, Container, ContainerAdjustment, ContainerUpdate, CreateContainerResponse, Field,
    KeyValue, LinuxContainerAdjustment, LinuxContainerUpdate, LinuxMemory, LinuxResources, Mount,
};

fn response(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse {
        adjust: Some(adjust),
        ..Default::default()
    }
}

fn env(pairs: &[(&str, &str)]) -> ContainerAdjustment {
    let pair = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).into(),
        value: (*value).into(),
    };
    ContainerAdjustment {
        env: pairs.iter().map(pair).collect(),
        ..Default::default()
    }
}

fn mount(destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: source.into(),
        ..Default::default()
    }
}

fn mounts(list: &[(&str, &str)]) -> ContainerAdjustment {
    ContainerAdjustment {
        mounts: list.iter().map(|(to, from)| mount(to, from)).collect(),
        ..Default::default()
    }
}

fn annotations(pairs: &[(&str, &str)]) -> ContainerAdjustment {
    let pair = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
    ContainerAdjustment {
        annotations: pairs.iter().map(pair).collect(),
        ..Default::default()
    }
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment {
        linux: Some(linux),
        ..Default::default()
    }
}

fn memory(limit: i64) -> LinuxResources {
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: Some(api::OptionalInt64 { value: limit }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn shares(value: u64) -> LinuxResources {
    LinuxResources {
        cpu: Some(api::LinuxCpu {
            shares: Some(api::OptionalUInt64 { value }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> Container {
    Container {
        id: "c".into(),
        env: vec!["A=1".into(), "B=2".into()],
        mounts: vec![mount("/old", "/host/old")],
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    }
}

/// What "00-a" and "10-b" ask for, merged, and what a third would see.
fn two(
    first: ContainerAdjustment,
    second: ContainerAdjustment,
) -> Result<(ContainerAdjustment, Container), Conflict> {
    let (mut creation, mut seen) = (Creation::default(), container());
    creation.apply(&mut seen, "00-a", response(first))?;
    creation.apply(&mut seen, "10-b", response(second))?;
    Ok((creation.adjust, seen))
}

#[test]
fn two_plugins_that_set_the_same_are_both_named() {
    let rlimit = || ContainerAdjustment {
        rlimits: vec![api::PosixRlimit {
            r#type: "RLIMIT_NOFILE".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let cdi = || ContainerAdjustment {
        cdi_devices: vec![api::CdiDevice {
            name: "v/c=d".into(),
        }],
        ..Default::default()
    };
    let args = || ContainerAdjustment {
        args: vec!["run".into()],
        ..Default::default()
    };
    let device = || LinuxContainerAdjustment {
        devices: vec![api::LinuxDevice {
            path: "/dev/x".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let oom = || LinuxContainerAdjustment {
        oom_score_adj: Some(api::OptionalInt { value: 3 }),
        ..Default::default()
    };
    let limit = || LinuxContainerAdjustment {
        resources: Some(memory(1)),
        ..Default::default()
    };
    type Asked = Box<dyn Fn() -> ContainerAdjustment>;
    let rows: Vec<(&str, Asked)> = vec![
        ("Env X", Box::new(|| env(&[("X", "1")]))),
        ("Mounts /x", Box::new(|| mounts(&[("/x", "/y")]))),
        ("Annotations x", Box::new(|| annotations(&[("x", "1")]))),
        ("Rlimits RLIMIT_NOFILE", Box::new(rlimit)),
        ("CdiDevices v/c=d", Box::new(cdi)),
        ("Args", Box::new(args)),
        ("Devices /dev/x", Box::new(move || linux(device()))),
        ("OomScoreAdj", Box::new(move || linux(oom()))),
        ("MemLimit", Box::new(move || linux(limit()))),
    ];
    for (what, asked) in rows {
        let conflict = two(asked(), asked()).unwrap_err();
        assert_eq!(
            conflict.to_string(),
            format!("plugins \"00-a\" and \"10-b\" both set {what} of container c")
        );
        assert!(two(asked(), ContainerAdjustment::default()).is_ok());
    }
}

#[test]
fn what_is_removed_first_may_be_set() {
    let (adjust, seen) = two(
        env(&[("X", "a"), ("A", "a")]),
        env(&[("-X", ""), ("X", "b"), ("-B", "")]),
    )
    .unwrap();
    assert_eq!(adjust.env, env(&[("A", "a"), ("-B", ""), ("X", "b")]).env);
    assert_eq!(seen.env, ["A=a", "X=b"]);
    let (adjust, seen) = two(
        mounts(&[("/x", "/a"), ("/y", "/a")]),
        mounts(&[("-/x", ""), ("/x", "/b"), ("-/old", ""), ("-/y", "")]),
    )
    .unwrap();
    let expected = mounts(&[("-/old", ""), ("-/y", ""), ("/x", "/b")]);
    assert_eq!(adjust.mounts, expected.mounts);
    assert_eq!(seen.mounts, [mount("/x", "/b")]);
    let (adjust, seen) = two(
        annotations(&[("x", "a")]),
        annotations(&[("-x", ""), ("x", "b"), ("-k", "")]),
    )
    .unwrap();
    let expected = annotations(&[("-k", ""), ("x", "b")]);
    assert_eq!(adjust.annotations, expected.annotations);
    assert_eq!(seen.annotations, annotations(&[("x", "b")]).annotations);
    let args = |args: &[&str]| ContainerAdjustment {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    };
    let (adjust, seen) = two(args(&["a"]), args(&["", "b", "c"])).unwrap();
    assert_eq!(
        (adjust.args, seen.args),
        (args(&["b", "c"]).args, args(&["b", "c"]).args)
    );
}

#[test]
fn who_removed_is_in_the_way_of_a_third() {
    let (mut creation, mut seen) = (Creation::default(), container());
    let mut ask = |plugin, asked| creation.apply(&mut seen, plugin, response(asked));
    ask("00-a", env(&[("X", "a")])).unwrap();
    ask("10-b", env(&[("-X", "")])).unwrap();
    let conflict = ask("20-c", env(&[("X", "c")])).unwrap_err();
    assert!(conflict.to_string().contains("\"10-b\" and \"20-c\""));
    let owners = creation.owners().to_api();
    let compound = &owners.owners["c"].compound[&Field::Env.into()];
    assert_eq!(compound.owners["X"], "-10-b");
}

#[test]
fn hooks_of_all_are_kept_in_order() {
    let hooks = |path: &str| ContainerAdjustment {
        hooks: Some(api::Hooks {
            poststop: vec![api::Hook {
                path: path.into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let (adjust, _) = two(hooks("/a"), hooks("/b")).unwrap();
    let paths: Vec<_> = adjust
        .hooks
        .unwrap()
        .poststop
        .into_iter()
        .map(|hook| hook.path)
        .collect();
    assert_eq!(paths, ["/a", "/b"]);
}

#[test]
fn resources_of_both_are_one() {
    let of = |resources| {
        linux(LinuxContainerAdjustment {
            resources: Some(resources),
            ..Default::default()
        })
    };
    let (adjust, seen) = two(of(memory(5)), of(shares(7))).unwrap();
    let expected = LinuxResources {
        memory: memory(5).memory,
        ..shares(7)
    };
    assert_eq!(adjust.linux.unwrap().resources.unwrap(), expected);
    assert_eq!(seen.linux.unwrap().resources.unwrap(), expected);
}

#[test]
fn rdt_is_removed_and_set_anew() {
    let rdt = |remove, class: Option<&str>| {
        linux(LinuxContainerAdjustment {
            rdt: Some(api::LinuxRdt {
                remove,
                clos_id: class.map(|value| api::OptionalString {
                    value: value.into(),
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    assert!(two(rdt(false, Some("a")), rdt(false, Some("b"))).is_err());
    let (adjust, _) = two(rdt(false, Some("a")), rdt(true, Some("b"))).unwrap();
    let rdt = adjust.linux.unwrap().rdt.unwrap();
    assert_eq!((rdt.remove, rdt.clos_id.unwrap().value), (true, "b".into()));
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    ContainerUpdate {
        container_id: id.into(),
        linux: Some(LinuxContainerUpdate {
            resources: Some(resources),
        }),
        ignore_failure,
    }
}

#[test]
fn updates_of_a_container_are_merged() {
    let mut updates = Updates::of("own".into(), memory(1));
    updates
        .apply(
            "00-a",
            vec![
                update("own", shares(2), false),
                update("x", memory(3), true),
            ],
        )
        .unwrap();
    updates
        .apply("10-b", vec![update("x", shares(4), false)])
        .unwrap();
    let conflict = updates
        .apply("20-c", vec![update("x", memory(9), false)])
        .unwrap_err();
    assert!(
        conflict
            .to_string()
            .contains("\"00-a\" and \"20-c\" both set MemLimit of container x")
    );
    let ignored = LinuxResources {
        memory: memory(9).memory,
        ..shares(9)
    };
    updates
        .apply("20-c", vec![update("x", ignored, true)])
        .unwrap();
    let (own, others) = updates.finish();
    let both = |memory_limit, cpu_shares| LinuxResources {
        memory: memory(memory_limit).memory,
        ..shares(cpu_shares)
    };
    assert_eq!(own, both(1, 2));
    assert_eq!(others, [update("x", both(3, 4), false)]);
}

#[test]
fn a_cgroup_elsewhere_is_refused_with_the_plugins_name() {
    let mut seen = container();
    seen.linux.get_or_insert_default().cgroups_path = "/pod/c".into();
    let asks = |path: &str| CreateContainerResponse {
        adjust: Some(linux(LinuxContainerAdjustment {
            cgroups_path: path.into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let mut creation = Creation::default();
    let same = creation.apply(&mut seen, "00-a", asks("/pod/c"));
    assert_eq!(same, Ok(()));
    let conflict = creation.apply(&mut seen, "10-b", asks("/elsewhere"));
    let expected = Conflict::Cgroup {
        plugin: "10-b".into(),
        id: "c".into(),
        path: "/elsewhere".into(),
    };
    assert_eq!(conflict, Err(expected));
}

#[test]
fn the_container_in_the_making_is_adjusted_not_updated() {
    let mut creation = Creation::default();
    let answer = CreateContainerResponse {
        update: vec![update("c", memory(1), false)],
        ..Default::default()
    };
    let conflict = creation
        .apply(&mut container(), "00-a", answer)
        .unwrap_err();
    assert!(matches!(conflict, Conflict::InCreation { .. }));
}
