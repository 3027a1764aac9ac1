//! Containers: every field of a container's configuration is seen from inside, and every exit from outside.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use husk_tests::client::expect_error;
use husk_tests::config::{bare_container, resources, security, words};
use husk_tests::cri::{self, ContainerState, MountPropagation, NamespaceMode};
use husk_tests::wait::DEADLINE;
use husk_tests::{Image, Pod, container, logs, wait_for};
use serde_json::json;
use tonic::Code;

fn int(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

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
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
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
        expect_error(refused, &[Code::InvalidArgument], &["/rro"])?;
    }
    pod.delete().await
}

#[tokio::test]
async fn a_device_is_there_with_the_permissions_asked() -> Result<()> {
    let pod = Pod::on_host("devices").await?;
    let mut config = container("main", "sleep 600");
    config.devices = vec![cri::Device {
        host_path: "/dev/null".to_owned(),
        container_path: "/dev/husk-null".to_owned(),
        permissions: "rw".to_owned(),
    }];
    let id = pod.launch(config).await?;
    assert_eq!(
        pod.client
            .shell(
                &id,
                "echo x > /dev/husk-null; stat -c '%t:%T' /dev/husk-null"
            )
            .await?,
        "1:3"
    );
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
    if pod.node.is_husk() {
        let status = pod.client.container_status(&id).await?;
        let reported = status.resources.and_then(|it| it.linux).unwrap_or_default();
        assert_eq!(
            (reported.memory_limit_in_bytes, reported.cpu_shares),
            (96 << 20, 512)
        );
    }
    pod.delete().await
}

/// The memory limit of the cgroup whose path carries the container's id.
fn memory_limit(id: &str) -> Result<String> {
    for root in husk_tests::cgroup::roots() {
        for path in husk_tests::cgroup::tree(&root)
            .iter()
            .filter(|path| path.to_string_lossy().contains(id))
        {
            for name in ["memory.limit_in_bytes", "memory.max"] {
                if let Ok(limit) = fs::read_to_string(path.join(name)) {
                    return Ok(limit.trim().to_owned());
                }
            }
        }
    }
    anyhow::bail!("no memory cgroup for {id}")
}

#[tokio::test]
async fn users_and_groups_are_the_ones_asked() -> Result<()> {
    let pod = Pod::on_host("users").await?;
    pod.node
        .import(&Image::busybox("husk.test/alice:1")?.with("User", json!("alice")))?;
    let run = async |name: &str,
                     image: &str,
                     change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container(name, "id -u; id -g; id -G");
        config.image = Some(husk_tests::config::image_spec(image));
        change(security(&mut config));
        anyhow::Ok(pod.once(config).await?.1)
    };
    if pod.node.is_husk() {
        let user = run("image-user", "husk.test/alice:1", &|_| ()).await?;
        assert_eq!(user, ["1000", "1001", "1001 2001"]);
    }
    assert_eq!(
        run("uid", husk_tests::BUSYBOX, &|it| it.run_as_user = int(1000)).await?[..2],
        ["1000", "1001"]
    );
    let both = |it: &mut cri::LinuxContainerSecurityContext| {
        it.run_as_user = int(4321);
        it.run_as_group = int(1234);
        it.supplemental_groups = vec![77, 88];
    };
    assert_eq!(
        run("numbers", husk_tests::BUSYBOX, &both).await?,
        ["4321", "1234", "1234 77 88"]
    );
    let named =
        |it: &mut cri::LinuxContainerSecurityContext| "alice".clone_into(&mut it.run_as_username);
    assert_eq!(
        run("named", husk_tests::BUSYBOX, &named).await?,
        ["1000", "1001", "1001 2001"]
    );
    if pod.node.is_husk() {
        let strict = |it: &mut cri::LinuxContainerSecurityContext| {
            it.run_as_user = int(1000);
            it.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
        };
        assert_eq!(
            run("strict", husk_tests::BUSYBOX, &strict).await?,
            ["1000", "1001", "1001"]
        );
        let mut config = container("group-alone", "true");
        security(&mut config).run_as_group = int(5);
        let refused = pod.client.create(&pod.id, &pod.config, config).await;
        expect_error(refused, &[Code::InvalidArgument], &["run_as_group"])?;
    }
    pod.delete().await
}

#[tokio::test]
async fn capabilities_no_new_privs_and_seccomp_show_in_proc() -> Result<()> {
    let pod = Pod::on_host("privileges").await?;
    let script =
        "grep -E '^(Cap(Inh|Eff)|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' ' ,'";
    let run = async |name: &str, change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container(name, script);
        change(security(&mut config));
        anyhow::Ok(pod.once(config).await?.1.join(""))
    };
    let profile = |kind: cri::security_profile::ProfileType| {
        Some(cri::SecurityProfile {
            profile_type: kind.into(),
            ..Default::default()
        })
    };
    let plain = run("plain", &|it| {
        it.seccomp = profile(cri::security_profile::ProfileType::RuntimeDefault)
    })
    .await?;
    assert!(
        plain.contains("CapInh: 0000000000000000") && plain.contains("Seccomp: 2"),
        "{plain}"
    );
    let unconfined = profile(cri::security_profile::ProfileType::Unconfined);
    let capability = |add: &[&str], drop: &[&str]| {
        Some(cri::Capability {
            add_capabilities: words(add),
            drop_capabilities: words(drop),
            ..Default::default()
        })
    };
    let powerless = |it: &mut cri::LinuxContainerSecurityContext| {
        it.capabilities = capability(&[], &["ALL"]);
        it.no_new_privs = true;
        it.seccomp.clone_from(&unconfined);
    };
    let none = run("none", &powerless).await?;
    assert!(none.contains("CapEff: 0000000000000000"), "{none}");
    assert!(
        none.contains("NoNewPrivs: 1") && none.contains("Seccomp: 0"),
        "{none}"
    );
    let one = run("one", &|it| {
        it.capabilities = capability(&["NET_ADMIN"], &["ALL"])
    })
    .await?;
    assert!(one.contains("CapEff: 0000000000001000"), "{one}");
    pod.delete().await
}

#[tokio::test]
async fn a_seccomp_profile_of_the_host_is_applied() -> Result<()> {
    let pod = Pod::on_host("localhost-profile").await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("no-mkdir.json");
    let names = ["mkdir", "mkdirat"];
    let rules = json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]);
    fs::write(
        &path,
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).to_string(),
    )?;
    let mut config = container("main", "mkdir /tmp/x || echo refused");
    let profile = |reference: &std::path::Path| {
        let kind = cri::security_profile::ProfileType::Localhost.into();
        Some(cri::SecurityProfile {
            profile_type: kind,
            localhost_ref: reference.display().to_string(),
        })
    };
    security(&mut config).seccomp = profile(&path);
    assert_eq!(pod.once(config).await?.1, ["refused"]);
    let mut config = container("missing", "true");
    security(&mut config).seccomp = profile(&directory.path().join("absent.json"));
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    assert!(refused.is_err_and(|it| it.message().contains("absent.json")));
    pod.delete().await
}

#[tokio::test]
async fn a_privileged_container_sees_the_devices_and_an_ordinary_one_does_not() -> Result<()> {
    let node = husk_tests::Node::shared().await?;
    let mut config = node.host_pod("privileged");
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let pod = Pod::run(node, config).await?;
    let script = "mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l";
    let mut privileged = container("privileged", script);
    security(&mut privileged).privileged = true;
    let (_, all) = pod.once(privileged).await?;
    let (_, few) = pod.once(container("ordinary", script)).await?;
    assert_eq!(all[0], "mounted");
    assert_eq!(few.len(), 1, "{few:?}");
    assert!(
        all[1].parse::<u32>()? > few[0].parse::<u32>()?,
        "{all:?} {few:?}"
    );
    pod.delete().await
}

#[tokio::test]
async fn masked_and_read_only_paths_and_a_read_only_root() -> Result<()> {
    let pod = Pod::on_host("paths").await?;
    let script = "cat /proc/version | wc -c; touch /proc/sys/kernel/domainname 2>/dev/null || echo locked; \
                  touch /x 2>/dev/null || echo root locked";
    let mut config = container("main", script);
    let context = security(&mut config);
    context.masked_paths = words(&["/proc/version"]);
    context.readonly_paths = words(&["/proc/sys"]);
    context.readonly_rootfs = true;
    assert_eq!(pod.once(config).await?.1, ["0", "locked", "root locked"]);
    pod.delete().await
}

#[tokio::test]
async fn a_container_in_the_nodes_and_in_a_siblings_pid_namespace() -> Result<()> {
    let pod = Pod::on_host("pid-modes").await?;
    let target = pod.launch(container("target", "exec sleep 31337")).await?;
    let mut config = container("guest", "ps -o args");
    security(&mut config).namespace_options = Some(cri::NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: target,
        ..Default::default()
    });
    let (_, seen) = pod.once(config).await?;
    assert!(
        seen.iter().any(|line| line.contains("sleep 31337")),
        "{seen:?}"
    );
    pod.delete().await
}

#[tokio::test]
async fn a_terminal_is_one_and_its_output_is_logged() -> Result<()> {
    let pod = Pod::on_host("tty").await?;
    let mut config = container(
        "main",
        "tty -s && echo a terminal; tty -s 0<&2 && echo stderr too",
    );
    config.tty = true;
    let (status, output) = pod.once(config).await?;
    assert_eq!(status.exit_code, 0);
    let lines: Vec<_> = output
        .iter()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    assert_eq!(lines, ["a terminal", "stderr too"]);
    let (_, output) = pod
        .once(container("plain", "tty -s || echo no terminal"))
        .await?;
    assert_eq!(output, ["no terminal"]);
    pod.delete().await
}

#[tokio::test]
async fn without_stdin_the_container_reads_the_end_of_file() -> Result<()> {
    let pod = Pod::on_host("stdin").await?;
    let (status, output) = pod.once(container("main", "cat; echo end of file")).await?;
    assert_eq!(
        (status.exit_code, output),
        (0, vec!["end of file".to_owned()])
    );
    let mut open = container("open", "cat; echo never");
    open.stdin = true;
    let id = pod.launch(open).await?;
    pod.client.shell(&id, "test -p /proc/1/fd/0").await?;
    assert_eq!(
        pod.client.container_status(&id).await?.state(),
        ContainerState::ContainerRunning
    );
    pod.delete().await
}

#[tokio::test]
async fn long_lines_whole_lines_and_an_unfinished_last_line_are_logged() -> Result<()> {
    let pod = Pod::on_host("lines").await?;
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo; printf unfinished";
    let (status, output) = pod.once(container("main", script)).await?;
    assert_eq!(status.exit_code, 0);
    assert_eq!(output.len(), 3, "{} lines", output.len());
    assert_eq!(
        (output[0].len(), output[1].as_str(), output[2].as_str()),
        (100_000, "", "unfinished")
    );
    assert!(output[0].bytes().all(|byte| byte == b'x'));
    pod.delete().await
}

#[tokio::test]
async fn every_line_of_a_fast_writer_is_in_the_log_when_the_exit_is_reported() -> Result<()> {
    let pod = Pod::on_host("fast").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await; // containerd reports the exit before the log's tail is on disk
    }
    let (_, output) = pod.once(container("main", "seq 1 50000")).await?;
    assert_eq!(output.len(), 50_000);
    assert!(
        output
            .iter()
            .enumerate()
            .all(|(index, line)| *line == (index + 1).to_string())
    );
    pod.delete().await
}

#[tokio::test]
async fn a_reopened_log_is_a_new_file_and_no_line_is_lost() -> Result<()> {
    let pod = Pod::on_host("rotate").await?;
    let id = pod
        .launch(container(
            "main",
            "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done",
        ))
        .await?;
    let (log, old) = (pod.log("main"), pod.log("main").with_extension("1"));
    logs::wait_for_line(&log, "5", DEADLINE).await?;
    fs::rename(&log, &old)?;
    let request = cri::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    pod.client
        .runtime
        .clone()
        .reopen_container_log(request)
        .await?;
    wait_for("lines in the new file", DEADLINE, async || {
        logs::read(&log).ok().filter(|it| it.len() > 5)
    })
    .await?;
    pod.client.stop(&id, 0).await?;
    let mut lines = logs::text(&logs::read(&old)?, "stdout");
    lines.extend(logs::text(&logs::read(&log)?, "stdout"));
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(index, line)| *line == (index + 1).to_string()),
        "{lines:?}"
    );

    fs::remove_file(&log)?;
    let request = cri::ReopenContainerLogRequest { container_id: id };
    assert!(
        pod.client
            .runtime
            .clone()
            .reopen_container_log(request)
            .await
            .is_err(),
        "it does not run any more"
    );
    assert!(!log.exists(), "a failed reopen made a file");
    pod.delete().await
}

#[tokio::test]
async fn exit_codes_reasons_and_times_are_reported() -> Result<()> {
    let pod = Pod::on_host("exits").await?;
    let cases = [
        ("ok", "exit 0", 0, "Completed"),
        ("error", "exit 42", 42, "Error"),
    ];
    for (name, script, code, reason) in cases {
        let (status, _) = pod.once(container(name, script)).await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (code, reason),
            "{name}"
        );
        assert!(
            !pod.node.is_husk()
                || (status.finished_at >= status.started_at && status.started_at > 0),
            "{status:?}"
        );
    }
    pod.delete().await
}

#[tokio::test]
async fn only_the_container_that_ran_out_of_memory_is_oomkilled() -> Result<()> {
    let pod = Pod::on_host("oom").await?;
    let sibling = pod.launch(container("sibling", "exec sleep 600")).await?;
    let mut config = container("greedy", "tail /dev/zero");
    let limits = resources(&mut config);
    limits.memory_limit_in_bytes = 16 << 20;
    limits.memory_swap_limit_in_bytes = 16 << 20;
    let id = pod.launch(config).await?;
    let status = pod.client.wait_exit(&id).await?;
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    pod.client.stop(&sibling, 0).await?;
    let status = pod.client.container_status(&sibling).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    pod.delete().await
}

#[tokio::test]
async fn stop_sends_the_images_signal_then_kills_after_the_grace_period() -> Result<()> {
    let pod = Pod::on_host("stopping").await?;
    pod.node
        .import(&Image::busybox("husk.test/usr1:1")?.with("StopSignal", json!("SIGUSR1")))?;
    let mut config = container(
        "signal",
        "trap 'exit 5' USR1; trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done",
    );
    config.image = Some(husk_tests::config::image_spec("husk.test/usr1:1"));
    let id = pod.launch(config.clone()).await?;
    logs::wait_for_line(&pod.log("signal"), "ready", DEADLINE).await?;
    pod.client.stop(&id, 10).await?;
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 5);

    let id = pod
        .launch(container(
            "stubborn",
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        ))
        .await?;
    logs::wait_for_line(&pod.log("stubborn"), "ready", DEADLINE).await?;
    let begin = std::time::Instant::now();
    pod.client.stop(&id, 1).await?;
    assert!(
        begin.elapsed().as_secs_f32() >= 0.9,
        "killed before its grace period"
    );
    assert_eq!(pod.client.container_status(&id).await?.exit_code, 137);
    pod.client.stop(&id, 1).await?;

    if pod.node.is_husk() {
        config.metadata.get_or_insert_default().name = "configured".to_owned();
        "configured.log".clone_into(&mut config.log_path);
        config.set_stop_signal(cri::Signal::Sigterm);
        let id = pod.launch(config).await?;
        logs::wait_for_line(&pod.log("configured"), "ready", DEADLINE).await?;
        assert_eq!(
            pod.client.container_status(&id).await?.stop_signal(),
            cri::Signal::Sigterm
        );
        pod.client.stop(&id, 10).await?;
        assert_eq!(pod.client.container_status(&id).await?.exit_code, 6);
    }
    pod.delete().await
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

#[tokio::test]
async fn exec_reports_output_codes_and_kills_the_whole_tree_on_timeout() -> Result<()> {
    let pod = Pod::on_host("exec").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    if pod.node.is_husk() {
        // containerd 1.6 waits for the grandchild that holds the pipe
        let killed = pod
            .client
            .exec(&id, &["/bin/sh", "-c", "sleep 777 & sleep 778"], 1)
            .await;
        expect_error(killed, &[Code::DeadlineExceeded], &[])?;
        let gone = "for n in $(seq 100); do ps -o args | grep -v grep | grep -q 'sleep 77' || exit 0; sleep 0.05; done; exit 1";
        pod.client.shell(&id, gone).await?;
    }
    let missing = pod.client.exec(&id, &["/no/such/program"], 5).await;
    let said = match missing {
        Ok(answer) => format!(
            "{} {}",
            answer.exit_code,
            String::from_utf8_lossy(&answer.stderr)
        ),
        Err(status) => status.message().to_owned(),
    };
    assert!(said.contains("/no/such/program"), "{said}");
    pod.client.stop(&id, 0).await?;
    assert!(
        pod.client.exec(&id, &["/bin/true"], 5).await.is_err(),
        "exec in a container that has exited"
    );
    pod.delete().await
}

#[tokio::test]
async fn exec_output_is_capped_at_16_mib_and_the_command_goes_on() -> Result<()> {
    let pod = Pod::on_host("cap").await?;
    if pod.node.skips("only Husk promises this") {
        return pod.delete().await;
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let answer = pod
        .client
        .exec(
            &id,
            &["/bin/sh", "-c", "head -c 20000000 /dev/zero; exit 9"],
            60,
        )
        .await?;
    assert_eq!((answer.stdout.len(), answer.exit_code), (16 << 20, 9));
    pod.delete().await
}

#[tokio::test]
async fn a_container_can_be_listed_by_state_pod_label_and_prefix() -> Result<()> {
    let pod = Pod::on_host("filters").await?;
    let mut config = container("main", "exec sleep 600");
    config.labels.insert("role".to_owned(), "main".to_owned());
    let id = pod.launch(config).await?;
    let other = pod.create(container("other", "true")).await?;
    let filter = |change: &dyn Fn(&mut cri::ContainerFilter)| {
        let mut filter = cri::ContainerFilter {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        change(&mut filter);
        Some(filter)
    };
    let state = |state: ContainerState| {
        Some(cri::ContainerStateValue {
            state: state.into(),
        })
    };
    let ids = async |filter| {
        let mut ids: Vec<_> = pod
            .client
            .containers(filter)
            .await?
            .into_iter()
            .map(|it| it.id)
            .collect();
        ids.sort();
        anyhow::Ok(ids)
    };
    let mut both = vec![id.clone(), other.clone()];
    both.sort();
    assert_eq!(ids(filter(&|_| ())).await?, both);
    assert_eq!(
        ids(filter(
            &|it| it.state = state(ContainerState::ContainerRunning)
        ))
        .await?,
        [id.as_str()]
    );
    assert_eq!(
        ids(filter(
            &|it| it.state = state(ContainerState::ContainerCreated)
        ))
        .await?,
        [other.as_str()]
    );
    assert_eq!(
        ids(filter(&|it| it.id = id[..10].to_owned())).await?,
        [id.as_str()]
    );
    let label = ("role".to_owned(), "main".to_owned());
    assert_eq!(
        ids(filter(&|it| it.label_selector.extend([label.clone()]))).await?,
        [id.as_str()]
    );
    pod.delete().await
}
