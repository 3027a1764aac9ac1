//! What a container changed in its root file system, written as a layer: removed names are whiteouts
//! (OCI image specification, `layer.md`).
//!
//! Deliberately absent: extended attributes, and sockets, which mean nothing without their process.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::{RootKind, Store};
use crate::error::RootfsError;
use crate::kind::FileError;

/// Overlayfs marks a directory that hides the ones below it (kernel documentation,
/// `filesystems/overlayfs.rst`).
const OPAQUE: &str = "trusted.overlay.opaque";

impl Store {
    /// Writes the changes of a container to a file.
    pub(crate) fn write_changes(&self, id: &str, file: File) -> Result<(), RootfsError> {
        let upper = self.dirs.record(RootKind::Container, id).join("upper");
        if !upper.is_dir() {
            return Err(RootfsError::NoRootfs(id.to_owned()));
        }
        write(&upper, file).map_err(|source| RootfsError::Store {
            id: id.to_owned(),
            source: FileError::new("reading the changes in", &upper)(source).into(),
        })
    }
}

fn write(upper: &Path, file: File) -> io::Result<()> {
    let mut layer = Builder::new(io::BufWriter::new(file));
    layer.follow_symlinks(false);
    add_children(&mut layer, upper, Path::new(""))?;
    layer.into_inner()?.flush()
}

type Layer = Builder<io::BufWriter<File>>;

/// In the order of names, so that the same changes are the same bytes.
fn add_children(layer: &mut Layer, directory: &Path, name: &Path) -> io::Result<()> {
    let mut children = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    children.sort_by_key(DirEntry::file_name);
    for child in children {
        let metadata = child.metadata()?;
        let name = name.join(child.file_name());
        if is_whiteout(&metadata) {
            mark(layer, &name.with_file_name(removed(&child)))?;
        } else if !metadata.file_type().is_socket() {
            layer.append_path_with_name(child.path(), &name)?;
        }
        if metadata.is_dir() {
            if is_opaque(&child.path()) {
                mark(layer, &name.join(".wh..wh..opq"))?;
            }
            add_children(layer, &child.path(), &name)?;
        }
    }
    Ok(())
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn removed(child: &DirEntry) -> std::ffi::OsString {
    let mut name = std::ffi::OsString::from(".wh.");
    name.push(child.file_name());
    name
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    let length = rustix::fs::lgetxattr(path, OPAQUE, &mut value[..]);
    length.is_ok_and(|length| length == 1) && value == *b"y"
}

fn mark(layer: &mut Layer, name: &Path) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(0);
    header.set_mode(0o600);
    layer.append_data(&mut header, name, io::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;
    use crate::layer::unpack_foreign;

    #[test]
    fn changes_are_a_layer_with_whiteouts() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        fs::create_dir_all(at("etc/new")).unwrap();
        fs::write(at("etc/hosts"), "x").unwrap();
        symlink("/nowhere", at("link")).unwrap();
        let device = makedev(0, 0);
        mknodat(
            CWD,
            at("etc/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            device,
        )
        .unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at("etc/new"), OPAQUE, b"y", flags).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        write(upper.path(), file.reopen().unwrap()).unwrap();
        // What was written is what is read, marks included.
        let again = tempfile::tempdir().unwrap();
        let limits = crate::Limits::default().unpack();
        unpack_foreign(file.reopen().unwrap(), limits, again.path()).unwrap();
        let gone = again.path().join("etc/gone").symlink_metadata().unwrap();
        assert!(is_whiteout(&gone) && is_opaque(&again.path().join("etc/new")));
        assert_eq!(fs::read(again.path().join("etc/hosts")).unwrap(), b"x");
        let mut archive = tar::Archive::new(file.reopen().unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "etc",
                "etc/.wh.gone",
                "etc/hosts",
                "etc/new",
                "etc/new/.wh..wh..opq",
                "link"
            ]
        );
    }
}
