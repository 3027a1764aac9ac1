//! Exec, attach, port-forward and logs, as kubectl asks for them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use husk_tests::kubelet::{Kubelet, container, full_name, pod, with};
use serde_json::json;

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// Runs a client to its end with `input`.
fn talk(client: &mut Command, input: &[u8]) -> Result<Output> {
    let piped = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn()?;
    let mut stdin = child.stdin.take().context("the client's input")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    let _closed_early = writer.join();
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn exec_carries_all_streams_sizes_and_the_exit_status() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    kubelet.apply(
        "executed",
        &pod(json!([container("main", "exec sleep 600")])),
    )?;
    kubelet.wait_ready("executed").await?;
    let place = ("executed", "main");
    let megabytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    for transport in TRANSPORTS {
        let mut client = kubelet.exec(transport, place, "cat; echo done >&2; exit 42")?;
        let ended = talk(&mut client, &megabytes)?;
        assert_eq!(
            ended.status.code(),
            Some(42),
            "{transport}: {}",
            text(&ended.stderr)
        );
        assert!(
            ended.stdout == megabytes,
            "{transport}: {} bytes came back",
            ended.stdout.len()
        );
        assert_eq!(text(&ended.stderr), "done\n", "{transport}");

        let path = format!(
            "/exec/default/{}/main?command=sh&command=-c&command=sleep+1%3Bstty+size%3Btty&input=1&output=1&tty=1",
            full_name("executed")
        );
        let words = [
            "stream",
            "-transport",
            transport,
            "-tty",
            "-stdin",
            "-size",
            "91x23",
        ];
        let ended = talk(&mut kubelet.client(&words, &path)?, b"")?;
        let shown = text(&ended.stdout);
        assert!(
            shown.starts_with("23 91\r\n/dev/pts/"),
            "{transport}: {shown:?} {}",
            text(&ended.stderr)
        );
    }
    kubelet.remove(&["executed"]).await
}

#[tokio::test]
async fn attach_reaches_the_containers_own_streams() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let named = |transport| format!("attached-{transport}");
    for transport in TRANSPORTS {
        let script =
            "echo waiting; while read -r line; do echo \"got $line\"; echo aside >&2; done; exit 6";
        let main = with(
            container("main", script),
            json!({"stdin": true, "stdinOnce": true}),
        );
        let spec = with(pod(json!([main])), json!({"restartPolicy": "Never"}));
        kubelet.apply(&named(transport), &spec)?;
    }
    for transport in TRANSPORTS {
        attach(&kubelet, transport, &named(transport)).await?;
    }
    kubelet
        .remove(&TRANSPORTS.map(named).each_ref().map(String::as_str))
        .await
}

/// Says two lines to a container, which answers and ends.
async fn attach(kubelet: &Kubelet, transport: &str, name: &str) -> Result<()> {
    kubelet.wait_ready(name).await?;
    let path = format!(
        "/attach/default/{}/main?input=1&output=1&error=1",
        full_name(name)
    );
    let mut client = kubelet.client(&["stream", "-stdin", "-transport", transport], &path)?;
    let ended = talk(&mut client, b"one\ntwo\n")?;
    assert_eq!(
        text(&ended.stdout),
        "got one\ngot two\n",
        "{transport}: {}",
        text(&ended.stderr)
    );
    assert_eq!(text(&ended.stderr), "aside\naside\n", "{transport}");
    let failed = kubelet
        .wait_pod(name, "failed", |it| it["phase"] == "Failed")
        .await?;
    let end = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(end["exitCode"], 6, "{transport}: {end:#}");
    Ok(())
}

#[tokio::test]
async fn port_forward_carries_a_connection_each_way() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let serve = "mkdir /www; head -c 3000000 /dev/zero | tr '\\0' x > /www/page; exec httpd -f -p 8000 -h /www";
    let ready = json!({"readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1}});
    kubelet.apply(
        "forwarded",
        &pod(json!([with(container("main", serve), ready)])),
    )?;
    kubelet.wait_ready("forwarded").await?;
    let path = format!("/portForward/default/{}", full_name("forwarded"));
    for transport in TRANSPORTS {
        let words = ["forward", "-port", "8000", "-transport", transport];
        let ended = talk(
            &mut kubelet.client(&words, &path)?,
            b"GET /page HTTP/1.0\r\n\r\n",
        )?;
        let answer = text(&ended.stdout);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK"),
            "{transport}: {}",
            text(&ended.stderr)
        );
        assert_eq!(answer.matches('x').count(), 3_000_000, "{transport}");
        let words = ["forward", "-port", "9", "-transport", transport];
        let refused = talk(&mut kubelet.client(&words, &path)?, b"")?;
        let complaint = text(&refused.stderr).to_lowercase();
        assert!(complaint.contains("refused"), "{transport}: {complaint}");
    }
    kubelet.remove(&["forwarded"]).await
}
