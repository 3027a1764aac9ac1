//! Containers: every field of a configuration is seen from inside.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use husk_tests::client::expect_error;
use husk_tests::config::{bare_container, resources, words};
use husk_tests::cri::{self, MountPropagation};
use husk_tests::{Image, Pod, cgroup, container};
use serde_json::json;
use tonic::Code;

fn bind(host: &std::path::Path, inside: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.display().to_string(),
        container_path: inside.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn entrypoint_cmd_command_and_args_combine_as_in_kubernetes() -> Result<()> {
    let pod = Pod::on_host("commands").await?;
    let image = Image::busybox("husk.test/entry:1")?;
    let image = image
        .with("Entrypoint", json!(["/bin/echo", "entry"]))
        .with("Cmd", json!(["cmd"]));
    pod.node.import(&image)?;
    let cases: [(&[&str], &[&str], &str); 4] = [
        (&[], &[], "entry cmd"),
        (&[], &["args"], "entry args"),
        (&["/bin/echo", "command"], &[], "command"),
        (&["/bin/echo", "command"], &["args"], "command args"),
    ];
    for (number, (command, args, expected)) in cases.into_iter().enumerate() {
        let mut config = bare_container(&format!("case-{number}"), "husk.test/entry:1");
        config.command = words(command);
        config.args = words(args);
        let (status, output) = pod.once(config).await?;
        assert_eq!(
            (status.exit_code, output),
            (0, vec![expected.to_owned()]),
            "{command:?} {args:?}"
        );
    }
    pod.delete().await
}

#[tokio::test]
async fn env_and_working_directory_of_image_and_configuration() -> Result<()> {
    let pod = Pod::on_host("env").await?;
    let image = Image::busybox("husk.test/env:1")?;
    let image = image
        .with("Env", json!(["PATH=/bin", "A=image", "B=image"]))
        .with("WorkingDir", json!("/image/dir"));
    pod.node.import(&image)?;
    let mut config = container("main", "echo $A $B $C; pwd; env | grep -c ^A=");
    config.image = Some(husk_tests::config::image_spec("husk.test/env:1"));
    let pair = |key: &str, value: &str| cri::KeyValue {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
    };
    config.envs = vec![pair("A", "mine"), pair("C", "x=y z")];
    let (_, output) = pod.once(config.clone()).await?;
    assert_eq!(output, ["mine image x=y z", "/image/dir", "1"]);
    config.working_dir = "/made/on/demand".to_owned();
    "elsewhere.log".clone_into(&mut config.log_path);
    config.metadata.get_or_insert_default().attempt = 1;
    assert_eq!(pod.once(config).await?.1[1], "/made/on/demand");
    pod.delete().await
}

#[tokio::test]
async fn bind_mounts_read_write_read_only_and_files() -> Result<()> {
    let pod = Pod::on_host("mounts").await?;
    let host = tempfile::tempdir()?;
    fs::write(host.path().join("file"), "from the host\n")?;
    let mut config = container("main", "sleep 600");
    let read_only = cri::Mount {
        readonly: true,
        ..bind(host.path(), "/ro")
    };
    config.mounts = vec![
        bind(host.path(), "/rw"),
        read_only,
        bind(&host.path().join("file"), "/etc/one-file"),
        bind(&host.path().join("made/by/runtime"), "/made"),
    ];
    let id = pod.launch(config).await?;
    assert_eq!(
        pod.client
            .shell(&id, "cat /rw/file /ro/file /etc/one-file | uniq")
            .await?,
        "from the host"
    );
    pod.client.shell(&id, "echo from inside > /rw/new").await?;
    assert_eq!(
        fs::read_to_string(host.path().join("new"))?,
        "from inside\n"
    );
    let refused = pod
        .client
        .shell(&id, "touch /ro/new 2>&1 || echo refused")
        .await?;
    assert!(
        refused.contains("Read-only") && refused.ends_with("refused"),
        "{refused}"
    );
    let status = pod.client.container_status(&id).await?;
    let mut reported: Vec<_> = status
        .mounts
        .iter()
        .map(|it| (it.container_path.as_str(), it.readonly))
        .collect();
    reported.sort_unstable();
    for wanted in [("/made", false), ("/ro", true), ("/rw", false)] {
        assert!(reported.contains(&wanted), "{reported:?}");
    }
    pod.delete().await
}

#[tokio::test]
async fn recursive_read_only_needs_readonly_and_private_propagation() -> Result<()> {
    let pod = Pod::on_host("rro").await?;
    let host = tempfile::tempdir()?;
    let mount = cri::Mount {
        recursive_read_only: true,
        ..bind(host.path(), "/rro")
    };
    let cases = [
        cri::Mount {
            readonly: false,
            ..mount.clone()
        },
        cri::Mount {
            readonly: true,
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..mount.clone()
        },
    ];
    for (number, bad) in cases.into_iter().enumerate() {
        let mut config = container(&format!("bad-{number}"), "true");
        config.mounts = vec![bad];
        let refused = pod.client.create(&pod.id, &pod.config, config).await;
        expect_error(refused, &[Code::InvalidArgument], &["recursive_read_only"])?;
    }
    pod.delete().await
}

#[tokio::test]
async fn a_device_is_there_with_the_permissions_asked_and_no_others() -> Result<()> {
    let pod = Pod::on_host("devices").await?;
    let script = "stat -c '%t:%T' /dev/asked; (: < /dev/asked) && echo reads; \
                  (: > /dev/asked) && echo writes || echo refused";
    for (permissions, writes) in [("rw", "writes"), ("r", "refused")] {
        let mut config = container(permissions, script);
        // One that no OCI runtime allows by itself, and that does nothing when it is opened.
        config.devices = vec![cri::Device {
            host_path: "/dev/fuse".to_owned(),
            container_path: "/dev/asked".to_owned(),
            permissions: permissions.to_owned(),
        }];
        let (_, seen) = pod.once(config).await?;
        assert_eq!(seen, ["a:e5", "reads", writes], "{permissions}");
    }
    pod.delete().await
}

#[tokio::test]
async fn limits_reach_the_cgroup_and_an_update_is_reported_back() -> Result<()> {
    let pod = Pod::on_host("resources").await?;
    let mut config = container("main", "sleep 600");
    let limits = resources(&mut config);
    limits.memory_limit_in_bytes = 64 << 20;
    limits.cpu_shares = 512;
    limits.cpu_quota = 50_000;
    limits.cpu_period = 100_000;
    let id = pod.launch(config).await?;
    assert_eq!(memory_limit(&id)?, (64 << 20).to_string());
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    pod.client
        .runtime
        .clone()
        .update_container_resources(update)
        .await?;
    assert_eq!(memory_limit(&id)?, (96 << 20).to_string());
    let status = pod.client.container_status(&id).await?;
    let reported = status.resources.and_then(|it| it.linux).unwrap_or_default();
    assert_eq!(
        (reported.memory_limit_in_bytes, reported.cpu_shares),
        (96 << 20, 512)
    );
    pod.delete().await
}

fn memory_limit(id: &str) -> Result<String> {
    cgroup::of_container(id, &["memory.limit_in_bytes", "memory.max"])
}

#[tokio::test]
async fn a_termination_message_file_is_written_through_its_mount() -> Result<()> {
    let pod = Pod::on_host("termination").await?;
    let host = tempfile::NamedTempFile::new()?;
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o666))?;
    let mut config = container("main", "echo farewell > /dev/termination-log");
    config.mounts = vec![bind(host.path(), "/dev/termination-log")];
    assert_eq!(pod.once(config).await?.0.exit_code, 0);
    assert_eq!(fs::read_to_string(host.path())?, "farewell\n");
    pod.delete().await
}
