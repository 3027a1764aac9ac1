//! Rules of mounts: what is mounted where, in which order, with which options.

use oci_spec::runtime::Mount;

use super::*;

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
