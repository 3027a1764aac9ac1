//! Bad input: each refusal has a code that fits and a message with the object and the cause, and leaves nothing.

use std::fs;
use std::path::Path;

use anyhow::Result;
use husk_tests::client::{codes, expect_error};
use husk_tests::config::{bare_container, image_spec, security, words};
use husk_tests::wait::DEADLINE;
use husk_tests::{Image, Node, NodeOptions, Pod, container, cri, settings, wait_for};
use serde_json::json;
use tonic::Code;

const ABSENT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn ids_that_do_not_exist_are_not_found() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let named: &[&str] = if node.is_husk() { &[ABSENT] } else { &[] };
    expect_error(client.pod_status(ABSENT).await, &[Code::NotFound], named)?;
    expect_error(
        client.container_status(ABSENT).await,
        &[Code::NotFound],
        named,
    )?;
    expect_error(client.start(ABSENT).await, &[Code::NotFound], named)?;
    expect_error(
        client.exec(ABSENT, &["true"], 1).await,
        &[Code::NotFound],
        named,
    )?;
    let config = node.host_pod("absent");
    expect_error(
        client
            .create(ABSENT, &config, container("main", "true"))
            .await,
        &[Code::NotFound],
        named,
    )?;
    Ok(())
}

#[tokio::test]
async fn an_ambiguous_id_is_refused_and_an_unambiguous_prefix_is_taken() -> Result<()> {
    let pod = Pod::on_host("ambiguous").await?;
    // Seventeen containers: two of them begin with the same hexadecimal digit.
    let mut ids = Vec::new();
    for number in 0..17 {
        ids.push(pod.create(container(&format!("c{number}"), "true")).await?);
    }
    ids.sort();
    let pair = ids.windows(2).find(|pair| pair[0][..1] == pair[1][..1]);
    let digit = &pair.map_or("", |pair| pair[0].as_str())[..1];
    let answer = pod.client.container_status(digit).await;
    expect_error(answer, &[Code::InvalidArgument], &["ambiguous", digit])?;
    assert_eq!(pod.client.container_status(&ids[0][..32]).await?.id, ids[0]);
    pod.delete().await
}

#[tokio::test]
async fn pods_without_what_every_pod_needs_are_refused_by_name() -> Result<()> {
    let node = Node::start(NodeOptions::default()).await?;
    let client = node.client().await?;
    let before = node.settled().await?;
    type Change = fn(&mut cri::PodSandboxConfig);
    let cases: [(Change, &str); 5] = [
        (|it| it.metadata = None, "metadata"),
        (
            |it| it.metadata.get_or_insert_default().name.clear(),
            "name",
        ),
        (|it| it.metadata.get_or_insert_default().uid.clear(), "uid"),
        (
            |it| "relative".clone_into(&mut it.log_directory),
            "log_directory",
        ),
        (
            |it| "/x/../../etc".clone_into(&mut it.log_directory),
            "log_directory",
        ),
    ];
    for (change, named) in cases {
        let mut config = node.host_pod("incomplete");
        change(&mut config);
        expect_error(
            client.run_pod(&config).await,
            &[Code::InvalidArgument],
            &[named],
        )?;
    }
    let handler = client
        .run_pod_with(&node.host_pod("handled"), "no-such-handler")
        .await;
    expect_error(handler, &[Code::InvalidArgument], &["no-such-handler"])?;
    node.assert_settles(&before).await
}

#[tokio::test]
async fn containers_that_cannot_be_are_refused_when_created_and_leave_nothing() -> Result<()> {
    let pod = Pod::alone("refusing").await?;
    pod.client
        .remove(&pod.create(container("first", "true")).await?)
        .await?;
    let before = pod.node.snapshot();
    type Change = fn(&mut cri::ContainerConfig);
    let cases: [(Change, Code, &str); 8] = [
        (|it| it.metadata = None, Code::InvalidArgument, "metadata"),
        (|it| it.image = None, Code::InvalidArgument, "image"),
        (
            |it| it.image = Some(image_spec("husk.test/absent:1")),
            Code::NotFound,
            "husk.test/absent:1",
        ),
        (
            |it| "../../escape.log".clone_into(&mut it.log_path),
            Code::InvalidArgument,
            "log_path",
        ),
        (
            |it| it.mounts = vec![mount("", "/x")],
            Code::InvalidArgument,
            "host_path",
        ),
        (
            |it| it.mounts = vec![mount("/tmp", "")],
            Code::InvalidArgument,
            "container_path",
        ),
        (
            |it| "nobody-at-all".clone_into(&mut security(it).run_as_username),
            Code::InvalidArgument,
            "nobody-at-all",
        ),
        (
            |it| security(it).run_as_user = Some(cri::Int64Value { value: 1 << 31 }),
            Code::InvalidArgument,
            "2147483648",
        ),
    ];
    for (change, code, named) in cases {
        let mut config = container("bad", "true");
        change(&mut config);
        let refused = pod.client.create(&pod.id, &pod.config, config).await;
        expect_error(refused, &[code], &[named])?;
    }
    pod.node.assert_settles(&before).await?;
    pod.delete().await
}

fn mount(host: &str, inside: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.to_owned(),
        container_path: inside.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_command_that_is_not_in_the_image_is_named_and_the_container_can_be_removed() -> Result<()>
{
    let pod = Pod::on_host("no-command").await?;
    let mut config = bare_container("main", husk_tests::BUSYBOX);
    config.command = words(&["/no/such/command"]);
    let codes: &[Code] = if pod.node.is_husk() {
        &[Code::FailedPrecondition]
    } else {
        &[
            Code::InvalidArgument,
            Code::NotFound,
            Code::Unknown,
            Code::FailedPrecondition,
        ]
    };
    let id = match pod.client.create(&pod.id, &pod.config, config).await {
        Ok(id) => id,
        Err(refused) => {
            expect_error::<()>(Err(refused), codes, &["/no/such/command"])?;
            return pod.delete().await;
        }
    };
    let failed = pod.client.start(&id).await;
    expect_error(failed, codes, &["/no/such/command"])?;
    let status = pod.client.container_status(&id).await?;
    assert_eq!(
        status.state(),
        cri::ContainerState::ContainerExited,
        "{status:?}"
    );
    assert_ne!(status.exit_code, 0);
    pod.client.remove(&id).await?;
    pod.delete().await
}

#[tokio::test]
async fn an_image_without_any_command_is_refused() -> Result<()> {
    let pod = Pod::on_host("nothing-to-run").await?;
    pod.node
        .import(&Image::empty("husk.test/nothing:1").layer(husk_tests::Layer::busybox()?))?;
    let refused = pod
        .client
        .create(
            &pod.id,
            &pod.config,
            bare_container("main", "husk.test/nothing:1"),
        )
        .await;
    let codes = codes(
        Code::InvalidArgument,
        &[Code::FailedPrecondition, Code::Unknown],
    );
    expect_error(refused, &codes, &["command"])?;
    pod.delete().await
}

const REFUSING: &str = "echo 'this bundle is not to my taste' >&2; exit 1";
const HANGING: &str = "exec sleep 4711";
/// Does what it is asked for, but that it does not come back from starting a container.
const STALLING: &str =
    r#"for word; do [ "$word" != start ] || exec sleep 4712; done; exec crun "$@""#;

/// A node with the handlers of this test; each is a script that stands for a runtime with a fault.
async fn faulty_node(directory: &Path, handlers: &[(&str, &str)]) -> Result<Option<Node>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    let mut configuration = "[runtime]\nstart_timeout = \"2s\"\n".to_owned();
    for (name, script) in handlers {
        let path = directory.join(name);
        if !script.is_empty() {
            fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        configuration.push_str(&format!(
            "[runtime.handlers.{name}]\npath = \"{}\"\n",
            path.display()
        ));
    }
    Ok(Some(
        Node::start(NodeOptions {
            configuration,
            ..Default::default()
        })
        .await?,
    ))
}

#[tokio::test]
async fn a_runtime_that_refuses_hangs_or_is_absent_is_named_and_cleaned_up_after() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let handlers = [("refusing", REFUSING), ("hanging", HANGING), ("absent", "")];
    let Some(node) = faulty_node(directory.path(), &handlers).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let before = node.settled().await?;
    for (handler, code, cause) in [
        ("refusing", Code::FailedPrecondition, "not to my taste"),
        ("hanging", Code::DeadlineExceeded, "create took longer"),
        ("absent", Code::FailedPrecondition, "absent"),
    ] {
        let config = node.host_pod(handler);
        let pod = client.run_pod_with(&config, handler).await?;
        let launched = client
            .launch(&pod, &config, container("main", "true"))
            .await;
        expect_error(launched, &[code], &[cause])?;
        client.delete_pod(&pod).await?;
    }
    node.assert_settles(&before).await
}

#[tokio::test]
async fn a_start_that_hangs_is_given_up_and_its_container_is_ended() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(node) = faulty_node(directory.path(), &[("stalling", STALLING)]).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    // What the OCI runtime makes for itself, and leaves.
    fs::create_dir_all(node.directory().join("run/runtime/stalling"))?;
    let before = node.settled().await?;
    let config = node.host_pod("stalling");
    let pod = client.run_pod_with(&config, "stalling").await?;
    let main = container("main", "exec sleep 4713");
    let id = client.create(&pod, &config, main).await?;
    expect_error(
        client.start(&id).await,
        &[Code::DeadlineExceeded],
        &[&id, "start took longer than 2000 ms"],
    )?;
    let left = client.wait_exit(&id).await?;
    assert_eq!((left.exit_code, left.reason.as_str()), (128, "StartError"));
    wait_for("neither it nor its runtime runs", DEADLINE, async || {
        let processes = node.processes();
        let mut words = processes.iter().flat_map(|it| &it.arguments);
        (!words.any(|it| it.starts_with("471"))).then_some(())
    })
    .await?;
    client.remove(&id).await?;
    client.delete_pod(&pod).await?;
    node.assert_settles(&before).await
}

#[tokio::test]
async fn an_absurd_configuration_is_refused_before_anything_starts() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    for (configuration, named) in [
        ("[image]\nparalel_layers = 3\n", "parallel_layers"),
        ("[image]\nparallel_layers = 0\n", "parallel_layers"),
        ("[network\n", "50-test.toml"),
        ("[streaming]\naddress = \"0.0.0.0:0\"\n", "address"),
    ] {
        let options = NodeOptions {
            configuration: configuration.to_owned(),
            ..Default::default()
        };
        let said = format!(
            "{:#}",
            Node::start(options)
                .await
                .err()
                .unwrap_or_else(|| anyhow::anyhow!("it started"))
        );
        assert!(
            said.contains("has ended") && said.contains(named),
            "{configuration}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn calls_of_later_issues_say_that_they_are_unimplemented_and_their_name() -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("only Husk promises this") {
        return Ok(());
    }
    let client = node.client().await?;
    let answer = client
        .runtime
        .clone()
        .checkpoint_pod(cri::CheckpointPodRequest::default())
        .await;
    expect_error(answer, &[Code::Unimplemented], &["CheckpointPod"])?;
    let answer = client
        .runtime
        .clone()
        .restore_pod(cri::RestorePodRequest::default())
        .await;
    expect_error(answer, &[Code::Unimplemented], &["RestorePod"])
}

#[tokio::test]
async fn user_ids_that_do_not_fit_are_refused_in_an_image_too() -> Result<()> {
    let pod = Pod::on_host("big-uid").await?;
    pod.node
        .import(&Image::busybox("husk.test/big-uid:1")?.with("User", json!("2147483648")))?;
    let mut config = container("main", "id");
    config.image = Some(image_spec("husk.test/big-uid:1"));
    let refused = pod.client.create(&pod.id, &pod.config, config).await;
    expect_error(refused, &[Code::InvalidArgument], &["2147483648"])?;
    pod.delete().await
}
