//! What `hack/demo` shows: one pod with two containers, from an image made on the spot to a clean removal.

use std::path::Path;

use anyhow::{Context as _, Result};
use husk_tests::cri::ContainerState;
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Client, Node, NodeOptions, container, logs, process};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    title(
        "Starting husk on a private state directory, in a mount and a network namespace of its own",
    );
    let node = Node::start(NodeOptions::default()).await?;
    let client = node.client().await?;
    let version = client.version().await?;
    say(&format!(
        "{} {}, CRI {}",
        version.runtime_name, version.runtime_version, version.runtime_api_version
    ));
    say(&format!(
        "socket {}, image {BUSYBOX} imported without a registry",
        node.socket().display()
    ));
    let before = node.settled().await?;

    let config = node.pod("demo");
    let pod = client.run_pod(&config).await?;
    let web = "echo serving; while :; do echo hello from the pod | nc -l -p 8080; done";
    let web = client.launch(&pod, &config, container("web", web)).await?;
    let job = "for n in 1 2 3; do echo working on $n; echo warning $n >&2; done; sleep 1; exit 42";
    let job = client.launch(&pod, &config, container("job", job)).await?;
    show_pod(&client, &pod).await?;
    show_processes(&pod)?;
    show_logs(&client, &[&web, &job]).await?;

    title("ExecSync in web: a request to its own server");
    let answer = client
        .shell(&web, "nc 127.0.0.1 8080 </dev/null; id; hostname")
        .await?;
    say(&answer);

    title("job comes to its end");
    let status = client.wait_exit(&job).await?;
    say(&format!(
        "exit code {}, reason {}",
        status.exit_code, status.reason
    ));

    title("Stop and remove");
    client.stop(&web, 1).await?;
    client.delete_pod(&pod).await?;
    node.assert_settles(&before).await?;
    say(&format!(
        "pods left: {}, containers left: {}",
        client.pods(None).await?.len(),
        client.containers(None).await?.len()
    ));
    say("mounts, namespaces, cgroups, processes, files and descriptors are as before");
    Ok(())
}

async fn show_pod(client: &Client, pod: &str) -> Result<()> {
    title("The pod and its containers");
    let status = client.pod_status(pod).await?;
    let address = status.network.clone().unwrap_or_default().ip;
    say(&format!(
        "{}  {:<8} {:<18} {address}",
        &pod[..12],
        "demo",
        status.state().as_str_name()
    ));
    for listed in client.containers(None).await? {
        let name = listed.metadata.clone().unwrap_or_default().name;
        say(&format!(
            "  {}  {name:<8} {}",
            &listed.id[..12],
            listed.state().as_str_name()
        ));
    }
    Ok(())
}

fn show_processes(pod: &str) -> Result<()> {
    title("The process tree: one monitor, and below it the containers themselves");
    let monitors = process::monitors(pod);
    let monitor = monitors.first().context("the pod has no monitor")?;
    say(process::tree(monitor.pid).trim_end());
    // Pages of the program's file would count as its own here, where no second monitor shares them.
    let own = monitor.memory("Anonymous:")?;
    let program = monitor.memory("Rss:")?.saturating_sub(own);
    say(&format!(
        "monitor: {own} KB of its own, {} thread",
        monitor.threads
    ));
    say(&format!(
        "and {program} KB of program, which all monitors of a node share"
    ));
    Ok(())
}

async fn show_logs(client: &Client, containers: &[&str]) -> Result<()> {
    for id in containers {
        let status = client.container_status(id).await?;
        let path = Path::new(&status.log_path);
        title(&format!(
            "The CRI log of {}",
            status.metadata.clone().unwrap_or_default().name
        ));
        let last =
            if status.state() == ContainerState::ContainerRunning && path.ends_with("web.log") {
                "serving"
            } else {
                "warning 3"
            };
        logs::wait_for_line(path, last, DEADLINE).await?;
        say(std::fs::read_to_string(path)?.trim_end());
    }
    Ok(())
}

fn title(text: &str) {
    say(&format!("\n== {text}"));
}

#[expect(clippy::print_stdout, reason = "a demonstration talks to its terminal")]
fn say(line: &str) {
    println!("{line}");
}
