//! From tar entries to files: reads one entry after the other and decides what it becomes.
//!
//! Devices are made as the layer says (OCI image specification, `layer.md`, "File Types"): the store's
//! directories are closed to everyone but root, and in a container the device cgroup decides about
//! access, not the existence of a node. The exception is the character device 0:0, which is the
//! overlay's own mark for a removed name and is refused when it comes from outside.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::decode::ChunkReader;
use super::pax::Records;
use super::root::{Attributes, LayerRoot, Place};
use super::{LayerError, UnpackLimits, Unpacked};

const WHITEOUT: &[u8] = b".wh.";
/// Marks of the aufs era that are no file names: only the opaque one still means something.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// Writes all entries of an uncompressed layer.
pub(super) fn apply(
    reader: ChunkReader,
    root: LayerRoot,
    limits: UnpackLimits,
) -> Result<Unpacked, LayerError> {
    let metadata = reader.metadata();
    let mut archive = Archive::new(reader);
    let mut layer = Layer::new(root, limits);
    let mut entries = archive.entries().map_err(LayerError::Archive)?;
    loop {
        metadata.expect();
        let Some(entry) = entries.next() else {
            break;
        };
        let blocks = metadata.take();
        let mut entry = entry.map_err(LayerError::Archive)?;
        layer.add(&mut entry, &blocks)?;
        // What an entry left unread must not count as the next one's metadata.
        io::copy(&mut entry, &mut io::sink()).map_err(LayerError::Archive)?;
    }
    layer.finish()
}

/// What an entry says of itself beside its place.
struct Described {
    meta: Attributes,
    /// A link's target that did not fit the header.
    link: Option<Vec<u8>>,
}

struct Layer {
    root: LayerRoot,
    limits: UnpackLimits,
    sum: Unpacked,
    /// Directories and their times, set at the end.
    times: Vec<(Option<Place>, (i64, u32))>,
}

/// Adds the entry's name to an error of the file system.
struct At<'a>(&'a [u8]);

impl At<'_> {
    fn text(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }

    fn wrong(&self, reason: &'static str) -> LayerError {
        LayerError::Entry {
            path: self.text(),
            reason,
        }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Errno) -> LayerError {
        let path = self.text();
        move |errno| match errno {
            Errno::NOTDIR | Errno::LOOP => LayerError::Entry {
                path,
                reason: "a parent is no directory",
            },
            Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR => LayerError::Entry {
                path,
                reason: "its place is taken by another entry",
            },
            Errno::XDEV | Errno::NAMETOOLONG => LayerError::Entry {
                path,
                reason: "its path cannot exist in a layer",
            },
            errno => LayerError::Write {
                operation,
                path,
                source: errno.into(),
            },
        }
    }
}

impl Layer {
    fn new(root: LayerRoot, limits: UnpackLimits) -> Self {
        Self {
            root,
            limits,
            sum: Unpacked {
                bytes: 0,
                inodes: 0,
            },
            times: Vec::new(),
        }
    }

    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>, blocks: &[u8]) -> Result<(), LayerError> {
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            return Ok(());
        }
        self.sum.inodes += 1;
        if self.sum.inodes > self.limits.entries {
            let text = format!("more than {} entries", self.limits.entries);
            return Err(LayerError::TooLarge(text));
        }
        let header_path = entry.path_bytes().into_owned();
        let records = Records::find(blocks).map_err(|reason| At(&header_path).wrong(reason))?;
        let path = records.value("path").unwrap_or(&header_path);
        let at = At(path);
        let place = Place::new(path).map_err(|reason| at.wrong(reason))?;
        if let Some(place) = &place
            && place.name().as_bytes().starts_with(WHITEOUT)
        {
            return self.whiteout(place, &at);
        }
        let described = Described {
            meta: attributes(entry, &records, &at)?,
            link: records.value("linkpath").map(<[u8]>::to_vec),
        };
        self.make(entry, place, &described, &at)
    }

    fn whiteout(&mut self, place: &Place, at: &At<'_>) -> Result<(), LayerError> {
        let name = place.name().as_bytes();
        if name == WHITEOUT_OPAQUE {
            let hidden = self.root.hide_content(place);
            return hidden.map_err(at.failed("marking the directory of"));
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT) {
            None | Some(b"" | b"." | b"..") => Err(at.wrong("it removes no name")),
            Some(hidden) => {
                let hidden = self.root.hide(&place.sibling(hidden));
                hidden.map_err(at.failed("marking as removed"))
            }
        }
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        place: Option<Place>,
        Described { meta, link }: &Described,
        at: &At<'_>,
    ) -> Result<(), LayerError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            self.times.push((place.clone(), meta.mtime));
            let made = self.root.make_directory(place.as_ref(), meta);
            return made.map_err(at.failed("creating directory"));
        }
        let place = place.ok_or_else(|| at.wrong("the root of a layer is a directory"))?;
        if matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo) {
            let node = node(entry, kind, at)?;
            let made = self.root.make_node(&place, node, meta);
            return made.map_err(at.failed("creating node"));
        }
        if kind == EntryType::Symlink {
            let target = link_name(entry, link.as_deref(), at)?;
            let made = self.root.make_symlink(&place, &target, meta);
            return made.map_err(at.failed("creating link"));
        }
        if kind == EntryType::Link {
            return self.hardlink(&place, &link_name(entry, link.as_deref(), at)?, at);
        }
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            return self.file(entry, &place, meta, at);
        }
        Err(at.wrong("its type is unknown"))
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        place: &Place,
        meta: &Attributes,
        at: &At<'_>,
    ) -> Result<(), LayerError> {
        // A sparse entry holds more than the archive has; a hole is written, hence counted, too.
        let left = self.limits.layer.saturating_sub(self.sum.bytes);
        let mut content = entry.take(left.saturating_add(1));
        let made = self.root.make_file(place, meta, &mut content);
        let bytes = made.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => at.failed("writing")(errno),
            None => LayerError::Archive(error),
        })?;
        self.sum.bytes += bytes;
        if bytes > left {
            let text = format!("more than {} bytes in files", self.limits.layer);
            return Err(LayerError::TooLarge(text));
        }
        Ok(())
    }

    fn hardlink(&mut self, place: &Place, target: &[u8], at: &At<'_>) -> Result<(), LayerError> {
        let target = Place::new(target).map_err(|_| at.wrong("its link target has \"..\""))?;
        let target = target.ok_or_else(|| at.wrong("it links to the root"))?;
        self.root
            .make_hardlink(place, &target)
            .map_err(|errno| match errno {
                Errno::NOENT => at.wrong("its link target is not in the layer"),
                Errno::PERM => at.wrong("its link target is a directory"),
                errno => at.failed("linking")(errno),
            })
    }

    fn finish(self) -> Result<Unpacked, LayerError> {
        // Deepest last listed: a parent's time is unaffected by its children's attributes.
        for (place, mtime) in self.times {
            let path = place
                .as_ref()
                .map_or(OsStr::new("."), Place::name)
                .as_bytes();
            let set = self.root.set_directory_time(place.as_ref(), mtime);
            set.map_err(At(path).failed("setting the time of"))?;
        }
        Ok(self.sum)
    }
}

fn link_name<R: Read>(
    entry: &Entry<'_, R>,
    record: Option<&[u8]>,
    at: &At<'_>,
) -> Result<Vec<u8>, LayerError> {
    let name = match record {
        Some(record) => record.to_vec(),
        None => entry.link_name_bytes().unwrap_or_default().into_owned(),
    };
    if name.is_empty() || name.contains(&0) {
        return Err(at.wrong("it links to nothing"));
    }
    Ok(name)
}

fn node<R: Read>(
    entry: &Entry<'_, R>,
    kind: EntryType,
    at: &At<'_>,
) -> Result<(FileType, u64), LayerError> {
    if kind == EntryType::Fifo {
        return Ok((FileType::Fifo, 0));
    }
    let header = entry.header();
    let major = header
        .device_major()
        .map_err(LayerError::Archive)?
        .unwrap_or(0);
    let minor = header
        .device_minor()
        .map_err(LayerError::Archive)?
        .unwrap_or(0);
    if kind == EntryType::Block {
        return Ok((FileType::BlockDevice, makedev(major, minor)));
    }
    if (major, minor) == (0, 0) {
        return Err(at.wrong("it is an overlay whiteout, which only this program may write"));
    }
    Ok((FileType::CharacterDevice, makedev(major, minor)))
}

fn attributes<R: Read>(
    entry: &Entry<'_, R>,
    records: &Records,
    at: &At<'_>,
) -> Result<Attributes, LayerError> {
    let header = entry.header();
    let id = |key: &str, field: &[u8], value: io::Result<u64>| -> Result<u32, LayerError> {
        // Archivers leave a field blank for root.
        let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
        let value = match records.parsed(key, |text| text.parse().ok()) {
            Some(value) => value,
            None if blank => 0,
            None => value.map_err(LayerError::Archive)?,
        };
        // The highest id means "leave as it is" to chown.
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| at.wrong("its owner does not fit 32 bits"))
    };
    let mut meta = Attributes {
        mode: header.mode().map_err(LayerError::Archive)? & 0o7777,
        uid: id("uid", &header.as_old().uid, header.uid())?,
        gid: id("gid", &header.as_old().gid, header.gid())?,
        // Times before 1970 are stored in a form that the parser does not read; no one needs them.
        mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        xattrs: Vec::new(),
    };
    meta.mtime = records.parsed("mtime", parse_time).unwrap_or(meta.mtime);
    for (name, value) in records.below(XATTR_PREFIX) {
        match xattr_policy(name) {
            Policy::Keep => meta.xattrs.push((name.to_owned(), value.to_vec())),
            Policy::Drop => {}
            Policy::Refuse => return Err(at.wrong("it has a trusted.* attribute")),
        }
    }
    Ok(meta)
}

#[derive(Debug, PartialEq, Eq)]
enum Policy {
    Keep,
    Drop,
    Refuse,
}

/// `trusted.*` steers overlayfs itself. Of `security.*` only file capabilities belong to the image:
/// labels and signatures are the host's business.
fn xattr_policy(name: &str) -> Policy {
    let known = name == "security.capability"
        || name == "system.posix_acl_access"
        || name == "system.posix_acl_default"
        || name
            .strip_prefix("user.")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with("overlay."));
    if name.starts_with("trusted.") {
        Policy::Refuse
    } else if known {
        Policy::Keep
    } else {
        Policy::Drop
    }
}

/// `seconds[.fraction]` of a PAX header, not before the epoch.
fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok().filter(|seconds| *seconds >= 0)?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some((seconds, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_are_read() {
        let rows = [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", None),
            ("x", None),
            ("1.x", None),
        ];
        for (text, expect) in rows {
            assert_eq!(parse_time(text), expect, "{text}");
        }
    }

    #[test]
    fn attributes_are_sorted_by_who_owns_them() {
        let rows = [
            ("security.capability", Policy::Keep),
            ("user.x", Policy::Keep),
            ("user.overlay.opaque", Policy::Drop),
            ("security.selinux", Policy::Drop),
            ("trusted.overlay.opaque", Policy::Refuse),
            ("trusted.x", Policy::Refuse),
            ("nonsense", Policy::Drop),
        ];
        for (name, expect) in rows {
            assert_eq!(xattr_policy(name), expect, "{name}");
        }
    }
}
