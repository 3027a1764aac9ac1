//! Attacks on other runtimes that were once news, tried here. Each test is named after the fault.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::config::{bare_container, image_spec, namespaces, security};
use husk_tests::image::Entry;
use husk_tests::process::monitor;
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Image, Layer, Node, NodeOptions, Pod, container, cri, logs, settings};
use serde_json::json;
use tar::EntryType;
use tonic::Code;

/// Runs a container to its end, which Husk does with all of these; another runtime may refuse it.
async fn shown(
    pod: &Pod,
    config: cri::ContainerConfig,
) -> Result<Option<(cri::ContainerStatus, Vec<String>)>> {
    match pod.once(config).await {
        Err(_refused) if !pod.node.is_husk() => Ok(None),
        ran => ran.map(Some),
    }
}

#[tokio::test]
async fn cve_2022_23648_an_image_volume_with_dots_stays_in_the_rootfs() -> Result<()> {
    let pod = Pod::on_host("volume").await?;
    let volumes = json!({"/../../../../../../../../etc": {}, "/data/../../../../etc": {}});
    pod.node
        .import(&Image::busybox("husk.test/volume:1")?.with("Volumes", volumes))?;
    let mut config = container("main", "cat /etc/hostname 2>/dev/null; ls /etc");
    config.image = Some(image_spec("husk.test/volume:1"));
    let host = fs::read_to_string("/etc/debian_version").unwrap_or_default();
    if let Some((_, output)) = shown(&pod, config).await? {
        assert!(
            !output.iter().any(|line| line == "debian_version"),
            "the host's /etc is inside: {host} {output:?}"
        );
    }
    pod.delete().await
}

#[tokio::test]
async fn cve_2022_4318_newlines_in_variables_do_not_reach_etc_passwd() -> Result<()> {
    let pod = Pod::on_host("newline").await?;
    for (name, value) in [
        ("newline", "/x\nevil:x:0:0::/:/bin/sh"),
        ("return", "/x\revil:x:0:0::/:/bin/sh"),
    ] {
        let mut config = container(name, "cat /etc/passwd");
        config.envs = vec![cri::KeyValue {
            key: "HOME".to_owned(),
            value: value.as_bytes().to_vec(),
        }];
        security(&mut config).run_as_user = Some(cri::Int64Value { value: 4242 });
        if let Some((_, output)) = shown(&pod, config).await? {
            assert!(
                !output.iter().any(|line| line.starts_with("evil")),
                "{output:?}"
            );
        }
    }
    pod.delete().await
}

#[tokio::test]
async fn cve_2024_3154_and_2023_6476_annotations_do_not_change_the_container() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.host_pod("annotated");
    for key in [
        "org.systemd.property.ExecStart",
        "run.oci.hooks.stderr",
        "io.kubernetes.cri-o.Devices",
        "run.oci.handler",
    ] {
        config
            .annotations
            .insert(key.to_owned(), "/bin/false".to_owned());
    }
    let pod = Pod::run(node, config).await?;
    let mut main = container("main", "ls /dev/null && echo unharmed");
    main.annotations.clone_from(&pod.config.annotations);
    assert_eq!(
        pod.once(main).await?.1.last().map(String::as_str),
        Some("unharmed")
    );
    pod.delete().await
}

#[tokio::test]
async fn cve_2024_5154_a_symlinked_etc_does_not_lead_to_the_host() -> Result<()> {
    let node = Node::shared().await?;
    let host = tempfile::tempdir()?;
    let layer = Layer::new().symlink("etc", &host.path().display().to_string());
    let image = Image::empty("husk.test/symlink:1")
        .layer(busybox_without_etc()?)
        .layer(layer);
    node.import(&image)?;
    let pod = Pod::run(node.clone(), node.pod("symlink")).await?;
    let mut config = container("main", "true");
    config.image = Some(image_spec("husk.test/symlink:1"));
    let created = pod.client.create(&pod.id, &pod.config, config).await;
    if node.is_husk() {
        expect_error(created, &[Code::FailedPrecondition], &["etc"])?;
    }
    assert_eq!(
        fs::read_dir(host.path())?.count(),
        0,
        "a file was made on the host through the image's symlink"
    );
    pod.delete().await
}

fn busybox_without_etc() -> Result<Layer> {
    let program = fs::read("/bin/busybox")?;
    let links = ["sh", "true", "cat", "ls"];
    let layer = Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, &program);
    Ok(links.iter().fold(layer, |layer, name| {
        layer.symlink(&format!("bin/{name}"), "busybox")
    }))
}

#[tokio::test]
async fn cve_2024_21626_no_descriptor_leaks_and_no_working_directory_through_one() -> Result<()> {
    let pod = Pod::on_host("descriptors").await?;
    let (_, output) = pod.once(container("fds", "ls /proc/self/fd")).await?;
    let beyond: Vec<_> = output
        .iter()
        .filter(|fd| !["0", "1", "2", "3"].contains(&fd.as_str()))
        .collect();
    assert!(beyond.is_empty(), "3 is ls's own directory: {output:?}");
    for fd in 3..12 {
        let mut config = container(
            &format!("cwd-{fd}"),
            "pwd; ls ../../../../etc/debian_version",
        );
        config.working_dir = format!("/proc/self/fd/{fd}");
        if pod.node.is_husk() {
            let created = pod.client.create(&pod.id, &pod.config, config).await;
            expect_error(created, &[Code::InvalidArgument], &["working_dir"])?;
        } else if let Ok((status, output)) = pod.once(config).await {
            assert_ne!(status.exit_code, 0, "the host's files are seen: {output:?}");
        }
    }
    let id = pod.launch(container("exec", "exec sleep 600")).await?;
    let inside = pod.client.shell(&id, "ls /proc/self/fd").await?;
    assert!(
        inside.lines().all(|fd| ["0", "1", "2", "3"].contains(&fd)),
        "{inside}"
    );
    pod.delete().await
}

/// What Husk says to each layer; what it takes is confined to the root file system.
const REFUSALS: [Option<&str>; 7] = [
    Some("its path has \"..\""),
    None,
    Some("a parent is no directory"),
    None,
    Some("its link target has \"..\""),
    Some("a parent is no directory"),
    None,
];

#[tokio::test]
async fn hostile_layers_write_nothing_outside_the_rootfs() -> Result<()> {
    let node = Node::shared().await?;
    let victim = tempfile::tempdir()?;
    let outside = victim.path().display().to_string();
    fs::write(victim.path().join("file"), "untouched")?;
    fs::set_permissions(
        victim.path().join("file"),
        fs::Permissions::from_mode(0o600),
    )?;
    let dots = "../".repeat(8);
    let layers = [
        Layer::new().file(&format!("{dots}{outside}/dotted"), 0o644, b"x"),
        Layer::new().file(&format!("{outside}/absolute"), 0o644, b"x"),
        Layer::new()
            .symlink("door", &outside)
            .file("door/through", 0o644, b"x"),
        Layer::new()
            .symlink("file-door", &format!("{outside}/file"))
            .file("file-door", 0o777, b"overwritten"),
        Layer::new().hard_link("stolen", &format!("{dots}{outside}/file")),
        Layer::new()
            .symlink("door", &outside)
            .file("door/.wh.file", 0o644, b""),
        Layer::new().symlink("door", &outside).entry(Entry {
            path: "door/.",
            kind: EntryType::Directory,
            mode: 0o777,
            target: "",
            content: &[],
        }),
    ];
    for (number, (layer, refusal)) in layers.into_iter().zip(REFUSALS).enumerate() {
        let name = format!("husk.test/hostile:{number}");
        let imported = node.import(&Image::busybox(&name)?.layer(layer));
        if node.is_husk() {
            let said = imported.err().map(|error| format!("{error:#}"));
            let fits = match refusal {
                Some(refusal) => said.as_ref().is_some_and(|it| it.contains(refusal)),
                None => said.is_none(),
            };
            assert!(fits, "layer {number}: {said:?} is not {refusal:?}");
        }
        let file = victim.path().join("file");
        assert_eq!(
            fs::read_dir(victim.path())?.count(),
            1,
            "layer {number} wrote outside"
        );
        assert_eq!(fs::read_to_string(&file)?, "untouched", "layer {number}");
        assert_eq!(
            file.metadata()?.permissions().mode() & 0o777,
            0o600,
            "layer {number}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn cve_2025_0750_log_paths_with_dots_write_nothing_outside() -> Result<()> {
    let pod = Pod::on_host("log-path").await?;
    let mut config = container("main", "echo escaped");
    config.log_path = "../../escaped.log".to_owned();
    let created = pod.client.create(&pod.id, &pod.config, config).await;
    let outside = Path::new(&pod.config.log_directory).join("../../escaped.log");
    expect_error(created, &[Code::InvalidArgument], &["log_path"])?;
    assert!(!outside.exists());
    pod.delete().await
}

#[tokio::test]
async fn cve_2024_25621_state_is_0700_and_sockets_0600() -> Result<()> {
    let pod = Pod::on_host("modes").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    let place = pod.node.directory();
    let mode = |path: &Path| anyhow::Ok(path.metadata()?.permissions().mode() & 0o777);
    // The root of a user namespace goes through `run` to its own root file system, and to nothing else.
    for open in ["run", "run/images", "run/images/mapped"] {
        assert_eq!(mode(&place.join(open))?, 0o711, "{open}");
    }
    for closed in ["root", "run/pods", "run/images/rootfs", "run/images/views"] {
        assert_eq!(mode(&place.join(closed))?, 0o700, "{closed}");
    }
    for entry in fs::read_dir(place.join("run"))?.flatten() {
        let open = entry.file_type()?.is_dir() && entry.file_name() != "images";
        assert!(!open || mode(&entry.path())? & 0o077 == 0, "{entry:?}");
    }
    assert_eq!(
        pod.node.socket().metadata()?.permissions().mode() & 0o177,
        0
    );
    sockets_are_private(&place.join("run"))?;
    pod.delete().await
}

fn sockets_are_private(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sockets_are_private(&entry.path())?;
        } else if std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            assert_eq!(mode & 0o177, 0, "{} is {mode:o}", entry.path().display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn cve_2020_15257_there_is_no_abstract_socket() -> Result<()> {
    let pod = Pod::on_host("abstract").await?;
    let (_, output) = pod.once(container("main", "cat /proc/net/unix")).await?;
    let abstract_ones: Vec<_> = output.iter().filter(|line| line.contains(" @")).collect();
    assert!(abstract_ones.is_empty(), "{abstract_ones:?}");
    pod.delete().await
}

#[tokio::test]
async fn cve_2026_47262_a_huge_passwd_file_does_not_fill_the_daemons_memory() -> Result<()> {
    let pod = Pod::on_host("huge-passwd").await?;
    let Some(daemon) = pod
        .node
        .daemon()
        .and_then(husk_tests::process::Process::find)
    else {
        return pod.delete().await;
    };
    let huge = vec![b'x'; 16 << 20];
    pod.node.import(
        &Image::busybox("husk.test/huge:1")?.layer(Layer::new().file("etc/passwd", 0o644, &huge)),
    )?;
    let before = daemon.private_memory()?;
    let mut config = bare_container("main", "husk.test/huge:1");
    config.command = vec!["/bin/true".to_owned()];
    "alice".clone_into(&mut security(&mut config).run_as_username);
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(refused, &[Code::InvalidArgument], &["etc/passwd", "10 MiB"])?;
    assert!(
        daemon.private_memory()? < before + (8 << 10),
        "the whole file was read"
    );
    pod.delete().await
}

#[tokio::test]
async fn cve_2026_53488_image_labels_do_not_reach_annotations() -> Result<()> {
    let pod = Pod::on_host("labels").await?;
    let labels = json!({"io.kubernetes.cri.sandbox-id": "x", "org.systemd.property.X": "y"});
    pod.node
        .import(&Image::busybox("husk.test/labels:1")?.with("Labels", labels))?;
    let mut config = container("main", "exec sleep 600");
    config.image = Some(image_spec("husk.test/labels:1"));
    let id = pod.launch(config).await?;
    let status = pod.client.container_status(&id).await?;
    assert!(
        status.annotations.is_empty() && status.labels.is_empty(),
        "{status:?}"
    );
    assert!(pod.client.image(BUSYBOX).await?.is_some());
    pod.delete().await
}

/// Tries without end to write to whatever runs, as far as it can be seen.
const OVERWRITE: &str = "echo ready; while :; do for exe in /proc/[0-9]*/exe; do \
                         (echo overwritten >> $exe) 2>/dev/null && echo \"wrote $exe\"; done; done";

#[tokio::test]
async fn cve_2019_5736_no_program_of_the_host_is_overwritten_from_a_container() -> Result<()> {
    if settings::skips("it looks at Husk's own programs") {
        return Ok(());
    }
    // A copy, so that an attack that works costs nobody a program.
    let directory = tempfile::tempdir()?;
    let runtime = directory.path().join("crun");
    fs::copy("/usr/bin/crun", &runtime)?;
    let options = NodeOptions {
        configuration: format!(
            "[runtime]\ndefault = \"copy\"\n[runtime.handlers.copy]\npath = \"{}\"\nkind = \"crun\"\n",
            runtime.display()
        ),
        ..NodeOptions::default()
    };
    let node = std::sync::Arc::new(Node::start(options).await?);
    let mut config = node.host_pod("overwrite");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    namespaces(&mut config).pid = cri::NamespaceMode::Node.into();
    let pod = Pod::run(node, config).await?;
    let monitor = format!("/proc/{}/exe", monitor(&pod.id).context("no monitor")?.pid);
    let programs = [runtime.as_path(), Path::new(&monitor)];
    let before = programs.map(fs::read);
    // One sees the commands that are run in it; the other has every right and sees the whole host. For that one the
    // OCI runtime's file is like any other, so it tries the monitor's alone.
    let inside = pod.launch(container("inside", OVERWRITE)).await?;
    let script = format!("echo overwritten >> {monitor} && echo \"wrote {monitor}\"; exit 0");
    let mut all = container("all", &script);
    let security = security(&mut all);
    security.privileged = true;
    security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Node.into();
    let (_, output) = pod.once(all).await?;
    assert!(
        !output.iter().any(|line| line.contains("wrote")),
        "{output:?}"
    );
    logs::wait_for_line(&pod.log("inside"), "ready", DEADLINE).await?;
    for _ in 0..20 {
        // The OCI runtime is made to execute itself inside.
        let _either = pod
            .client
            .exec(&inside, &["/proc/self/exe", "--version"], 20)
            .await;
        pod.client.shell(&inside, "true").await?;
    }
    let output = logs::text(&logs::read(&pod.log("inside"))?, "stdout");
    assert_eq!(output, ["ready"]);
    for (program, before) in programs.into_iter().zip(before) {
        assert!(
            fs::read(program)? == before?,
            "{} was written to",
            program.display()
        );
    }
    pod.delete().await
}
