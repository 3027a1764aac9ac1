//! Members of an image archive by name, whether it is a directory or a tar file.
//!
//! An archive lists its members in any order and the interesting one is often last, so a tar file is
//! indexed first and then read at offsets. A compressed one is unpacked to a temporary file before.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::failure::Cause;
use crate::kind::FileError;
use crate::layer::decompress;
use crate::store::files::Temporary;

/// Headers and names of a whole archive; more is an attack on memory.
const INDEX_LIMIT: u64 = 64 << 20;

/// An opened archive.
#[derive(Debug)]
pub(super) enum Archive {
    /// Members are files below it.
    Directory(OwnedFd),
    /// Members are parts of the file.
    Tar {
        /// Readable at offsets by several threads.
        file: Arc<File>,
        /// Where each member is.
        members: HashMap<String, Member>,
        /// The uncompressed copy, if the archive was compressed.
        _copy: Option<Temporary>,
    },
}

/// A member's content in a tar file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    offset: u64,
    size: u64,
}

/// A member's reader and size in bytes.
pub(super) struct Opened {
    pub(super) reader: Box<dyn Read + Send>,
    pub(super) size: u64,
}

impl Archive {
    /// Opens a directory or tar file. `copy` is where a compressed archive is unpacked to, up to
    /// `limit` bytes.
    pub(super) fn open(path: &Path, copy: &Path, limit: u64) -> Result<Self, Cause> {
        let file = File::open(path).map_err(FileError::new("opening", path))?;
        let metadata = file.metadata().map_err(FileError::new("reading", path))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(file.into()));
        }
        if !metadata.is_file() {
            return Err(Cause::Archive(
                "it is neither a directory nor a file".to_owned(),
            ));
        }
        let mut magic = [0; 4];
        let known = file
            .read_at(&mut magic, 0)
            .map_err(FileError::new("reading", path))?;
        let plain = known < 4 || !is_compressed(magic);
        let (file, copy) = if plain {
            (file, None)
        } else {
            let (file, copy) = unpack_copy(file, path, copy, limit)?;
            (file, Some(copy))
        };
        let members = index(&file).map_err(|error| {
            Cause::Archive(format!("it is not a readable tar archive: {error}"))
        })?;
        Ok(Self::Tar {
            file: Arc::new(file),
            members,
            _copy: copy,
        })
    }

    /// Opens a member; `None` if there is none of this name.
    pub(super) fn member(&self, name: &str) -> Result<Option<Opened>, Cause> {
        match self {
            Self::Directory(directory) => open_beneath(directory, name),
            Self::Tar { file, members, .. } => Ok(members.get(&clean(name)).map(|member| Opened {
                size: member.size,
                reader: Box::new(BufReader::new(Slice {
                    file: Arc::clone(file),
                    at: member.offset,
                    end: member.offset.saturating_add(member.size),
                })),
            })),
        }
    }

    /// Opens a member that must exist.
    pub(super) fn expect(&self, name: &str) -> Result<Opened, Cause> {
        self.member(name)?
            .ok_or_else(|| Cause::Archive(format!("the archive has no member {name:?}")))
    }

    /// Reads a member of limited size into memory.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Cause> {
        let mut opened = self.expect(name)?;
        if opened.size > limit {
            return Err(Cause::TooLarge {
                what: name.to_owned(),
                size: opened.size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        let read = opened.reader.by_ref().take(limit).read_to_end(&mut bytes);
        read.map_err(FileError::new("reading", name))?;
        Ok(bytes)
    }
}

fn is_compressed(magic: [u8; 4]) -> bool {
    magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]
}

fn unpack_copy(
    file: File,
    path: &Path,
    copy: &Path,
    limit: u64,
) -> Result<(File, Temporary), Cause> {
    let mut target = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(copy)
        .map_err(FileError::new("creating", copy))?;
    let temporary = Temporary::new(copy.to_owned());
    let reader = decompress(Box::new(file)).map_err(FileError::new("uncompressing", path))?;
    let size = io::copy(&mut reader.take(limit.saturating_add(1)), &mut target)
        .map_err(FileError::new("uncompressing", path))?;
    if size > limit {
        return Err(Cause::TooLarge {
            what: "the uncompressed archive".to_owned(),
            size,
            limit,
        });
    }
    Ok((target, temporary))
}

fn open_beneath(directory: &OwnedFd, name: &str) -> Result<Option<Opened>, Cause> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(directory, clean(name), flags, Mode::empty(), within) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(FileError::new("opening", name)(error).into()),
    };
    let metadata = file.metadata().map_err(FileError::new("reading", name))?;
    if !metadata.is_file() {
        return Err(Cause::Archive(format!("{name:?} is not a file")));
    }
    Ok(Some(Opened {
        size: metadata.len(),
        reader: Box::new(file),
    }))
}

/// Names are compared without `./`.
fn clean(name: &str) -> String {
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

fn index(file: &File) -> io::Result<HashMap<String, Member>> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    let limited = Limited {
        inner: BufReader::with_capacity(8192, file),
        left: INDEX_LIMIT,
    };
    let mut archive = tar::Archive::new(limited);
    let mut members = HashMap::new();
    let mut links = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_contiguous() {
            let member = Member {
                offset: entry.raw_file_position(),
                size: entry.size(),
            };
            members.insert(name, member);
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Older Docker versions store a layer once and link to it.
            let target = entry.link_name_bytes().unwrap_or_default();
            links.push((name, String::from_utf8_lossy(&target).into_owned()));
        }
    }
    for (name, target) in links {
        let beside = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        let found = [resolve(beside, &target), clean(&target)];
        if let Some(member) = found.iter().find_map(|path| members.get(path)).copied() {
            members.insert(name, member);
        }
    }
    Ok(members)
}

/// A link's target as a member's name.
fn resolve(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads a part of a file without moving its position.
struct Slice {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Fails once more was read than any honest index needs; content is skipped by seeking.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("its headers are larger than 64 MiB"))?;
        Ok(count)
    }
}

impl<R: Seek> Seek for Limited<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
