//! The CRI is retried: a repeated call joins or repeats the first one's answer, and never makes a second object.

use std::fs;

use anyhow::Result;
use futures::future::join_all;
use husk_tests::client::{codes, expect_error};
use husk_tests::cri::ContainerState;
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Node, Pod, container, wait_for};
use pod_monitor_client::schema::{ContainerConfig, Stdin, TraceContext};
use pod_monitor_client::{Monitor, Rpc};
use tonic::Code;

#[tokio::test]
async fn ten_equal_run_pod_sandbox_calls_at_once_make_one_pod() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let config = node.pod("joined");
    let ids: Vec<_> = join_all((0..10).map(|_| client.run_pod(&config)))
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(client.run_pod(&config).await?, ids[0], "a late repetition");
    let uid = config.metadata.clone().unwrap_or_default().uid;
    let pods = client.pods(None).await?;
    assert_eq!(
        pods.iter()
            .filter(|it| it.metadata.as_ref().is_some_and(|it| it.uid == uid))
            .count(),
        1
    );
    Ok(client.delete_pod(&ids[0]).await?)
}

#[tokio::test]
async fn ten_equal_create_container_calls_at_once_make_one_container() -> Result<()> {
    let pod = Pod::on_host("joined-container").await?;
    let config = container("main", "exec sleep 600");
    let calls = (0..10).map(|_| pod.client.create(&pod.id, &pod.config, config.clone()));
    let ids: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let mut next = config.clone();
    next.metadata.get_or_insert_default().attempt = 1;
    assert_ne!(
        pod.create(next).await?,
        ids[0],
        "another attempt is another container"
    );
    pod.delete().await
}

#[tokio::test]
async fn a_late_repetition_of_create_container_gets_the_same_container() -> Result<()> {
    let pod = Pod::on_host("late-container").await?;
    let mut config = container("main", "exec sleep 600");
    let linux = config.linux.get_or_insert_default();
    linux
        .resources
        .get_or_insert_default()
        .memory_limit_in_bytes = 64 << 20;
    let first = pod.create(config.clone()).await?;
    assert_eq!(pod.create(config.clone()).await?, first);
    let mut other = config;
    other.command.push("another wish".into());
    let answer = pod.client.create(&pod.id, &pod.config, other).await;
    expect_error(
        answer,
        &[Code::AlreadyExists],
        &[&first, "another configuration"],
    )?;
    pod.delete().await
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_pod_and_its_retry_succeeds() -> Result<()> {
    let node = Node::shared().await?;
    for milliseconds in [0, 2, 5, 10, 20, 40] {
        let config = node.pod("abandoned");
        let client = node.client().await?;
        let moment = std::time::Duration::from_millis(milliseconds);
        let _abandoned = tokio::time::timeout(moment, client.run_pod(&config)).await;
        drop(client);
        let client = node.client().await?;
        let pod = client.run_pod(&config).await?;
        let id = client
            .launch(&pod, &config, container("main", "exec sleep 600"))
            .await?;
        assert_eq!(
            client.container_status(&id).await?.state(),
            ContainerState::ContainerRunning
        );
        client.delete_pod(&pod).await?;
    }
    Ok(())
}

#[tokio::test]
async fn stop_and_remove_of_a_container_can_be_repeated_in_every_state() -> Result<()> {
    let pod = Pod::on_host("repeated").await?;
    let created = pod.create(container("created", "true")).await?;
    let running = pod.launch(container("running", "exec sleep 600")).await?;
    let exited = pod.launch(container("exited", "exit 3")).await?;
    pod.client.wait_exit(&exited).await?;
    for id in [&created, &running, &exited] {
        pod.client.stop(id, 0).await?;
        pod.client.stop(id, 0).await?;
    }
    assert_eq!(
        pod.client.container_status(&exited).await?.exit_code,
        3,
        "a stop does not rewrite an exit"
    );
    for id in [&created, &running, &exited] {
        pod.client.remove(id).await?;
        pod.client.remove(id).await?;
        expect_error(
            pod.client.container_status(id).await,
            &[Code::NotFound],
            &[],
        )?;
    }
    let running = pod.launch(container("forced", "exec sleep 600")).await?;
    pod.client.remove(&running).await?;
    pod.delete().await
}

#[tokio::test]
async fn a_second_start_is_refused_or_changes_nothing() -> Result<()> {
    let pod = Pod::on_host("started-twice").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let before = pod.client.container_status(&id).await?;
    let again = pod.client.start(&id).await;
    if pod.node.is_husk() {
        again?;
    }
    assert_eq!(pod.client.container_status(&id).await?, before);
    pod.client.stop(&id, 0).await?;
    let codes = codes(
        Code::FailedPrecondition,
        &[Code::Internal, Code::NotFound, Code::Unknown],
    );
    expect_error(pod.client.start(&id).await, &codes, &[])?;
    pod.delete().await
}

#[tokio::test]
async fn removing_an_absent_image_and_asking_for_it_is_no_error() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    client.remove_image("husk.test/never:1").await?;
    client.remove_image("husk.test/never:1").await?;
    assert!(client.image("husk.test/never:1").await?.is_none());
    assert!(client.image(BUSYBOX).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_container_that_nobody_asked_for_is_deleted() -> Result<()> {
    let pod = Pod::on_host("unclaimed").await?;
    if pod.node.skips("only Husk's monitors are known") {
        return pod.delete().await;
    }
    let id = pod.create(container("main", "true")).await?;
    let run = pod.node.directory().join("run/pods").join(&pod.id);
    let (bundle, copy) = (
        run.join("containers").join(&id),
        run.join("containers/stranger"),
    );
    fs::create_dir(&copy)?;
    let spec = fs::read_to_string(bundle.join("config.json"))?;
    let mut spec: serde_json::Value = serde_json::from_str(&spec)?;
    let cgroup = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    spec["linux"]["cgroupsPath"] = cgroup.replace(&id, "stranger").into();
    fs::write(copy.join("config.json"), spec.to_string())?;

    // As a controller would whose own creation was given up before the monitor had ended it.
    let rpc = Rpc::start("test/1")?;
    let (monitor, _events) = Monitor::connect(&rpc, &run).await?;
    let stranger = ContainerConfig {
        id: "stranger".to_owned(),
        bundle: copy,
        terminal: false,
        stdin: Stdin::None,
        log_path: None,
        memory_events: false,
    };
    let trace = TraceContext::default();
    monitor.create(&trace, &stranger).await?;
    wait_for("the stranger is gone", DEADLINE, async || {
        let known = monitor.state(&trace).await.ok()?.containers;
        known.iter().all(|it| it.id == id).then_some(())
    })
    .await?;
    pod.client.start(&id).await?;
    assert_eq!(pod.client.wait_exit(&id).await?.exit_code, 0);
    pod.delete().await
}
