//! Exec, attach and port-forward as clients of the kubelet use them: over SPDY and over WebSocket, with real
//! processes at the other end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use husk_tests::config::words;
use husk_tests::cri::{self, ContainerState};
use husk_tests::process::{Process, monitors};
use husk_tests::streaming::{Channel, Forward, PROTOCOLS, Protocol, Remote, refused};
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, Pod, container, logs, settings, wait_for};
use sha2::{Digest as _, Sha256};

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

/// A pod with one container that runs until it is killed.
async fn pod(name: &str) -> Result<(Pod, String)> {
    let pod = Pod::on_host(name).await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    Ok((pod, id))
}

#[tokio::test]
async fn exec_carries_input_output_errors_and_the_exit_code() -> Result<()> {
    let (pod, id) = pod("exec").await?;
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
    let (pod, id) = pod("exec-tty").await?;
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
    let (pod, id) = pod("exec-fails").await?;
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
    let (pod, _) = pod("attach").await?;
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
    let (pod, _) = pod("attach-once").await?;
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
    let (pod, _) = pod("attach-tty").await?;
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

/// 64 MiB and more of text that no compression or repetition makes smaller, in a file; the pause is a slow reader's.
const MAKE: &str = "head -c 50400000 /dev/urandom | base64 -w 4000 > /big";
/// For longer than a session may linger once everything was said.
const AWAY: Duration = Duration::from_secs(6);

const PIECE: usize = 4 << 20;
const PAUSE: Duration = Duration::from_millis(50);

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[tokio::test]
async fn sixty_four_mib_arrive_whole_at_a_slow_reader_of_an_exec() -> Result<()> {
    let (pod, id) = pod("big-exec").await?;
    pod.client.shell(&id, MAKE).await?;
    let sum = pod.client.shell(&id, "sha256sum < /big").await?;
    for protocol in PROTOCOLS {
        let session = Remote::exec(&pod.node, protocol, exec(&id, "cat /big; exit 6")).await?;
        let ended = session.finish_slowly(PIECE, PAUSE).await?;
        ensure!(ended.stdout.len() > 64 << 20, "{}", ended.stdout.len());
        assert!(sum.starts_with(&digest(&ended.stdout)), "{protocol:?}");
        assert_eq!(ended.code()?, 6, "{protocol:?}");
    }
    pod.delete().await
}

#[tokio::test]
async fn a_client_that_looks_away_at_the_end_still_gets_all_of_it() -> Result<()> {
    let (pod, id) = pod("late-reader").await?;
    for protocol in PROTOCOLS {
        let mut request = exec(&id, "head -c 2000000 /dev/zero; exit 6");
        request.stdin = true;
        let mut session = Remote::exec(&pod.node, protocol, request).await?;
        tokio::time::sleep(AWAY).await;
        // What a client says meanwhile must not cost it the rest.
        session.send(Channel::Stdin, b"still here\n").await?;
        let ended = session.finish().await?;
        assert_eq!(ended.stdout.len(), 2_000_000, "{protocol:?}");
        assert_eq!(ended.code()?, 6, "{protocol:?}");
    }
    pod.delete().await
}

#[tokio::test]
async fn sixty_four_mib_arrive_whole_at_two_attached_clients_one_of_them_slow() -> Result<()> {
    let pod = Pod::on_host("big-attach").await?;
    // Each client is heard before the flood begins, so that none has missed a part of it.
    let answer = "while read -r line; do echo \"got $line\"; [ \"$line\" != go ] || break; done";
    let script = format!("{MAKE}; sha256sum < /big; {answer}; cat /big");
    let mut config = container("main", &script);
    config.stdin = true;
    let id = pod.launch(config).await?;
    let line = wait_for("the sum", DEADLINE, async || {
        logs::read(&pod.log("main")).ok()?.into_iter().next()
    });
    let sum = line.await?.text;
    let [spdy, websocket] = PROTOCOLS;
    let mut slow = Remote::attach(&pod.node, spdy, attach(&id, false)).await?;
    let mut quick = Remote::attach(&pod.node, websocket, attach(&id, false)).await?;
    let hear = async |client: &mut Remote, name: &str| {
        let line = format!("{name}\n");
        client.send(Channel::Stdin, line.as_bytes()).await?;
        let heard = format!("got {name}\n");
        client.read_until(Channel::Stdout, &heard).await
    };
    hear(&mut slow, "slow").await?;
    hear(&mut quick, "quick").await?;
    hear(&mut quick, "go").await?;
    let ended = try_join_all([
        slow.finish_slowly(PIECE, PAUSE),
        quick.finish_slowly(usize::MAX, PAUSE),
    ]);
    for ended in ended.await? {
        let flood = ended.stdout.split_once("got go\n").context("no begin")?.1;
        ensure!(flood.len() > 64 << 20, "{}", flood.len());
        assert!(sum.starts_with(&digest(flood)));
    }
    pod.delete().await
}

#[tokio::test]
async fn an_unknown_token_is_not_found() -> Result<()> {
    let (pod, id) = pod("token").await?;
    let mut runtime = pod.client.runtime.clone();
    let ports = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![80],
    };
    let urls = [
        runtime.exec(exec(&id, "true")).await?.into_inner().url,
        runtime.attach(attach(&id, false)).await?.into_inner().url,
        runtime.port_forward(ports).await?.into_inner().url,
    ];
    for url in urls {
        let (place, token) = url.rsplit_once('/').context("a token")?;
        let other: String = token.chars().rev().collect();
        assert_eq!(refused(&pod.node, &format!("{place}/{other}")).await?, 404);
        assert_eq!(refused(&pod.node, &format!("{place}/")).await?, 404);
    }
    pod.delete().await
}

/// What sessions could leave behind: private memory in KB, and descriptors that are not a client's connection.
fn held(pid: u32) -> Result<(u64, usize)> {
    let process = Process::find(pid).context("the process is gone")?;
    let mut open = process.descriptors()?;
    open.remove("socket");
    open.remove("closed meanwhile");
    Ok((process.private_memory()?, open.values().sum()))
}

/// One of each kind of session, by turns.
async fn session(pod: &Pod, id: &str, tty: &str, number: usize) -> Result<()> {
    let node: &Node = &pod.node;
    let protocol = PROTOCOLS[number / 4 % 2];
    match number % 4 {
        0 => {
            let answer = pod.client.exec(id, &["/bin/true"], 10).await?;
            ensure!(answer.exit_code == 0, "{answer:?}");
        }
        1 => {
            let session = Remote::exec(node, protocol, exec(id, "exit 7")).await?;
            ensure!(session.finish().await?.code()? == 7);
        }
        2 => {
            let mut request = exec(id, "read -r line");
            (request.tty, request.stdin, request.stderr) = (true, true, false);
            let mut session = Remote::exec(node, protocol, request).await?;
            session.resize(80, 24).await?;
            session.send(Channel::Stdin, b"typed\n").await?;
            session.finish().await?;
        }
        _ => {
            let mut session = Remote::attach(node, protocol, attach(tty, true)).await?;
            session.resize(100, 30).await?;
            session.send(Channel::Stdin, b"typed\n").await?;
            session.read_until(Channel::Stdout, "typed").await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn sessions_by_the_thousand_leave_memory_and_descriptors_flat() -> Result<()> {
    let (pod, id) = pod("sessions").await?;
    let Some(daemon) = pod.node.daemon() else {
        settings::skips("it looks into the daemon and the monitor");
        return pod.delete().await;
    };
    let monitor = monitors(&pod.id).first().context("no monitor")?.pid;
    let mut config = container("tty", "exec cat");
    (config.stdin, config.tty) = (true, true);
    let tty = pod.launch(config).await?;
    let run = async |from: usize, to: usize| {
        let workers = (0..4).map(|worker| {
            let (pod, id, tty) = (&pod, &id, &tty);
            // Each worker has all four kinds in turn.
            let turns = (from + worker * 4..to).step_by(16);
            let numbers = turns.flat_map(move |at| at..(at + 4).min(to));
            async move {
                for number in numbers {
                    session(pod, id, tty, number).await?;
                }
                anyhow::Ok(())
            }
        });
        try_join_all(workers).await
    };
    run(0, 200).await?;
    let before = [held(daemon)?, held(monitor)?];
    run(200, 200 + settings::sessions()).await?;
    wait_for("descriptors are as before", DEADLINE, async || {
        (held(daemon).ok()?.1 <= before[0].1 && held(monitor).ok()?.1 <= before[1].1).then_some(())
    })
    .await
    .with_context(|| format!("{before:?} became {:?}", [held(daemon), held(monitor)]))?;
    let after = [held(daemon)?.0, held(monitor)?.0];
    eprintln!("private memory in KB: {before:?} became {after:?}");
    ensure!(after[0] < before[0].0 + (8 << 10), "the daemon: {after:?}");
    ensure!(after[1] < before[1].0 + 200, "the monitor: {after:?}");
    pod.delete().await
}
