//! Small file systems in the mount namespace of a node, that can be filled and broken.
//!
//! They are files mounted through a loop device, which goes with the mount, which goes with the node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::output;
use crate::node::Node;

/// EXT4_GOING_FLAGS_NOLOGFLUSH of EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h): from now on everything there ends with EIO. It
/// is what a file system does by itself once its disk is gone, and needs no device mapper.
const SHUTDOWN: &str = "open my $f, '<', $ARGV[0] or die $!; my $how = pack 'L', 2; \
                        ioctl $f, 0x8004587d, $how or die $!";

/// A file system of a node.
#[derive(Debug)]
pub struct Volume<'a> {
    node: &'a Node,
    /// Where the node sees it.
    pub path: PathBuf,
}

impl<'a> Volume<'a> {
    /// An ext4 file system of so many MiB, mounted at `path` in the node.
    pub fn disk(node: &'a Node, path: &Path, mebibytes: u64) -> Result<Self> {
        let number = fs::read_dir(node.directory())?.count();
        let image = node.directory().join(format!("disk-{number}"));
        fs::File::create(&image)?.set_len(mebibytes << 20)?;
        // Without a journal a full disk is full for everybody, and what is not needed is not waited for.
        let mut make = node.enter(Path::new("mkfs.ext4"))?;
        output(
            make.args(["-q", "-m", "0", "-O", "^has_journal"])
                .arg(&image),
        )?;
        Self::mount(node, path, &["-o", "loop"], &image)
    }

    /// A file system in memory.
    pub fn memory(node: &'a Node, path: &Path, mebibytes: u64) -> Result<Self> {
        let options = format!("-osize={mebibytes}m,mode=700");
        Self::mount(node, path, &["-t", "tmpfs", &options], Path::new("tmpfs"))
    }

    fn mount(node: &'a Node, path: &Path, options: &[&str], source: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        output(
            node.enter(Path::new("mount"))?
                .args(options)
                .arg(source)
                .arg(path),
        )?;
        Ok(Self {
            node,
            path: path.to_owned(),
        })
    }

    /// A path of the volume as this process reaches it, which is in another mount namespace.
    pub fn seen(&self, path: &Path) -> Result<PathBuf> {
        let holder = self
            .node
            .network()
            .context("not a node of the harness's own")?;
        let inside = path.strip_prefix("/").unwrap_or(path);
        Ok(Path::new(&format!("/proc/{holder}/root")).join(inside))
    }

    /// Fills it to the last byte with a file that [`Volume::free`] removes.
    pub fn fill(&self) -> Result<()> {
        let filler = self.seen(&self.path.join("filler"))?;
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(&filler)?;
        for size in [1 << 16, 1 << 12, 1] {
            let bytes = vec![0; size];
            while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
        }
        Ok(())
    }

    /// Keeps so many KiB from everybody else, until [`Volume::free`].
    pub fn reserve(&self, kibibytes: usize) -> Result<()> {
        Ok(fs::write(
            self.seen(&self.path.join("filler"))?,
            vec![0; kibibytes << 10],
        )?)
    }

    /// Gives back what was filled or reserved.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.seen(&self.path.join("filler"))?)?)
    }

    /// From now on reads and writes fail with EIO. There is no way back.
    pub fn break_off(&self) -> Result<()> {
        let mut perl = self.node.enter(Path::new("perl"))?;
        output(perl.args(["-e", SHUTDOWN]).arg(&self.path)).map(drop)
    }

    /// Unmounts it; who holds a file of it open keeps it.
    pub fn unmount(self) -> Result<()> {
        let mut unmount = self.node.enter(Path::new("umount"))?;
        output(unmount.arg("--lazy").arg(&self.path)).map(drop)
    }
}
