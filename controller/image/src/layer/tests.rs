//! Layers that are fine, broken, and hostile. Every unpack happens beside a directory that nothing may
//! touch.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use proptest::prelude::*;
use rustix::fs::lgetxattr;
use tar::{EntryType, Header};

use self::place::{Layer, Place, reason};
use super::*;

mod place;
mod streams;

#[test]
fn ordinary_entries_keep_what_they_say() {
    let place = Place::new();
    let set_id = |header: &mut Header| {
        header.set_mode(0o4755);
        header.set_uid(7);
    };
    let layer = Layer::default()
        .directory("./", 0o711)
        .directory("usr/", 0o755)
        .add(EntryType::Regular, "usr/su", set_id, b"program")
        .link(EntryType::Symlink, "bin", "usr")
        .file("bin/through", b"link")
        .link(EntryType::Link, "hard", "usr/su")
        .file("no/parents/listed", b"1");
    let unpacked = place.unpack(layer).unwrap();
    assert_eq!(
        unpacked,
        Unpacked {
            bytes: 12,
            inodes: 7
        }
    );
    let modes = ["", "usr/su", "no/parents"].map(|name| place.mode(name));
    assert_eq!(modes, [0o711, 0o4755, 0o755]);
    let program = place.root.join("usr/su").metadata().unwrap();
    assert_eq!(
        (program.uid(), program.nlink(), program.mtime()),
        (7, 2, 1_000_000_000)
    );
    assert_eq!(
        place.root.join("usr").metadata().unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(fs::read(place.root.join("usr/through")).unwrap(), b"link");
}

#[test]
fn nodes_are_made_as_the_layer_says() {
    let place = Place::new();
    let layer = Layer::default()
        .node(EntryType::Char, "null", (1, 3))
        .node(EntryType::Block, "loop", (7, 0))
        .node(EntryType::Fifo, "pipe", (0, 0));
    place.unpack(layer).unwrap();
    let null = place.root.join("null").metadata().unwrap();
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o755)
    );
    assert!(
        place
            .root
            .join("loop")
            .metadata()
            .unwrap()
            .file_type()
            .is_block_device()
    );
    assert!(
        place
            .root
            .join("pipe")
            .metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn names_that_climb_are_refused() {
    for layer in [
        Layer::default().file("../outside/new", b"x"),
        Layer::default().file("a/../../outside/new", b"x"),
        Layer::default().directory("..", 0o777),
        Layer::default().link(EntryType::Symlink, "../outside/link", "x"),
        Layer::default().file("../outside/.wh.secret", b""),
        Layer::default().link(EntryType::Link, "hard", "../outside/secret"),
    ] {
        let place = Place::new();
        let before = place.neighbour();
        assert!(reason(place.unpack(layer)).contains("\"..\""));
        assert_eq!(place.neighbour(), before);
    }
}

#[test]
fn links_do_not_lead_out() {
    let place = Place::new();
    let (before, outside) = (
        place.neighbour(),
        place.outside.to_str().unwrap().to_owned(),
    );
    let link = |target: &str| Layer::default().link(EntryType::Symlink, "a", target);
    let layers = [
        link(&outside).file("a/secret", b"gone"),
        link("../outside").file("a/secret", b"gone"),
        link("../outside").file("a/.wh.secret", b""),
        link("../outside").file("a/.wh..wh..opq", b""),
        link(&outside).link(EntryType::Link, "b", "a/secret"),
        link(&outside).directory("a/new", 0o777),
        link("/proc/self/root").file("a/secret", b"gone"),
    ];
    for (at, layer) in layers.into_iter().enumerate() {
        let fresh = Place {
            root: place.root.join(at.to_string()),
            outside: place.outside.clone(),
            _parent: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(&fresh.root).unwrap();
        assert!(
            matches!(fresh.unpack(layer), Err(LayerError::Entry { .. })),
            "row {at}"
        );
        assert_eq!(place.neighbour(), before, "row {at}");
    }
}

#[test]
fn the_last_component_is_replaced_and_not_followed() {
    let place = Place::new();
    let (before, outside) = (
        place.neighbour(),
        place.outside.to_str().unwrap().to_owned(),
    );
    let secret = format!("{outside}/secret");
    let layer = Layer::default()
        .link(EntryType::Symlink, "file", &secret)
        .file("file", b"mine")
        .link(EntryType::Symlink, "directory", &outside)
        .directory("directory", 0o777)
        .link(EntryType::Symlink, "soft", &secret)
        .link(EntryType::Link, "hard", "soft")
        .add(
            EntryType::Regular,
            "hard",
            |header| header.set_mode(0o777),
            b"mine",
        );
    place.unpack(layer).unwrap();
    assert_eq!(place.neighbour(), before);
    assert!(
        place
            .root
            .join("directory")
            .symlink_metadata()
            .unwrap()
            .is_dir()
    );
}

#[test]
fn absolute_links_mean_the_layer() {
    let place = Place::new();
    let layer = Layer::default()
        .directory("run", 0o755)
        .link(EntryType::Symlink, "var", "/run")
        .file("var/pid", b"1")
        .file("/etc/absolute", b"2");
    place.unpack(layer).unwrap();
    assert_eq!(fs::read(place.root.join("run/pid")).unwrap(), b"1");
    assert_eq!(fs::read(place.root.join("etc/absolute")).unwrap(), b"2");
}

#[test]
fn a_tree_that_changes_meanwhile_does_not_lead_out() {
    // What another process could do between two entries: a directory becomes a link.
    let place = Place::new();
    let before = place.neighbour();
    symlink(&place.outside, place.root.join("a")).unwrap();
    let result = place.unpack(Layer::default().file("a/secret", b"gone"));
    assert!(result.is_err());
    assert_eq!(place.neighbour(), before);
}

#[test]
fn removed_names_become_overlay_whiteouts() {
    let place = Place::new();
    let layer = Layer::default()
        .file("etc/.wh.gone", b"")
        .directory("etc/dir", 0o755)
        .file("etc/.wh.dir", b"")
        .file("etc/own", b"x")
        .file("etc/.wh.own", b"")
        .file(".wh.later", b"")
        .directory("later", 0o755)
        .file(".wh.parent", b"")
        .file("parent/child", b"x")
        .file(".wh.file", b"")
        .file("file", b"x")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/kept", b"x")
        .file(".wh..wh.plnk/1", b"");
    place.unpack(layer).unwrap();
    assert!(place.is_whiteout("etc/gone"));
    assert!(place.is_opaque("opaque") && place.root.join("opaque/kept").exists());
    for directory in ["etc/dir", "later", "parent"] {
        assert!(place.is_opaque(directory), "{directory}");
    }
    assert!(!place.is_opaque("etc"));
    assert_eq!(fs::read(place.root.join("etc/own")).unwrap(), b"x");
    assert_eq!(fs::read(place.root.join("file")).unwrap(), b"x");
    for wrong in [".wh.", ".wh..", ".wh...", "a/.wh."] {
        assert_eq!(
            reason(Place::new().unpack(Layer::default().file(wrong, b""))),
            "it removes no name"
        );
    }
}

#[test]
fn overlay_marks_from_outside_are_refused() {
    let forged = Layer::default().node(EntryType::Char, "x", (0, 0));
    assert!(reason(Place::new().unpack(forged)).contains("whiteout"));
    let opaque = Layer::default().pax("x", "SCHILY.xattr.trusted.overlay.opaque", b"y");
    assert!(reason(Place::new().unpack(opaque)).contains("trusted"));
}

#[test]
fn attributes_are_kept_or_dropped() {
    let place = Place::new();
    // Revision 2, effective, CAP_NET_RAW (include/uapi/linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::default()
        .pax("ping", "SCHILY.xattr.security.capability", &capability)
        .pax("user", "SCHILY.xattr.user.note", b"\0\n=")
        .pax("label", "SCHILY.xattr.security.selinux", b"x")
        .pax("short", "path", b"a\nlong\nname")
        .pax("time", "mtime", b"1.5");
    place.unpack(layer).unwrap();
    assert!(place.root.join("a\nlong\nname").exists() && !place.root.join("short").exists());
    let mut value = [0; 64];
    assert_eq!(
        lgetxattr(place.root.join("ping"), "security.capability", &mut value),
        Ok(20)
    );
    assert_eq!(value[..20], capability);
    assert_eq!(
        lgetxattr(place.root.join("user"), "user.note", &mut value),
        Ok(3)
    );
    assert!(lgetxattr(place.root.join("label"), "security.selinux", &mut value).is_err());
    let time = place.root.join("time").metadata().unwrap();
    assert_eq!((time.mtime(), time.mtime_nsec()), (1, 500_000_000));
}

#[test]
fn contradictions_are_refused() {
    let rows: Vec<(Layer, &str)> = vec![
        (
            Layer::default().file("d/x", b"").file("d", b""),
            "its place is taken by another entry",
        ),
        (
            Layer::default().file("f", b"").file("f/x", b""),
            "a parent is no directory",
        ),
        (
            Layer::default()
                .link(EntryType::Symlink, "l", "l")
                .file("l/x", b""),
            "a parent is no directory",
        ),
        (
            Layer::default().link(EntryType::Link, "h", "absent"),
            "its link target is not in the layer",
        ),
        (
            Layer::default()
                .directory("d", 0o755)
                .link(EntryType::Link, "h", "d"),
            "its link target is a directory",
        ),
        (
            Layer::default().file("./", b""),
            "the root of a layer is a directory",
        ),
        (
            Layer::default().add(EntryType::new(b'Z'), "z", |_| {}, b""),
            "its type is unknown",
        ),
        (
            Layer::default().add(EntryType::Regular, "u", |h| h.set_uid(1 << 32), b""),
            "its owner does not fit 32 bits",
        ),
        (
            Layer::default().add(EntryType::Regular, "u", |h| h.set_gid(0xffff_ffff), b""),
            "its owner does not fit 32 bits",
        ),
        (
            Layer::default().link(EntryType::Symlink, "s", ""),
            "it links to nothing",
        ),
    ];
    for (layer, expect) in rows {
        assert_eq!(reason(Place::new().unpack(layer)), expect);
    }
    let twice = Layer::default()
        .file("f", b"1")
        .file("f", b"22")
        .link(EntryType::Link, "f", "f");
    assert_eq!(Place::new().unpack(twice).unwrap().bytes, 3);
}

/// Names and targets that meet each other often.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ab]",
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(".wh.a".to_owned()),
        Just(".wh..wh..opq".to_owned()),
        Just("outside".to_owned()),
        Just("secret".to_owned())
    ];
    (any::<bool>(), proptest::collection::vec(part, 1..4)).prop_map(|(absolute, parts)| {
        format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_sequence_of_entries_touches_the_neighbour(
        entries in proptest::collection::vec((0..6u8, name(), name(), any::<bool>()), 1..12),
    ) {
        let place = Place::new();
        let before = place.neighbour();
        let outside = place.outside.to_str().unwrap().to_owned();
        let layer = entries.into_iter().fold(Layer::default(), |layer, (kind, name, target, out)| {
            let target = if out { format!("{outside}/secret") } else { target };
            match kind {
                0 => layer.file(&name, b"content"),
                1 => layer.directory(&name, 0o777),
                2 => layer.link(EntryType::Symlink, &name, &target),
                3 => layer.link(EntryType::Link, &name, &target),
                4 => layer.node(EntryType::Fifo, &name, (0, 0)),
                _ => layer.link(EntryType::Symlink, &name, &outside),
            }
        });
        let _ = place.unpack(layer);
        prop_assert_eq!(place.neighbour(), before);
    }
}
