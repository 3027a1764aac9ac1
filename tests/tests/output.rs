//! What goes in and out of a container: terminals, standard input, the CRI log.

use std::fs;

use anyhow::{Context as _, Result};
use husk_tests::cri::{self, ContainerState};
use husk_tests::wait::DEADLINE;
use husk_tests::{Pod, container, logs, process, wait_for};

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
async fn a_container_that_has_closed_its_output_has_a_log_after_a_rotation() -> Result<()> {
    let pod = Pod::on_host("closed").await?;
    if pod.node.skips("the monitor is looked at") {
        return pod.delete().await;
    }
    let script = "echo first; until test -e /tmp/go; do sleep 0.02; done; exec sleep 600 >&- 2>&-";
    let id = pod.launch(container("main", script)).await?;
    let log = pod.log("main");
    logs::wait_for_line(&log, "first", DEADLINE).await?;
    let pipes = || {
        let descriptors = process::monitor(&pod.id)?.descriptors().ok()?;
        Some(descriptors.get("pipe").copied().unwrap_or_default())
    };
    let open = pipes().context("no monitor")?;
    pod.client.shell(&id, "touch /tmp/go").await?;
    wait_for("the output is closed", DEADLINE, async || {
        // Both streams: the log stays open with one.
        (pipes()? + 2 <= open).then_some(())
    })
    .await?;
    fs::rename(&log, log.with_extension("1"))?;
    let request = cri::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    pod.client
        .runtime
        .clone()
        .reopen_container_log(request)
        .await?;
    assert!(logs::read(&log)?.is_empty());
    pod.client.stop(&id, 0).await?;
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
