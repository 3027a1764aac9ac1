//! The store as its callers use it: import, find, mount, release, remove, restart.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::common::{Node, Recorder, TestImage, gzip, layer, tar_of, write_tree, zstd};
use husk_image::{ErrorKind, Image, Images, LayerPhase, ProgressEvent, RootfsOptions, Silent};

fn two_layers() -> TestImage {
    TestImage::new(vec![
        layer(&[("hello", b"lower"), ("etc/gone", b"x"), ("data/a", b"a")]),
        layer(&[
            ("hello", b"upper"),
            ("etc/.wh.gone", b""),
            ("data/.wh..wh..opq", b""),
            ("data/b", b"b"),
        ]),
    ])
}

async fn import(node: &Node, bytes: &[u8], tag: Option<&str>) -> Vec<Image> {
    let path = node.directory.path().join("archive");
    std::fs::write(&path, bytes).unwrap();
    node.images
        .import(&path, tag, Arc::new(Silent))
        .await
        .unwrap()
}

fn mounted(path: &Path) -> bool {
    path.metadata().unwrap().dev() != path.parent().unwrap().metadata().unwrap().dev()
}

#[tokio::test]
async fn every_archive_form_gives_the_same_image() {
    let image = two_layers();
    let docker = image.docker_archive(&["hello:1"]);
    let layout = tar_of(&image.layout("docker.io/library/hello:1"));
    for bytes in [
        docker.clone(),
        gzip(&docker),
        zstd(&docker),
        layout.clone(),
        gzip(&layout),
    ] {
        let node = Node::new().await;
        let stored = import(&node, &bytes, None).await;
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].id, image.id());
        assert_eq!(stored[0].repo_tags, ["docker.io/library/hello:1"]);
        assert_eq!(stored[0].config.cmd, ["/hello"]);
        assert_eq!(node.count("temp"), 0);
    }
    let node = Node::new().await;
    let directory = node.directory.path().join("layout");
    write_tree(&directory, &image.layout("latest"));
    let stored = node
        .images
        .import(&directory, Some("named"), Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(stored[0].repo_tags, ["docker.io/library/named:latest"]);
}

#[tokio::test]
async fn a_root_file_system_is_the_layers_above_each_other() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello:1"]), None).await;
    let root = node
        .images
        .rootfs(&image.id(), "c1", RootfsOptions::default())
        .await
        .unwrap();
    assert!(mounted(&root.path));
    assert_eq!(std::fs::read(root.path.join("hello")).unwrap(), b"upper");
    assert!(!root.path.join("etc/gone").exists());
    assert!(!root.path.join("data/a").exists() && root.path.join("data/b").exists());
    let hello = root.path.join("hello").metadata().unwrap();
    assert_eq!(
        (hello.mtime(), hello.mode() & 0o7777),
        (1_000_000_000, 0o644)
    );

    std::fs::write(root.path.join("written"), vec![7; 50_000]).unwrap();
    let usage = node.images.container_usage("c1").await.unwrap();
    assert!(usage.bytes >= 50_000 && usage.inodes == 1, "{usage:?}");
    let again = node
        .images
        .rootfs(&image.id(), "c1", RootfsOptions::default())
        .await
        .unwrap();
    assert_eq!(again, root);

    node.images.release("c1").await.unwrap();
    assert!(!root.path.exists());
    assert_eq!(node.count("containers"), 0);
    node.images.release("c1").await.unwrap();
    let gone = node.images.container_usage("c1").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn concurrent_callers_mount_once() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello:1"]), None).await;
    let id = image.id();
    let calls = (0..8).map(|_| node.images.rootfs(&id, "c1", RootfsOptions::default()));
    for result in futures::future::join_all(calls).await {
        assert!(mounted(&result.unwrap().path));
    }
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let prefix = node.directory.path().to_str().unwrap().to_owned();
    assert_eq!(
        table.lines().filter(|line| line.contains(&prefix)).count(),
        1
    );
}

#[tokio::test]
async fn a_restart_and_a_reboot_keep_everything() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello:1"]), None).await;
    let root = node
        .images
        .rootfs(&image.id(), "c1", RootfsOptions::default())
        .await
        .unwrap();
    std::fs::write(root.path.join("written"), b"kept").unwrap();

    let node = node.reopen().await;
    assert!(mounted(&root.path), "a restart does not unmount");
    assert_eq!(node.images.known_rootfs().await, ["c1"]);
    let found = node.images.find("hello:1").unwrap().unwrap();
    assert_eq!(
        (found.id.clone(), found.config.env.clone()),
        (image.id(), vec!["A=b".to_owned()])
    );

    crate::common::unmount_below(node.directory.path());
    std::fs::remove_dir_all(node.directory.path().join("run")).unwrap();
    let node = node.reopen().await;
    let again = node.images.remount("c1").await.unwrap();
    assert_eq!(std::fs::read(again.path.join("written")).unwrap(), b"kept");
    let missing = node.images.remount("c2").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    node.images.release("c1").await.unwrap();
}

#[tokio::test]
async fn removing_an_image_in_use_keeps_its_layers_until_released() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello:1", "hello:2"]), None).await;
    let root = node
        .images
        .rootfs(&image.id(), "c1", RootfsOptions::default())
        .await
        .unwrap();
    node.images.remove("hello:2").await.unwrap();
    assert!(node.images.list().is_empty());
    assert_eq!(node.count("layers"), 2);
    assert_eq!(std::fs::read(root.path.join("hello")).unwrap(), b"upper");
    let absent = node
        .images
        .rootfs(&image.id(), "c2", RootfsOptions::default())
        .await
        .unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    node.images.release("c1").await.unwrap();
    assert_eq!((node.count("layers"), node.count("blobs")), (0, 0));
    node.images.remove("hello:2").await.unwrap();
}

#[tokio::test]
async fn layers_are_shared_and_counted_once() {
    let node = Node::new().await;
    let base = layer(&[("base", b"base")]);
    let one = TestImage::new(vec![base.clone(), layer(&[("one", b"1")])]);
    let two = TestImage::new(vec![base, layer(&[("two", b"2")])]);
    import(&node, &one.docker_archive(&["one"]), None).await;
    let recorder = Recorder::new();
    let path = node.directory.path().join("two");
    std::fs::write(&path, two.docker_archive(&["two"])).unwrap();
    node.images
        .import(&path, None, recorder.clone())
        .await
        .unwrap();
    let exists = |e: &ProgressEvent| {
        matches!(
            e,
            ProgressEvent::Layer {
                phase: LayerPhase::Exists,
                ..
            }
        )
    };
    assert_eq!(recorder.count(exists), 1);
    assert_eq!(node.count("layers"), 3);
    let usage = node.images.usage().await.unwrap().images;
    assert_eq!((usage.bytes, usage.inodes), (6, 3));
    node.images.remove("one").await.unwrap();
    assert_eq!(node.count("layers"), 2);
    let root = node
        .images
        .rootfs(&two.id(), "c", RootfsOptions::default())
        .await
        .unwrap();
    assert_eq!(std::fs::read(root.path.join("base")).unwrap(), b"base");
    node.images.release("c").await.unwrap();
}

#[tokio::test]
async fn a_tag_moves_to_the_newer_image() {
    let node = Node::new().await;
    let old = TestImage::new(vec![layer(&[("v", b"1")])]);
    let new = TestImage::new(vec![layer(&[("v", b"2")])]);
    import(&node, &old.docker_archive(&["app"]), None).await;
    import(&node, &new.docker_archive(&["app"]), None).await;
    assert_eq!(node.images.find("app").unwrap().unwrap().id, new.id());
    let old = node.images.find(&old.id()).unwrap().unwrap();
    assert!(old.repo_tags.is_empty());
    let node = node.reopen().await;
    assert_eq!(node.images.list().len(), 2);
}

#[tokio::test]
async fn an_image_volume_is_read_only() {
    let node = Node::new().await;
    let one = TestImage::new(vec![layer(&[("file", b"x")])]);
    let none = TestImage::new(Vec::new());
    import(&node, &one.docker_archive(&["one"]), None).await;
    import(&node, &none.docker_archive(&["none"]), None).await;
    for (image, file) in [(&one, true), (&none, false)] {
        let options = RootfsOptions::default();
        let path = node
            .images
            .mount_image(&image.id(), "v1", options)
            .await
            .unwrap();
        assert_eq!(path.join("file").exists(), file);
        let refused = std::fs::write(path.join("new"), b"x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        node.images.release_image_mount("v1").await.unwrap();
        assert!(!path.exists());
    }
    let root = node
        .images
        .rootfs(&none.id(), "scratch", RootfsOptions::default())
        .await
        .unwrap();
    assert_eq!(root.path.metadata().unwrap().mode() & 0o7777, 0o755);
    node.images.release("scratch").await.unwrap();
}

#[tokio::test]
async fn half_made_things_are_removed_at_open() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello"]), None).await;
    let root = node.root();
    let zeros = "0".repeat(64);
    std::fs::create_dir_all(root.join("temp/half/diff")).unwrap();
    std::fs::create_dir_all(root.join("layers").join(&zeros).join("diff")).unwrap();
    std::fs::create_dir_all(root.join("containers/half/upper")).unwrap();
    std::fs::write(root.join("blobs").join(&zeros), b"x").unwrap();
    std::fs::write(root.join("images.new-1"), b"x").unwrap();
    let node = node.reopen().await;
    let counts = ["temp", "layers", "containers", "blobs"].map(|below| node.count(below));
    assert_eq!(counts, [0, 2, 0, 1]);
    assert!(!root.join("images.new-1").exists());
    let nothing = node.images.collect_garbage().await.unwrap();
    assert_eq!(nothing, husk_image::Collected::default());
}

#[tokio::test]
async fn a_damaged_image_is_not_listed_and_importing_it_again_repairs_it() {
    let node = Node::new().await;
    let image = two_layers();
    let archive = image.docker_archive(&["hello"]);
    import(&node, &archive, None).await;
    let lost = husk_image::Digest::of(&image.layers[0]).hex();
    std::fs::remove_file(node.root().join("layers").join(lost).join("layer.json")).unwrap();
    let node = node.reopen().await;
    assert!(node.images.list().is_empty());
    import(&node, &archive, None).await;
    assert_eq!(node.images.find("hello").unwrap().unwrap().id, image.id());
}

#[tokio::test]
async fn directories_are_closed_to_others() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello"]), None).await;
    let top = node
        .images
        .rootfs(&image.id(), "c1", RootfsOptions::default())
        .await
        .unwrap();
    let run = node.directory.path().join("run");
    let private = [
        node.root(),
        node.root().join("layers"),
        node.root().join("containers/c1"),
        node.root().join("blobs"),
        run.join("rootfs"),
        run.join("views"),
    ]
    .map(|path| (path, 0o700));
    // The way to what only the root of one user namespace may enter.
    let passable = [run.clone(), run.join("mapped"), run.join("mapped/rootfs")];
    for (path, mode) in private
        .into_iter()
        .chain(passable.map(|path| (path, 0o711)))
    {
        let found = path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{}", path.display());
    }
    assert_eq!(
        top.path.metadata().unwrap().permissions().mode() & 0o7777,
        0o755
    );
    node.images.release("c1").await.unwrap();
}

#[tokio::test]
async fn wrong_archives_and_ids_say_what_is_wrong() {
    let node = Node::new().await;
    let image = two_layers();
    let mut wrong_layer = image.clone();
    wrong_layer.layers[0] = layer(&[("other", b"")]);
    let mut wrong_blob = image.layout("a:1");
    wrong_blob[4].1.push(0);
    let mut few = image.clone();
    few.layers.pop();
    let rows: Vec<(Vec<u8>, ErrorKind)> = vec![
        (
            wrong_layer.docker_archive(&["a"]),
            ErrorKind::DigestMismatch,
        ),
        (tar_of(&wrong_blob), ErrorKind::DigestMismatch),
        (few.docker_archive(&["a"]), ErrorKind::Malformed),
        (image.docker_archive(&["A B"]), ErrorKind::InvalidReference),
        (layer(&[("x", b"")]), ErrorKind::Malformed),
        (b"nonsense".repeat(200), ErrorKind::Malformed),
        (gzip(b"nonsense"), ErrorKind::Malformed),
    ];
    let path = node.directory.path().join("archive");
    for (at, (bytes, expect)) in rows.into_iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let error = node
            .images
            .import(&path, None, Arc::new(Silent))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), expect, "row {at}: {error:?}");
    }
    let missing = node
        .images
        .import(Path::new("/nonexistent"), None, Arc::new(Silent))
        .await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(node.images.list().is_empty());
    assert_eq!((node.count("temp"), node.count("blobs")), (0, 0));
    let id = image.id();
    for wrong in ["", "..", "a/b", ".hidden", "a\0"] {
        let refused = node
            .images
            .rootfs(&id, wrong, RootfsOptions::default())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidReference, "{wrong:?}");
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let node = Node::new().await;
    let second = Images::open(node.config.clone()).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::InUse);
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_left_clean() {
    let disk = crate::common::Directory::new();
    let flags = rustix::mount::MountFlags::empty();
    let mount_point = disk.path().join("disk");
    std::fs::create_dir(&mount_point).unwrap();
    rustix::mount::mount("none", &mount_point, "tmpfs", flags, c"size=4m").unwrap();
    let root = mount_point.join("root");
    let node = Node::with(|config, _| config.root = root.clone()).await;
    let big = TestImage::new(vec![layer(&[("big", &vec![1; 8 << 20])])]);
    let path = node.directory.path().join("archive");
    std::fs::write(&path, big.docker_archive(&["big"])).unwrap();
    let error = node
        .images
        .import(&path, None, Arc::new(Silent))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    for below in ["temp", "layers", "blobs"] {
        assert_eq!(
            std::fs::read_dir(root.join(below)).unwrap().count(),
            0,
            "{below}"
        );
    }
    // With space again, the same works.
    std::fs::write(&path, two_layers().docker_archive(&["small"])).unwrap();
    node.images
        .import(&path, None, Arc::new(Silent))
        .await
        .unwrap();
    assert_eq!(node.images.list().len(), 1);
}

#[tokio::test]
async fn a_mount_without_a_record_is_taken_away_at_open() {
    let node = Node::new().await;
    let image = two_layers();
    import(&node, &image.docker_archive(&["hello"]), None).await;
    let options = RootfsOptions::default();
    let root = node
        .images
        .rootfs(&image.id(), "c1", options)
        .await
        .unwrap();
    std::fs::remove_file(node.root().join("containers/c1/root.json")).unwrap();
    let node = node.reopen().await;
    assert!(!root.path.exists());
    assert_eq!(
        (
            node.images.known_rootfs().await.len(),
            node.count("containers")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn a_stranger_that_cannot_be_removed_does_not_keep_the_store_shut() {
    let node = Node::new().await;
    let stranger = node.config.run.join("rootfs/not-ours");
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("file"), b"x").unwrap();
    let node = node.reopen().await;
    assert!(stranger.join("file").exists() && node.images.list().is_empty());
}
