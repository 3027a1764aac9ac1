//! Layers: nothing beside the layer's directory changes, whatever the archive says.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

/// All that an archive could change of a neighbour.
fn neighbour(directory: &Path) -> (Vec<u8>, Vec<(u32, i64, i64, u64, u32)>) {
    let secret = directory.join("secret");
    let facts = [directory, &secret].map(|path| {
        let it = fs::symlink_metadata(path).expect("the neighbour is there");
        (it.mode(), it.mtime(), it.mtime_nsec(), it.nlink(), it.uid())
    });
    (
        fs::read(secret).expect("the secret is there"),
        facts.to_vec(),
    )
}

fuzz_target!(|bytes: &[u8]| {
    let parent = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let (layer, outside) = (parent.path().join("layer"), parent.path().join("outside"));
    for directory in [&layer, &outside] {
        fs::create_dir(directory).expect("a directory of our own");
    }
    fs::write(outside.join("secret"), "secret").expect("a file of our own");
    let before = neighbour(&outside);
    let _ = husk_image::fuzz::layer(bytes, &layer);
    assert_eq!(neighbour(&outside), before);
    assert_eq!(
        fs::read_dir(parent.path()).expect("our directory").count(),
        2
    );
    assert_eq!(fs::read_dir(&outside).expect("our directory").count(), 1);
});
