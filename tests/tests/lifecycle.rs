//! How containers end and are looked at: exits, stops, memory, exec, lists.

use anyhow::Result;
use husk_tests::client::{codes, expect_error};
use husk_tests::config::resources;
use husk_tests::cri::{self, ContainerState};
use husk_tests::wait::DEADLINE;
use husk_tests::{Image, Pod, container, logs};
use serde_json::json;
use tonic::Code;

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
            status.finished_at >= status.started_at && status.started_at > 0,
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
    pod.delete().await
}

#[tokio::test]
async fn exec_reports_output_codes_and_kills_the_whole_tree_on_timeout() -> Result<()> {
    let pod = Pod::on_host("exec").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    // containerd waits for the grandchild, which holds the pipe.
    let words = ["/bin/sh", "-c", "sleep 777 & sleep 778"];
    let killed = pod.client.exec(&id, &words, 1);
    let killed = tokio::time::timeout(DEADLINE, killed).await?;
    expect_error(killed, &[Code::DeadlineExceeded], &[])?;
    let gone = "for n in $(seq 100); do ps -o args | grep -v grep | grep -q 'sleep 77' || exit 0; sleep 0.05; done; exit 1";
    pod.client.shell(&id, gone).await?;
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
    let late = pod.client.exec(&id, &["/bin/true"], 5).await;
    let codes = codes(
        Code::FailedPrecondition,
        &[Code::Internal, Code::NotFound, Code::Unknown],
    );
    expect_error(late, &codes, &[])?;
    pod.delete().await
}

#[tokio::test]
async fn exec_output_is_capped_at_16_mib_and_the_command_goes_on() -> Result<()> {
    let pod = Pod::on_host("cap").await?;
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
