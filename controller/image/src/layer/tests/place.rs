//! Layers written by hand, and a place to unpack them with a neighbour that must not be touched.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use rustix::fs::lgetxattr;
use tar::{EntryType, Header};

use crate::layer::*;

pub(super) const LIMITS: UnpackLimits = UnpackLimits {
    layer: 1 << 30,
    ratio: 1000,
    ratio_grace: 64 << 20,
    entries: 100_000,
};

/// A tar file written by hand, as builders refuse what hostile ones contain.
#[derive(Default)]
pub(super) struct Layer(Vec<u8>);

impl Layer {
    pub(super) fn add(
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

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, name, |_| {}, content)
    }

    pub(super) fn directory(self, name: &str, mode: u32) -> Self {
        self.add(
            EntryType::Directory,
            name,
            |header| header.set_mode(mode),
            b"",
        )
    }

    pub(super) fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.add(
            kind,
            name,
            |header| header.set_link_name_literal(target).unwrap(),
            b"",
        )
    }

    pub(super) fn node(self, kind: EntryType, name: &str, (major, minor): (u32, u32)) -> Self {
        let change = |header: &mut Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        };
        self.add(kind, name, change, b"")
    }

    /// An entry with one PAX record.
    pub(super) fn pax(self, name: &str, key: &str, value: &[u8]) -> Self {
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

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory for the layer, and one beside it with a secret.
pub(super) struct Place {
    pub(super) _parent: tempfile::TempDir,
    pub(super) root: PathBuf,
    pub(super) outside: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
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

    pub(super) fn unpack_with(
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

    pub(super) fn unpack(&self, layer: Layer) -> Result<Unpacked, LayerError> {
        let bytes = layer.finish();
        let diff_id = Digest::of(&bytes);
        self.unpack_with(bytes, diff_id, LIMITS)
    }

    /// Everything about the neighbour that an attack could change.
    pub(super) fn neighbour(&self) -> (Vec<u8>, u32, i64, u32, u64, usize) {
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

    pub(super) fn mode(&self, name: &str) -> u32 {
        self.root.join(name).symlink_metadata().unwrap().mode() & 0o7777
    }

    pub(super) fn is_whiteout(&self, name: &str) -> bool {
        let metadata = self.root.join(name).symlink_metadata().unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    pub(super) fn is_opaque(&self, name: &str) -> bool {
        let mut value = [0; 4];
        lgetxattr(self.root.join(name), "trusted.overlay.opaque", &mut value) == Ok(1)
            && value[0] == b'y'
    }
}

pub(super) fn reason(result: Result<Unpacked, LayerError>) -> String {
    match result {
        Err(LayerError::Entry { reason, .. }) => reason.to_owned(),
        other => panic!("{other:?}"),
    }
}
