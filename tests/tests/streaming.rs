//! Exec, attach and port-forward as clients of the kubelet use them: over SPDY and over WebSocket, with real
//! processes at the other end.

use std::path::Path;

use anyhow::Result;
use husk_tests::config::words;
use husk_tests::cri::{self, ContainerState};
use husk_tests::streaming::{Channel, Forward, PROTOCOLS, Protocol, Remote, refused};
use husk_tests::wait::DEADLINE;
use husk_tests::{Pod, container, logs};

fn exec(id: &str, script: &str) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: id.to_owned(),
        cmd: words(&["/bin/sh", "-c", script]),
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

fn attach(id: &str, tty: bool) -> cri::AttachRequest {
    cri::AttachRequest {
        container_id: id.to_owned(),
        stdin: true,
        stdout: true,
        stderr: !tty,
        tty,
    }
}

/// A pod with one container that runs until it is killed; none on another endpoint, whose streaming is not the subject.
async fn pod(name: &str) -> Result<Option<(Pod, String)>> {
    let pod = Pod::on_host(name).await?;
    if pod
        .node
        .skips("only Husk's streaming server is tested here")
    {
        pod.delete().await?;
        return Ok(None);
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    Ok(Some((pod, id)))
}

#[tokio::test]
async fn exec_carries_input_output_errors_and_the_exit_code() -> Result<()> {
    let Some((pod, id)) = pod("exec").await? else {
        return Ok(());
    };
    for protocol in PROTOCOLS {
        for code in [0, 7] {
            let mut request = exec(&id, &format!("cat; echo problem >&2; exit {code}"));
            request.stdin = true;
            let mut session = Remote::exec(&pod.node, protocol, request).await?;
            session.send(Channel::Stdin, b"one\n").await?;
            session.read_until(Channel::Stdout, "one\n").await?;
            session.send(Channel::Stdin, b"two\n").await?;
            session.close_stdin().await?;
            let ended = session.finish().await?;
            assert_eq!(
                (&*ended.stdout, &*ended.stderr),
                ("one\ntwo\n", "problem\n"),
                "{protocol:?}"
            );
            assert_eq!(ended.code()?, code, "{protocol:?}: {}", ended.status);
        }
    }
    pod.delete().await
}

#[tokio::test]
async fn exec_on_a_terminal_follows_its_size() -> Result<()> {
    let Some((pod, id)) = pod("exec-tty").await? else {
        return Ok(());
    };
    let script = r#"until [ "$(stty size)" = "44 133" ]; do sleep 0.02; done; tty; read line; echo "<$line>"; exit 3"#;
    for protocol in PROTOCOLS {
        let mut request = exec(&id, script);
        (request.tty, request.stdin, request.stderr) = (true, true, false);
        let mut session = Remote::exec(&pod.node, protocol, request).await?;
        session.resize(80, 24).await?;
        session.resize(133, 44).await?;
        session.read_until(Channel::Stdout, "/dev/pts/").await?;
        session.send(Channel::Stdin, b"typed\n").await?;
        let ended = session.finish().await?;
        assert!(
            ended.stdout.contains("<typed>\r\n"),
            "{protocol:?}: {ended:?}"
        );
        assert_eq!(ended.code()?, 3, "{protocol:?}");
    }
    pod.delete().await
}

#[tokio::test]
async fn a_command_that_cannot_run_is_explained_and_an_address_serves_once() -> Result<()> {
    let Some((pod, id)) = pod("exec-fails").await? else {
        return Ok(());
    };
    for protocol in PROTOCOLS {
        let mut request = exec(&id, "");
        request.cmd = words(&["/no/such/command"]);
        let ended = Remote::exec(&pod.node, protocol, request)
            .await?
            .finish()
            .await?;
        assert_eq!(ended.status["status"], "Failure", "{protocol:?}: {ended:?}");
        assert!(
            ended.status.to_string().contains("/no/such/command"),
            "{protocol:?}: {ended:?}"
        );
    }
    let url = pod
        .client
        .runtime
        .clone()
        .exec(exec(&id, "true"))
        .await?
        .into_inner()
        .url;
    let channels = Channel::of(false, false);
    let first = Remote::open(&pod.node, &url, Protocol::Spdy, &channels).await?;
    assert_eq!(first.finish().await?.code()?, 0);
    assert_eq!(refused(&pod.node, &url).await?, 404);
    pod.delete().await
}

/// Echoes what it reads, and says when there is no more.
const ECHO: &str = r#"while read -r line; do echo "got $line"; done; echo end of input; exit 9"#;

#[tokio::test]
async fn attach_reaches_standard_input_which_stays_open_for_the_next_client() -> Result<()> {
    let Some((pod, _)) = pod("attach").await? else {
        return Ok(());
    };
    let mut config = container("open", ECHO);
    config.stdin = true;
    let id = pod.launch(config).await?;
    for (protocol, line) in PROTOCOLS.into_iter().zip(["one", "two"]) {
        let mut session = Remote::attach(&pod.node, protocol, attach(&id, false)).await?;
        session
            .send(Channel::Stdin, format!("{line}\n").as_bytes())
            .await?;
        session.close_stdin().await?;
        session
            .read_until(Channel::Stdout, &format!("got {line}\n"))
            .await?;
    }
    let status = pod.client.container_status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    let log = logs::text(&logs::read(Path::new(&status.log_path))?, "stdout");
    assert_eq!(log, ["got one", "got two"]);
    pod.delete().await
}

#[tokio::test]
async fn stdin_once_ends_the_input_with_the_first_client() -> Result<()> {
    let Some((pod, _)) = pod("attach-once").await? else {
        return Ok(());
    };
    for (protocol, leaves) in PROTOCOLS
        .into_iter()
        .flat_map(|it| [(it, false), (it, true)])
    {
        let mut config = container(&format!("{protocol:?}-{leaves}").to_lowercase(), ECHO);
        (config.stdin, config.stdin_once) = (true, true);
        let id = pod.launch(config).await?;
        let mut session = Remote::attach(&pod.node, protocol, attach(&id, false)).await?;
        session.send(Channel::Stdin, b"only\n").await?;
        session.read_until(Channel::Stdout, "got only\n").await?;
        if leaves {
            drop(session);
        } else {
            session.close_stdin().await?;
            let ended = session.finish().await?;
            assert!(
                ended.stdout.ends_with("end of input\n"),
                "{protocol:?}: {ended:?}"
            );
        }
        let status = pod.client.wait_exit(&id).await?;
        assert_eq!(status.exit_code, 9, "{protocol:?}");
        logs::wait_for_line(Path::new(&status.log_path), "end of input", DEADLINE).await?;
    }
    pod.delete().await
}

#[tokio::test]
async fn attach_to_a_terminal_sets_its_size_and_types_into_it() -> Result<()> {
    let Some((pod, _)) = pod("attach-tty").await? else {
        return Ok(());
    };
    for protocol in PROTOCOLS {
        let script = r#"until [ "$(stty size)" = "44 133" ]; do sleep 0.02; done; echo sized; read line; echo "<$line>""#;
        let mut config = container(&format!("{protocol:?}").to_lowercase(), script);
        (config.stdin, config.tty) = (true, true);
        let id = pod.launch(config).await?;
        let mut session = Remote::attach(&pod.node, protocol, attach(&id, true)).await?;
        session.resize(133, 44).await?;
        session.read_until(Channel::Stdout, "sized\r\n").await?;
        session.send(Channel::Stdin, b"typed\n").await?;
        let ended = session.finish().await?;
        assert!(
            ended.stdout.contains("<typed>\r\n"),
            "{protocol:?}: {ended:?}"
        );
        assert_eq!(pod.client.wait_exit(&id).await?.exit_code, 0);
    }
    pod.delete().await
}

#[tokio::test]
async fn forwarded_ports_lead_into_the_pod_and_a_closed_one_is_explained() -> Result<()> {
    let pod = Pod::on_network("forward").await?;
    if pod
        .node
        .skips("only Husk's streaming server is tested here")
    {
        return pod.delete().await;
    }
    let server =
        "echo ready; exec nc -ll -p 8080 -e /bin/sh -c 'read line; echo \"pod says $line\"'";
    let script = container("server", server);
    let id = pod.launch(script).await?;
    logs::wait_for_line(&pod.log("server"), "ready", DEADLINE).await?;
    let listening =
        "until grep -q ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
    pod.client.shell(&id, listening).await?;
    for protocol in PROTOCOLS {
        let mut forward = Forward::open(&pod.node, protocol, &pod.id, 8080).await?;
        for word in ["hello", "again"] {
            let sent = format!("{word}\n");
            let (answer, errors) = forward.exchange(8080, sent.as_bytes()).await?;
            assert_eq!(
                (&*answer, &*errors),
                (&*format!("pod says {word}\n"), ""),
                "{protocol:?}"
            );
        }
        let (answer, errors) = forward.exchange(8081, b"").await?;
        assert!(
            answer.is_empty() && errors.contains("port 8081"),
            "{protocol:?}: {answer} {errors}"
        );
    }
    pod.delete().await
}
