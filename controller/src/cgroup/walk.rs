//! The walk through nested cgroups, whose number and depth is decided by who may make some.
//!
//! Deliberately absent: what is done with them.

use std::collections::VecDeque;
use std::fs::DirEntry;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The cgroups below one, each before those in it. They are looked for as the iterator is asked, with
/// one directory open at a time; one that cannot be read is being removed.
pub fn below(top: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut entries = children(top);
    let mut not_looked_into = VecDeque::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(child) = entries.next() {
                not_looked_into.push_back(child.clone());
                return Some(child);
            }
            entries = children(&not_looked_into.pop_front()?);
        }
    })
}

/// A cgroup and those below it, in the same way.
pub(super) fn tree(top: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::iter::once(top.to_owned()).chain(below(top))
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    // A directory is linked from itself, its parent, and each that it has: most have none.
    let has_some = directory.metadata().is_ok_and(|it| it.nlink() != 2);
    let entries = has_some.then(|| std::fs::read_dir(directory));
    let entries = entries.into_iter().flatten().flatten().flatten();
    let is_cgroup = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_cgroup).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_comes_after_what_it_is_in() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(top.path().join("d")).unwrap();
        std::fs::write(top.path().join("a/cgroup.procs"), "").unwrap();
        let found: Vec<_> = below(top.path()).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(
            found[2..],
            [top.path().join("a/b"), top.path().join("a/b/c")]
        );
        assert_eq!(below(&top.path().join("gone")).count(), 0);
    }

    #[test]
    fn cgroups_may_be_nested_deeply() {
        let top = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("n", 600).collect();
        std::fs::create_dir_all(top.path().join(&deep)).unwrap();
        let mut found = below(top.path());
        assert_eq!(found.by_ref().take(256).count(), 256);
        assert_eq!(found.last(), Some(top.path().join(deep)));
    }
}
