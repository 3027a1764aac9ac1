//! Layers that are fine, broken, and hostile. Every unpack happens beside a directory that nothing may
//! touch.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::lgetxattr;
use tar::{EntryType, Header};

use super::*;

const LIMITS: UnpackLimits = UnpackLimits {
    layer: 1 << 30,
    ratio: 1000,
    ratio_grace: 64 << 20,
    entries: 100_000,
};

/// A tar file written by hand, as builders refuse what hostile ones contain.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn add(
        mut self,
        kind: EntryType,
        name: &str,
        change: impl FnOnce(&mut Header),
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, name, |_| {}, content)
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.add(
            EntryType::Directory,
            name,
            |header| header.set_mode(mode),
            b"",
        )
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.add(
            kind,
            name,
            |header| header.set_link_name_literal(target).unwrap(),
            b"",
        )
    }

    fn node(self, kind: EntryType, name: &str, (major, minor): (u32, u32)) -> Self {
        let change = |header: &mut Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        };
        self.add(kind, name, change, b"")
    }

    /// An entry with one PAX record.
    fn pax(self, name: &str, key: &str, value: &[u8]) -> Self {
        let mut record = Vec::new();
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        write!(record, "{length} {key}=").unwrap();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.add(EntryType::XHeader, "pax", |_| {}, &record)
            .file(name, b"x")
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory for the layer, and one beside it with a secret.
struct Place {
    _parent: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let (root, outside) = (parent.path().join("root"), parent.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"secret").unwrap();
        Self {
            _parent: parent,
            root,
            outside,
        }
    }

    fn unpack_with(
        &self,
        sent: Vec<u8>,
        diff_id: Digest,
        limits: UnpackLimits,
    ) -> Result<Unpacked, LayerError> {
        let source = Source {
            compressed: sent.len() as u64,
            reader: Box::new(io::Cursor::new(sent)),
            diff_id: Some(diff_id),
            limits,
            budget: Budget::new(2 << 30),
            progress: Box::new(|_| {}),
        };
        unpack(source, &self.root)
    }

    fn unpack(&self, layer: Layer) -> Result<Unpacked, LayerError> {
        let bytes = layer.finish();
        let diff_id = Digest::of(&bytes);
        self.unpack_with(bytes, diff_id, LIMITS)
    }

    /// Everything about the neighbour that an attack could change.
    fn neighbour(&self) -> (Vec<u8>, u32, i64, u32, u64, usize) {
        let secret = self.outside.join("secret");
        let (file, directory) = (secret.metadata().unwrap(), self.outside.metadata().unwrap());
        let count = fs::read_dir(&self.outside).unwrap().count();
        (
            fs::read(&secret).unwrap(),
            file.mode(),
            file.mtime(),
            directory.mode(),
            file.nlink(),
            count,
        )
    }

    fn mode(&self, name: &str) -> u32 {
        self.root.join(name).symlink_metadata().unwrap().mode() & 0o7777
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let metadata = self.root.join(name).symlink_metadata().unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn is_opaque(&self, name: &str) -> bool {
        let mut value = [0; 4];
        lgetxattr(self.root.join(name), "trusted.overlay.opaque", &mut value) == Ok(1)
            && value[0] == b'y'
    }
}

fn reason(result: Result<Unpacked, LayerError>) -> String {
    match result {
        Err(LayerError::Entry { reason, .. }) => reason.to_owned(),
        other => panic!("{other:?}"),
    }
}

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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_compression_is_recognised() {
    let bytes = Layer::default().file("f", &[7; 1_000_000]).finish();
    let diff_id = Digest::of(&bytes);
    let halves = [gzip(&bytes[..700_000]), gzip(&bytes[700_000..])].concat();
    for sent in [
        bytes.clone(),
        gzip(&bytes),
        zstd::encode_all(&*bytes, 1).unwrap(),
        halves,
    ] {
        let place = Place::new();
        assert_eq!(
            place.unpack_with(sent, diff_id, LIMITS).unwrap().bytes,
            1_000_000
        );
    }
}

#[test]
fn damaged_streams_are_refused() {
    let bytes = Layer::default().file("f", &[7; 1_000_000]).finish();
    let diff_id = Digest::of(&bytes);
    let packed = gzip(&bytes);
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    for sent in [
        packed[..packed.len() / 2].to_vec(),
        flipped,
        zstd::encode_all(&*bytes, 1).unwrap()[..50].to_vec(),
    ] {
        let error = Place::new().unpack_with(sent, diff_id, LIMITS).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Malformed | ErrorKind::DigestMismatch
            ),
            "{error:?}"
        );
    }
    let other = Place::new()
        .unpack_with(packed, Digest::of(b"other"), LIMITS)
        .unwrap_err();
    assert!(matches!(other, LayerError::DiffId { .. }));
    let text = b"this is no archive at all".repeat(100);
    let error = Place::new()
        .unpack_with(text.clone(), Digest::of(&text), LIMITS)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn what_follows_the_end_of_the_archive_counts_for_the_digest() {
    let mut bytes = Layer::default().file("f", b"x").finish();
    bytes.extend_from_slice(&[9; 2_000_000]);
    let diff_id = Digest::of(&bytes);
    Place::new()
        .unpack_with(gzip(&bytes), diff_id, LIMITS)
        .unwrap();
}

#[test]
fn bombs_stop_at_their_limits() {
    let kind = |bytes: Vec<u8>, sent: Vec<u8>, limits| {
        let result = Place::new().unpack_with(sent, Digest::of(&bytes), limits);
        result.unwrap_err().kind()
    };
    let zeros = Layer::default().file("f", &vec![0; 4 << 20]).finish();
    let packed = gzip(&zeros);
    let size = UnpackLimits {
        layer: 1 << 20,
        ..LIMITS
    };
    assert_eq!(
        kind(zeros.clone(), packed.clone(), size),
        ErrorKind::TooLarge
    );
    let ratio = UnpackLimits {
        ratio: 50,
        ratio_grace: 1 << 20,
        ..LIMITS
    };
    assert_eq!(kind(zeros, packed, ratio), ErrorKind::TooLarge);
    let many = (0..100)
        .fold(Layer::default(), |layer, at| {
            layer.file(&at.to_string(), b"")
        })
        .finish();
    let few = UnpackLimits {
        entries: 50,
        ..LIMITS
    };
    assert_eq!(kind(many.clone(), many, few), ErrorKind::TooLarge);
    let name = vec![b'a'; 5 << 20];
    let long = Layer::default()
        .add(EntryType::GNULongName, "x", |_| {}, &name)
        .file("f", b"")
        .finish();
    assert_eq!(kind(long.clone(), long, LIMITS), ErrorKind::Malformed);
}

#[test]
fn a_sparse_bomb_is_stopped_by_what_it_would_write() {
    let layer = Layer::default()
        .add(
            EntryType::GNUSparse,
            "sparse",
            |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(1 << 40);
                gnu.sparse[0].set_offset(1 << 40);
                gnu.sparse[0].set_length(0);
            },
            b"",
        )
        .finish();
    let limits = UnpackLimits {
        layer: 1 << 20,
        ..LIMITS
    };
    let error = Place::new()
        .unpack_with(layer.clone(), Digest::of(&layer), limits)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
}

#[test]
fn the_image_s_budget_is_shared_by_its_layers() {
    let bytes = Layer::default().file("f", &[1; 600_000]).finish();
    let budget = Budget::new(1_000_000);
    let run = || {
        let place = Place::new();
        let source = Source {
            compressed: bytes.len() as u64,
            reader: Box::new(io::Cursor::new(bytes.clone())),
            diff_id: Some(Digest::of(&bytes)),
            limits: LIMITS,
            budget: Arc::clone(&budget),
            progress: Box::new(|_| {}),
        };
        unpack(source, &place.root)
    };
    assert!(run().is_ok());
    assert_eq!(run().unwrap_err().kind(), ErrorKind::TooLarge);
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
