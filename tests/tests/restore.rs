//! Containers that go on from a checkpoint, in an OCI runtime that stands in for one with CRIU. With CRIU itself:
//! `a_real_checkpoint_is_restored_or_the_node_says_what_it_lacks` of `checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use husk_tests::checkpoint::{checkpoint, contents, pod};
use husk_tests::client::expect_error;
use husk_tests::command::output;
use husk_tests::config::image_spec;
use husk_tests::image::Entry;
use husk_tests::wait::DEADLINE;
use husk_tests::{Image, Layer, Pod, container, cri, wait_for};
use serde_json::json;
use tar::EntryType;
use tonic::Code;

/// A container of this name and image.
fn named(name: &str, image: &str) -> cri::ContainerConfig {
    let mut config = container(name, "echo hello; exec sleep 600");
    config.image = Some(image_spec(image));
    config
}

/// A container that has changed its files, and a checkpoint of it.
async fn source(pod: &Pod) -> Result<(String, PathBuf)> {
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let change = "echo changed > /new; rm /etc/passwd; mkdir /d; chmod 750 /d; ln -s /new /d/link";
    pod.client.shell(&id, change).await?;
    let location = pod.node.directory().join("c.tar");
    checkpoint(&pod.client, &id, &location, 60).await?;
    Ok((id, location))
}

/// The directory of a container's own at the image store.
fn directory_of(pod: &Pod, id: &str) -> PathBuf {
    pod.node.directory().join("root/images/containers").join(id)
}

async fn goes_on(pod: &Pod, id: &str) -> Result<()> {
    let look = "cat /new; stat -c %a /d; readlink /d/link; [ ! -e /etc/passwd ] && cat /etc/group | head -n 1";
    let found = pod.client.shell(id, look).await?;
    assert_eq!(found, "changed\n750\n/new\nroot:x:0:");
    let images = directory_of(pod, id).join("checkpoint");
    let gone = async || (!images.exists()).then_some(());
    wait_for("what it was restored from is gone", DEADLINE, gone).await
}

#[tokio::test]
async fn a_restored_container_has_its_files_its_pipes_and_a_life() -> Result<()> {
    let Some((pod, _)) = pod("restore", true).await? else {
        return Ok(());
    };
    let (first, location) = source(&pod).await?;
    let location = location.display().to_string();
    let id = pod.create(named("again", &location)).await?;
    let [before, status] = [
        pod.client.container_status(&first).await?,
        pod.client.container_status(&id).await?,
    ];
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert_eq!(status.image_ref, before.image_ref);
    let early = pod.client.shell(&id, "true").await;
    ensure!(early.is_err(), "a command ran in what does not run");
    // What is to be restored outlives the daemon, though no monitor knows it.
    pod.node.restart().await?;
    pod.client.start(&id).await?;
    pod.client.start(&id).await?;
    goes_on(&pod, &id).await?;
    let log = pod.log("again");
    let said = async || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("stdout F hello"))
    };
    let waited = wait_for("its output is in its log", DEADLINE, said).await;
    waited.with_context(|| format!("{:?} {}", fs::read_to_string(&log), pod.node.log_tail(60)))?;
    pod.node.restart().await?;
    let status = pod.client.container_status(&id).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    pod.client.stop(&id, 0).await?;
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 137);
    pod.client.remove(&id).await?;
    assert!(!directory_of(&pod, &id).exists());
    pod.delete().await
}

#[tokio::test]
async fn what_is_never_restored_can_be_stopped_and_removed() -> Result<()> {
    let Some((pod, _)) = pod("unrestored", true).await? else {
        return Ok(());
    };
    let (_, location) = source(&pod).await?;
    let location = location.display().to_string();
    let stopped = pod.create(named("stopped", &location)).await?;
    pod.client.stop(&stopped, 10).await?;
    let status = pod.client.container_status(&stopped).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.started_at, 0);
    let late = pod.client.start(&stopped).await;
    expect_error(late, &[Code::FailedPrecondition], &["exited"])?;
    let removed = pod.create(named("removed", &location)).await?;
    assert!(directory_of(&pod, &removed).join("checkpoint").exists());
    pod.client.remove(&removed).await?;
    assert!(!directory_of(&pod, &removed).exists());
    pod.create(named("left", &location)).await?;
    pod.delete().await
}

#[tokio::test]
async fn an_image_that_is_annotated_as_a_checkpoint_is_restored() -> Result<()> {
    let Some((pod, _)) = pod("restore-image", true).await? else {
        return Ok(());
    };
    let (_, location) = source(&pod).await?;
    let mut layer = Layer::new();
    for (name, bytes) in contents(fs::File::open(location)?)? {
        layer = match name.strip_suffix('/') {
            Some(directory) => layer.directory(directory, 0o700),
            None if bytes.is_empty() => layer,
            None => layer.file(&name, 0o600, &bytes),
        };
    }
    for annotation in [
        "io.kubernetes.cri-o.annotations.checkpoint.name",
        "org.criu.checkpoint.container.name",
    ] {
        let image = Image::empty("husk.test/checkpoint:1")
            .layer(layer.clone())
            .annotation(annotation, "main");
        let layout = tempfile::tempdir_in(pod.node.directory())?;
        Image::write_layout(layout.path(), std::slice::from_ref(&image))?;
        let import = ["image", "import", "--tag", image.reference()];
        output(pod.node.husk(&import)?.arg(layout.path()))?;
        let id = pod.launch(named(annotation, image.reference())).await?;
        goes_on(&pod, &id).await?;
        pod.client.remove_image(image.reference()).await?;
    }
    pod.delete().await
}

#[tokio::test]
async fn nothing_is_restored_where_the_configuration_does_not_say_so() -> Result<()> {
    let Some((pod, _)) = pod("restore-off", false).await? else {
        return Ok(());
    };
    let (_, location) = source(&pod).await?;
    refuse(&pod, &location, "runtime.restore").await?;
    pod.delete().await
}

#[tokio::test]
async fn a_restore_that_fails_ends_the_container_and_names_the_cause() -> Result<()> {
    let Some((pod, stand_in)) = pod("restore-fails", true).await? else {
        return Ok(());
    };
    let (_, location) = source(&pod).await?;
    let id = pod
        .create(named("again", &location.display().to_string()))
        .await?;
    stand_in.fail(true)?;
    let failed = pod.client.start(&id).await;
    let words = ["restoration of", "CRIU says", "no such luck"];
    expect_error(failed, &[Code::FailedPrecondition], &words)?;
    let status = pod.client.container_status(&id).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.reason, "StartError");
    assert!(
        status.message.contains("no such luck"),
        "{}",
        status.message
    );
    stand_in.fail(false)?;
    pod.delete().await
}

/// An archive that is fine but for one thing.
struct Parts {
    config: Vec<u8>,
    spec: Vec<u8>,
    changes: Vec<u8>,
}

impl Parts {
    fn describe(&self) -> Layer {
        Layer::new()
            .file("config.dump", 0o600, &self.config)
            .file("spec.dump", 0o600, &self.spec)
    }

    fn all(&self) -> Layer {
        self.describe()
            .file("rootfs-diff.tar", 0o600, &self.changes)
            .directory("checkpoint", 0o700)
            .file("checkpoint/pages-1.img", 0o600, b"memory\n")
    }

    fn images(&self) -> Layer {
        self.describe().directory("checkpoint", 0o700).file(
            "checkpoint/pages-1.img",
            0o600,
            b"memory\n",
        )
    }
}

/// What is wrong, the archive, and a word of the refusal.
type Row = (&'static str, Layer, &'static str);

fn incomplete(parts: &Parts) -> Vec<Row> {
    let config = |bytes: &[u8]| Layer::new().file("config.dump", 0o600, bytes);
    let empty = parts.describe().directory("checkpoint", 0o700);
    let huge = vec![b' '; (4 << 20) + 1];
    let text = b"root:x:0:0:root:/root:/bin/sh";
    let removed = parts.all().file("deleted.files", 0o600, b"[\"/x\"]");
    vec![
        ("empty", Layer::new(), "config.dump"),
        ("no spec", config(&parts.config), "spec.dump"),
        ("no processes", parts.describe(), "no directory checkpoint"),
        ("nothing of processes", empty, "nothing in checkpoint"),
        ("huge", config(&huge), "more than"),
        ("no JSON", config(text), "cannot be read"),
        ("removed files", removed, "deleted.files"),
    ]
}

fn misleading(parts: &Parts) -> Vec<Row> {
    let pipe = Entry {
        path: "checkpoint/pipe",
        kind: EntryType::Fifo,
        mode: 0o666,
        target: "",
        content: &[],
    };
    let link = |layer: Layer, name: &str| layer.symlink(name, "/etc/passwd");
    let changes = |name: &str| {
        let changes = Layer::new().file(name, 0o644, b"").finished();
        parts.images().file("rootfs-diff.tar", 0o600, &changes)
    };
    let out = parts.all().file("../outside", 0o644, b"x");
    let directory = parts.describe().symlink("checkpoint", "/etc");
    vec![
        (
            "a link for a description",
            link(Layer::new(), "config.dump"),
            "config.dump",
        ),
        (
            "a link for the processes",
            directory,
            "no directory checkpoint",
        ),
        (
            "a link among the processes",
            link(parts.all(), "checkpoint/x"),
            "no file",
        ),
        (
            "a pipe among the processes",
            parts.all().entry(pipe),
            "no file",
        ),
        (
            "a link for the changes",
            link(parts.images(), "rootfs-diff.tar"),
            "rootfs-diff.tar",
        ),
        ("a way out", out, "outside"),
        ("a way out of the changes", changes("../outside"), "outside"),
        ("a whiteout outside", changes("../.wh.etc"), ".wh.etc"),
    ]
}

fn demanding(parts: &Parts) -> Result<Vec<Row>> {
    let foreign = json!({
        "rootfsImage": format!("sha256:{}", "0".repeat(64)),
        "rootfsImageRef": "husk.test/busybox:1",
    });
    let foreign = Parts {
        config: serde_json::to_vec(&foreign)?,
        spec: parts.spec.clone(),
        changes: Vec::new(),
    };
    let mut spec: serde_json::Value = serde_json::from_slice(&parts.spec)?;
    let mounts = spec["mounts"].as_array_mut().context("no mounts")?;
    mounts.push(json!({
        "destination": "/host", "type": "bind", "source": "/", "options": ["rbind"],
    }));
    let mounts = Parts {
        config: parts.config.clone(),
        spec: serde_json::to_vec(&spec)?,
        changes: parts.changes.clone(),
    };
    Ok(vec![
        ("another image", foreign.all(), "not on this node"),
        ("mounts of its own", mounts.all(), "/host"),
    ])
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() -> Result<()> {
    let Some((pod, _)) = pod("hostile", true).await? else {
        return Ok(());
    };
    let (id, location) = source(&pod).await?;
    let parts = contents(fs::File::open(&location)?)?;
    let parts = Parts {
        config: parts["config.dump"].clone(),
        spec: parts["spec.dump"].clone(),
        changes: parts["rootfs-diff.tar"].clone(),
    };
    let root = pod.node.directory().join("root");
    let listed = |path: &str| -> Result<usize> { Ok(fs::read_dir(root.join(path))?.count()) };
    let before = [listed("images/containers")?, listed("checkpoints")?];
    let path = pod.node.directory().join("hostile.tar");
    fs::write(&path, "root:x:0:0:root:/root:/bin/sh\n".repeat(100))?;
    refuse(&pod, &path, "archive").await?;
    let rows = [incomplete(&parts), misleading(&parts), demanding(&parts)?];
    for (name, archive, word) in rows.into_iter().flatten() {
        fs::write(&path, archive.finished())?;
        refuse(&pod, &path, word)
            .await
            .map_err(|error| error.context(name))?;
        let after = [listed("images/containers")?, listed("checkpoints")?];
        assert_eq!(after, before, "{name}");
    }
    for (path, word) in [
        ("/nowhere.tar", "No such file"),
        ("/dev/zero", "not a regular file"),
        ("/etc", "not a regular file"),
    ] {
        refuse(&pod, Path::new(path), word).await?;
    }
    assert_eq!(
        pod.client.containers(None).await?.len(),
        1,
        "only {id} is there"
    );
    // The archive that all were made of is fine.
    fs::write(&location, parts.all().finished())?;
    let again = pod
        .launch(named("again", &location.display().to_string()))
        .await?;
    goes_on(&pod, &again).await?;
    pod.delete().await
}

async fn refuse(pod: &Pod, archive: &Path, word: &str) -> Result<()> {
    let config = named("again", &archive.display().to_string());
    let created = pod.client.create(&pod.id, &pod.config, config).await;
    if let Err(status) = &created {
        // What the file holds is nobody's business.
        ensure!(!status.message().contains("/bin/sh"), "{status}");
    }
    let name = archive.display().to_string();
    expect_error(created, &[Code::InvalidArgument], &[&name, word])
}
