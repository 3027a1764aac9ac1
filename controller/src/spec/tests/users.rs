//! Users: what is asked for, against what an image's files say.

use husk_cri_api::v1::SupplementalGroupsPolicy as Policy;

use super::*;
use crate::spec::user::{UserError, request, resolve};

const PASSWD: &str = "\
# comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
\u{feff}odd
forged:x:1002:1002::/home\r/x:/bin/sh
relative:x:1003:1003::home:/bin/sh
huge:x:2147483648:0::/:/bin/sh
wraps:x:4294967296:0::/:/bin/sh
short:x:1004:1004
dos:x:1005:1005::/dos:/bin/sh\r
";

const GROUP: &str = "\
root:x:0:
app:x:1001:
wheel:x:10:root,app
apps:x:20:xapp,apps
logs:x:30:app,root
bad
big:x:2147483648:victim
";

/// What the kubelet may set.
struct Asked<'a> {
    user: Option<i64>,
    username: &'a str,
    group: Option<i64>,
    supplemental: &'a [i64],
    strict: bool,
}

const NOTHING: Asked<'static> = Asked {
    user: None,
    username: "",
    group: None,
    supplemental: &[],
    strict: false,
};

fn resolved(asked: &Asked<'_>, image: &str) -> Result<ResolvedUser, UserError> {
    let mut case = Case::default();
    let context = case.context();
    context.run_as_user = asked.user.map(|value| v1::Int64Value { value });
    context.run_as_username = asked.username.to_owned();
    context.run_as_group = asked.group.map(|value| v1::Int64Value { value });
    context.supplemental_groups = asked.supplemental.to_vec();
    context.set_supplemental_groups_policy(if asked.strict {
        Policy::Strict
    } else {
        Policy::Merge
    });
    resolve(
        &request(&case.config, image)?,
        PASSWD.as_bytes(),
        GROUP.as_bytes(),
    )
}

#[test]
fn images_name_their_user() {
    for (image, uid, gid, groups, home) in [
        ("", 0, 0, &[0, 10, 30][..], "/root"),
        ("root", 0, 0, &[0, 10, 30], "/root"),
        ("app", 1000, 1001, &[10, 30, 1001], "/home/app"),
        ("1000", 1000, 1001, &[10, 30, 1001], "/home/app"),
        ("app:wheel", 1000, 10, &[10, 30], "/home/app"),
        ("1000:77", 1000, 77, &[10, 30, 77], "/home/app"),
        (":20", 0, 20, &[10, 20, 30], "/root"),
        ("4242", 4242, 0, &[0], "/"),
        ("4242:4243", 4242, 4243, &[4243], "/"),
        ("2147483647", 2_147_483_647, 0, &[0], "/"),
        ("relative", 1003, 1003, &[1003], "/"),
        ("forged", 1002, 1002, &[1002], "/"),
        ("short", 1004, 1004, &[1004], "/"),
        ("dos", 1005, 1005, &[1005], "/dos"),
    ] {
        let expected = ResolvedUser {
            uid,
            gid,
            additional_gids: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(resolved(&NOTHING, image), Ok(expected), "{image}");
    }
}

/// The request, and the user, group and groups that it gives.
const OVERRIDES: &[(Asked<'static>, u32, u32, &[u32])] = &[
    (
        Asked {
            user: Some(1000),
            ..NOTHING
        },
        1000,
        1001,
        &[10, 30, 1001],
    ),
    (
        Asked {
            user: Some(1000),
            group: Some(5),
            ..NOTHING
        },
        1000,
        5,
        &[5, 10, 30],
    ),
    (
        Asked {
            user: Some(0),
            ..NOTHING
        },
        0,
        0,
        &[0, 10, 30],
    ),
    (
        Asked {
            username: "app",
            ..NOTHING
        },
        1000,
        1001,
        &[10, 30, 1001],
    ),
    (
        Asked {
            username: "app",
            group: Some(5),
            ..NOTHING
        },
        1000,
        5,
        &[5, 10, 30],
    ),
    (
        Asked {
            user: Some(1000),
            supplemental: &[7, 10],
            ..NOTHING
        },
        1000,
        1001,
        &[7, 10, 30, 1001],
    ),
    (
        Asked {
            user: Some(1000),
            supplemental: &[7],
            strict: true,
            ..NOTHING
        },
        1000,
        1001,
        &[7, 1001],
    ),
    (
        Asked {
            user: Some(9),
            supplemental: &[7],
            ..NOTHING
        },
        9,
        0,
        &[0, 7],
    ),
];

#[test]
fn the_kubelet_overrides_the_image() {
    for (asked, uid, gid, groups) in OVERRIDES {
        let user = resolved(asked, "relative:wheel").unwrap();
        let ids = (user.uid, user.gid, user.additional_gids.as_slice());
        assert_eq!(ids, (*uid, *gid, *groups));
    }
}

#[test]
fn ids_from_2_to_the_31_are_refused() {
    let too_large = 2_147_483_648_i64;
    for asked in [
        Asked {
            user: Some(too_large),
            ..NOTHING
        },
        Asked {
            user: Some(-1),
            ..NOTHING
        },
        Asked {
            user: Some(4_294_967_296),
            ..NOTHING
        },
        Asked {
            user: Some(1),
            group: Some(too_large),
            ..NOTHING
        },
        Asked {
            user: Some(1),
            supplemental: &[too_large],
            ..NOTHING
        },
        Asked {
            username: "2147483648",
            ..NOTHING
        },
    ] {
        assert!(matches!(
            resolved(&asked, ""),
            Err(UserError::OutOfRange { .. })
        ));
    }
    for image in [
        "2147483648",
        "4294967296",
        "4294967295:0",
        "1:2147483648",
        "-1",
        "99999999999999999999999999",
        "huge",
        "wraps",
    ] {
        let error = resolved(&NOTHING, image);
        assert!(
            matches!(error, Err(UserError::OutOfRange { .. })),
            "{image} {error:?}"
        );
    }
}

#[test]
fn unknown_names_are_refused() {
    for image in ["nobody", "App", "app ", "odd"] {
        assert!(
            matches!(
                resolved(&NOTHING, image),
                Err(UserError::UnknownUser { .. })
            ),
            "{image}"
        );
    }
    assert!(matches!(
        resolved(&NOTHING, "app:nogroup"),
        Err(UserError::UnknownGroup { .. })
    ));
}

#[test]
fn a_group_needs_a_user() {
    let asked = Asked {
        group: Some(5),
        ..NOTHING
    };
    assert_eq!(
        resolved(&asked, "app"),
        Err(UserError::GroupWithoutUser { group: 5 })
    );
}

#[test]
fn the_status_reports_what_was_resolved() {
    let linux = resolved(&NOTHING, "app").unwrap().to_cri().linux.unwrap();
    assert_eq!(
        (linux.uid, linux.gid, linux.supplemental_groups),
        (1000, 1001, vec![10, 30, 1001])
    );
}

proptest::proptest! {
    #[test]
    fn hostile_files_never_panic(
        passwd in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        group in ".*",
        image in ".*",
    ) {
        if let Ok(request) = request(&v1::ContainerConfig::default(), &image) {
            let _ = resolve(&request, &passwd, group.as_bytes());
        }
    }
}
