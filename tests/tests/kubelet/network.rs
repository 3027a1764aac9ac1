//! Namespaces that pods have, share or do without, and how they are reached.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use husk_tests::command::output;
use husk_tests::kubelet::{Kubelet, container, pod, with};
use husk_tests::process::Process;
use husk_tests::wait::DEADLINE;
use husk_tests::{netns, wait_for};
use serde_json::json;

const SERVE: &str = "while :; do echo $HOSTNAME | nc -l -p 7000; done";

#[tokio::test]
async fn a_host_port_leads_to_its_pod_and_goes_with_it() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let ports = json!({"ports": [{"containerPort": 7000, "hostPort": 7001, "protocol": "TCP"}]});
    kubelet.apply(
        "ported",
        &pod(json!([with(container("main", SERVE), ports)])),
    )?;
    kubelet.wait_ready("ported").await?;
    // The bridge's address is one of the node's.
    let address = SocketAddr::from(([10, 88, 0, 1], 7001));
    let network = kubelet.node.network();
    let answer = wait_for("an answer at the host port", DEADLINE, async || {
        netns::read_all(network, address)
            .ok()
            .filter(|text| !text.is_empty())
    });
    assert_eq!(answer.await?, "ported-node\n");
    kubelet.remove(&["ported"]).await?;
    assert!(netns::connect(network, address).is_err());
    Ok(())
}

#[tokio::test]
async fn a_pod_on_the_host_network_is_in_the_nodes_namespace() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let script = "readlink /proc/self/ns/net; exec sleep 600";
    let spec = with(
        pod(json!([container("main", script)])),
        json!({"hostNetwork": true}),
    );
    kubelet.apply("on-host", &spec)?;
    kubelet.wait_ready("on-host").await?;
    let shown = kubelet.wait_log("on-host", "main", "net:").await?;
    let holder = kubelet.node.network().and_then(Process::find);
    let own = holder
        .and_then(|it| it.namespace("net"))
        .context("the node's namespace")?;
    assert_eq!(shown.trim(), own);
    kubelet.remove(&["on-host"]).await
}

#[tokio::test]
async fn containers_see_each_other_only_in_a_shared_pid_namespace() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let both = [("together", true), ("apart", false)];
    for (name, shared) in both {
        let containers = json!([
            container("a", "exec sleep 601"),
            container("b", "exec sleep 602")
        ]);
        let spec = with(pod(containers), json!({"shareProcessNamespace": shared}));
        kubelet.apply(name, &spec)?;
    }
    for (name, shared) in both {
        kubelet.wait_ready(name).await?;
        let listed = output(&mut kubelet.exec("spdy", (name, "b"), "ps")?)?;
        assert!(listed.contains("sleep 602"), "{listed}");
        assert_eq!(listed.contains("sleep 601"), shared, "{listed}");
    }
    kubelet.remove(&both.map(|(name, _)| name)).await
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_is_root_only_inside() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let handlers = kubelet
        .node
        .client()
        .await?
        .status()
        .await?
        .runtime_handlers;
    let features = handlers.into_iter().filter_map(|it| it.features);
    if !features.into_iter().any(|it| it.user_namespaces) {
        skip("no handler of this runtime offers user namespaces on this host");
        return Ok(());
    }
    let script = "id -u; cat /proc/self/uid_map; exec sleep 600";
    let spec = with(
        pod(json!([container("main", script)])),
        json!({"hostUsers": false}),
    );
    kubelet.apply("own-users", &spec)?;
    kubelet.wait_ready("own-users").await?;
    let shown = kubelet.wait_log("own-users", "main", "65536").await?;
    let words: Vec<_> = shown.split_whitespace().collect();
    assert!(
        matches!(words[..], ["0", "0", outside, "65536"] if outside != "0"),
        "{shown}"
    );
    kubelet.remove(&["own-users"]).await
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
