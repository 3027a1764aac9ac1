//! Mounts that are refused, and their neighbours that are not.

use super::*;

fn with_mount(case: &mut Case, mount: v1::Mount) {
    case.config.mounts = vec![mount];
}

/// A mount of an image, with a host path that there should not be, or none.
fn image_mount(host: &str) -> v1::Mount {
    let image = Some(v1::ImageSpec {
        image: "x".to_owned(),
        ..Default::default()
    });
    v1::Mount {
        image,
        ..mount(host, "/b")
    }
}

#[test]
fn mounts_that_the_oci_runtime_must_be_able_to_make() {
    let mapping = v1::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    };
    let mapped = v1::Mount {
        uid_mappings: vec![mapping],
        gid_mappings: vec![mapping],
        ..mount("/srv", "/srv")
    };
    let recursive = v1::Mount {
        readonly: true,
        recursive_read_only: true,
        ..mount("/srv", "/srv")
    };
    let image = v1::Mount {
        image: Some(v1::ImageSpec {
            image: "sha256:beef".to_owned(),
            ..Default::default()
        }),
        host_path: String::new(),
        ..mapped.clone()
    };
    let old = RuntimeFeatures::default();
    let new = RuntimeFeatures {
        recursive_read_only: true,
        idmapped_mounts: true,
        ..old
    };
    for (name, mount, needs) in [
        ("plain", mount("/srv", "/srv"), ""),
        ("mapped", mapped, "mounts.uidMappings"),
        ("recursive", recursive, "mounts.recursive_read_only"),
        ("an image is mapped by us", image, ""),
    ] {
        let mut case = Case::default();
        case.config.mounts = vec![mount];
        let check = |features| validate_runtime(&case.config, &case.host, features);
        assert!(check(new).is_ok(), "{name}");
        let with_old = check(old).err().map(|error| error.to_string());
        let refused = with_old.as_deref().unwrap_or_default();
        assert_eq!(with_old.is_some(), !needs.is_empty(), "{name}: {refused}");
        assert!(refused.contains(needs), "{name}: {refused}");
    }
}

#[test]
fn mounts() {
    refused(MOUNTS_REFUSED);
    accepted(MOUNTS_ACCEPTED);
}

const MOUNTS_REFUSED: Refusals = &[
    ("relative target", "mounts.container_path", |case| {
        with_mount(case, mount("/a", "b"))
    }),
    ("target with ..", "mounts.container_path", |case| {
        with_mount(case, mount("/a", "/b/../../c"))
    }),
    ("target is the root", "mounts.container_path", |case| {
        with_mount(case, mount("/a", "/./"))
    }),
    ("no source", "mounts.host_path", |case| {
        with_mount(case, mount("", "/b"))
    }),
    ("relative source", "mounts.host_path", |case| {
        with_mount(case, mount("a", "/b"))
    }),
    ("source with ..", "mounts.host_path", |case| {
        with_mount(case, mount("/a/../b", "/b"))
    }),
    ("NUL", "mounts.host_path", |case| {
        with_mount(case, mount("/a\0", "/b"))
    }),
    (
        "recursive read-only, writable",
        "mounts.recursive_read_only",
        |case| {
            with_mount(
                case,
                v1::Mount {
                    recursive_read_only: true,
                    ..mount("/a", "/b")
                },
            );
        },
    ),
    (
        "recursive read-only, propagated",
        "mounts.recursive_read_only",
        |case| {
            let mount = v1::Mount {
                recursive_read_only: true,
                readonly: true,
                ..mount("/a", "/b")
            };
            with_mount(
                case,
                propagated(mount, MountPropagation::PropagationHostToContainer),
            );
        },
    ),
    ("image and host path", "mounts.host_path", |case| {
        with_mount(case, image_mount("/a"));
    }),
    ("image path with ..", "mounts.image_sub_path", |case| {
        let image_sub_path = "../etc".to_owned();
        with_mount(
            case,
            v1::Mount {
                image_sub_path,
                ..image_mount("")
            },
        );
    }),
    ("image that may be written", "mounts.readonly", |case| {
        with_mount(case, image_mount(""));
    }),
    ("image path without image", "mounts.image", |case| {
        with_mount(
            case,
            v1::Mount {
                image_sub_path: "x".to_owned(),
                ..mount("/a", "/b")
            },
        );
    }),
    ("relabel with SELinux", "mounts.selinux_relabel", |case| {
        case.host.selinux = true;
        with_mount(
            case,
            v1::Mount {
                selinux_relabel: true,
                ..mount("/a", "/b")
            },
        );
    }),
    ("option", "mounts.mount_options", |case| {
        with_mount(
            case,
            v1::Mount {
                mount_options: strings(&["suid"]),
                ..mount("/a", "/b")
            },
        );
    }),
    ("one kind of mapping", "mounts.uidMappings", |case| {
        let mapping = v1::IdMapping {
            host_id: 1,
            container_id: 0,
            length: 1,
        };
        with_mount(
            case,
            v1::Mount {
                uid_mappings: vec![mapping],
                ..mount("/a", "/b")
            },
        );
    }),
];

const MOUNTS_ACCEPTED: Table = &[
    ("relabel without SELinux", |case| {
        with_mount(
            case,
            v1::Mount {
                selinux_relabel: true,
                ..mount("/a", "/b")
            },
        );
    }),
    ("dots in a name", |case| {
        with_mount(case, mount("/a..b/..c", "/b"))
    }),
];
