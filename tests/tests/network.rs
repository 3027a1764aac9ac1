//! Pod networks through real CNI plugins.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::config::words;
use husk_tests::cri;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, NodeOptions, Pod, container, netns, settings, wait_for};
use serde_json::json;
use tonic::Code;

async fn address(client: &Client, pod: &str) -> Result<String> {
    Ok(client
        .pod_status(pod)
        .await?
        .network
        .context("a pod's network status")?
        .ip)
}

#[tokio::test]
async fn a_pod_has_an_address_that_the_node_and_other_pods_reach() -> Result<()> {
    let server = Pod::on_network("server").await?;
    let serve = "while :; do echo welcome | nc -l -p 7070; done";
    server.launch(container("main", serve)).await?;
    let ip = address(&server.client, &server.id).await?;
    let target: SocketAddr = format!("{ip}:7070").parse()?;
    let network = server.node.network();
    let answer = wait_for("the server answers", DEADLINE, async || {
        netns::read_all(network, target).ok()
    })
    .await?;
    assert_eq!(answer, "welcome\n");

    let guest = Pod::on_network("guest").await?;
    let id = guest.launch(container("main", "sleep 600")).await?;
    let script = format!("until nc -w 2 {ip} 7070 </dev/null; do sleep 0.05; done");
    assert_eq!(guest.client.shell(&id, &script).await?, "welcome");
    assert_ne!(address(&guest.client, &guest.id).await?, ip);
    let inside = guest
        .client
        .shell(&id, "ip -4 -o addr show dev eth0")
        .await?;
    assert!(
        inside.contains(&address(&guest.client, &guest.id).await?),
        "{inside}"
    );
    guest.delete().await?;
    server.delete().await
}

#[tokio::test]
async fn a_host_network_pod_is_in_the_nodes_namespace_and_has_no_address_of_its_own() -> Result<()>
{
    let pod = Pod::on_host("on-the-host").await?;
    let id = pod.launch(container("main", "sleep 600")).await?;
    let inside = pod.client.shell(&id, "readlink /proc/self/ns/net").await?;
    let place = pod.node.network().unwrap_or_else(std::process::id);
    assert_eq!(
        inside,
        std::fs::read_link(format!("/proc/{place}/ns/net"))?.to_string_lossy()
    );
    let status = pod.client.pod_status(&pod.id).await?;
    assert_eq!(status.network.unwrap_or_default().ip, "");
    pod.delete().await
}

#[tokio::test]
async fn a_host_port_leads_to_the_pod_and_is_gone_with_it() -> Result<()> {
    let node = Node::shared().await?;
    let mut config = node.pod("mapped");
    let mapping = |host: i32, container: i32| cri::PortMapping {
        host_port: host,
        container_port: container,
        ..Default::default()
    };
    config.port_mappings = vec![mapping(18_080, 80), mapping(0, 81)];
    let pod = Pod::run(node, config).await?;
    pod.launch(container(
        "main",
        "while :; do echo mapped | nc -l -p 80; done",
    ))
    .await?;
    let network = pod.node.network();
    let direct: SocketAddr = format!("{}:80", address(&pod.client, &pod.id).await?).parse()?;
    wait_for("the server answers", DEADLINE, async || {
        netns::read_all(network, direct).ok()
    })
    .await?;
    let gateway: SocketAddr = "10.88.0.1:18080".parse()?;
    let answer = wait_for("the host port answers", DEADLINE, async || {
        netns::read_all(network, gateway).ok()
    })
    .await?;
    assert_eq!(answer, "mapped\n");
    pod.delete().await?;
    assert!(
        netns::connect(network, gateway).is_err(),
        "the host port outlived its pod"
    );
    Ok(())
}

#[tokio::test]
async fn annotations_for_bandwidth_reach_the_plugin() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Node::shared().await?;
    let mut config = node.pod("shaped");
    config.annotations.insert(
        "kubernetes.io/ingress-bandwidth".to_owned(),
        "8M".to_owned(),
    );
    let pod = Pod::run(node, config).await?;
    let mut tc = husk_tests::registry::inside(pod.node.network(), "tc");
    let rules = husk_tests::command::output(tc.args(["qdisc", "show"]))?;
    assert!(
        rules.contains("tbf") && rules.contains("rate 8Mbit"),
        "{rules}"
    );
    pod.delete().await
}

#[tokio::test]
async fn without_a_network_the_node_says_so_and_only_host_pods_run() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let node = Node::start(NodeOptions {
        network: Some(String::new()),
        ..Default::default()
    })
    .await?;
    let client = node.client().await?;
    let ready = async |wanted: bool| {
        let conditions = client.status().await.ok()?.status?.conditions;
        conditions
            .into_iter()
            .find(|it| it.r#type == "NetworkReady" && it.status == wanted)
    };
    let condition = ready(false)
        .await
        .context("NetworkReady is true without a network")?;
    assert!(
        !condition.reason.is_empty() && condition.message.contains("cni"),
        "{condition:?}"
    );
    let before = node.snapshot();
    let refused = client.run_pod(&node.pod("nowhere")).await;
    expect_error(refused, &[Code::FailedPrecondition], &["cni"])?;
    node.assert_settles(&before).await?;
    client
        .delete_pod(&client.run_pod(&node.host_pod("host")).await?)
        .await?;

    let list = r#"{"cniVersion": "1.0.0", "name": "late", "plugins": [{"type": "loopback"}]}"#;
    std::fs::write(node.directory().join("cni/10-late.conflist"), list)?;
    wait_for("the new network is noticed", DEADLINE, async || {
        ready(true).await
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_fails_undoes_what_went_before_and_its_words_reach_the_caller() -> Result<()>
{
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let plugin = directory.path().join("broken");
    let script = "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\n\
                  echo '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"the cable is cut\"}'\nexit 1\n";
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ipam = serde_json::json!({"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24"}]],
        "dataDir": directory.path().join("ipam")});
    let plugins = serde_json::json!([{"type": "bridge", "bridge": "husk1", "ipam": ipam}, {"type": "broken"}]);
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "broken", "plugins": plugins});
    let configuration = format!(
        "[network]\nbin_dirs = [\"/usr/lib/cni\", \"/opt/cni/bin\", \"{}\"]\n",
        directory.path().display()
    );
    let node = Node::start(NodeOptions {
        network: Some(list.to_string()),
        configuration,
        ..Default::default()
    })
    .await?;
    let client = node.client().await?;
    let _first_makes_directories = client.run_pod(&node.pod("first")).await;
    let before = node.snapshot();
    let refused = client.run_pod(&node.pod("cut")).await;
    expect_error(
        refused,
        &[Code::FailedPrecondition],
        &["broken", "the cable is cut"],
    )?;
    assert!(client.pods(None).await?.is_empty());
    node.assert_settles(&before).await?;
    let leases = std::fs::read_dir(directory.path().join("ipam/broken"))?
        .flatten()
        .map(|it| it.file_name());
    let leases: Vec<_> = leases
        .filter(|it| it.to_string_lossy().starts_with("10.89"))
        .collect();
    assert!(
        leases.is_empty(),
        "an address was not given back: {leases:?}"
    );
    Ok(())
}

/// Writes down how it is called: the command and what it reads, a line a call. It is not well while a file says so.
const RECORDER: &str = r#"#!/bin/sh
place=$(dirname "$0")
printf '%s %s\n' "$CNI_COMMAND" "$(tr -d '\n')" >> "$place/calls"
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.90.0.2/24"}]}' ;;
STATUS)
    [ -e "$place/unwell" ] || exit 0
    echo '{"cniVersion":"1.1.0","code":50,"msg":"the switch is off"}'
    exit 1
    ;;
esac
"#;

/// A plugin in a directory of its own.
struct Recorder(tempfile::TempDir);

impl Recorder {
    fn new() -> Result<Self> {
        let recorder = Self(tempfile::tempdir()?);
        let plugin = recorder.0.path().join("recorder");
        std::fs::write(&plugin, RECORDER)?;
        std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(recorder)
    }

    async fn node(&self) -> Result<Arc<Node>> {
        let plugin = json!({"type": "recorder", "capabilities": {"dns": true}});
        let list = json!({"cniVersion": "1.1.0", "name": "recorded", "plugins": [plugin]});
        let options = NodeOptions {
            network: Some(list.to_string()),
            configuration: format!("[network]\nbin_dirs = [{:?}]\n", self.0.path()),
            ..Default::default()
        };
        Ok(Node::start(options).await?.into())
    }

    /// What it read at each call of the command.
    fn calls(&self, command: &str) -> Result<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(self.0.path().join("calls"))?;
        let calls = text.lines().filter_map(|line| line.split_once(' '));
        let inputs = calls.filter(|(called, _)| *called == command);
        inputs
            .map(|(_, input)| Ok(serde_json::from_str(input)?))
            .collect()
    }
}

#[tokio::test]
async fn a_plugin_says_how_it_is_and_is_told_of_dns_and_of_the_pods_that_are_valid() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let unwell = recorder.0.path().join("unwell");
    std::fs::write(&unwell, "")?;
    let node = recorder.node().await?;
    let client = node.client().await?;
    let network = async |ready: bool, said: &str| {
        wait_for("the network's condition", DEADLINE, async || {
            let conditions = client.status().await.ok()?.status?.conditions;
            let mut conditions = conditions.into_iter();
            let found = conditions.find(|it| it.r#type == "NetworkReady")?;
            (found.status == ready && found.message.contains(said)).then_some(())
        })
        .await
    };
    network(false, "the switch is off").await?;
    std::fs::remove_file(&unwell)?;
    // Any change of the directory has the plugins asked again at once.
    std::fs::write(node.directory().join("cni/changed"), "")?;
    network(true, "").await?;

    let mut config = node.pod("named");
    config.dns_config = Some(cri::DnsConfig {
        servers: words(&["10.96.0.10"]),
        searches: words(&["svc.test"]),
        options: words(&["ndots:5"]),
    });
    let mut pod = Pod::run(node.clone(), config).await?;
    assert_eq!(address(&pod.client, &pod.id).await?, "10.90.0.2");
    let dns = json!({"servers": ["10.96.0.10"], "searches": ["svc.test"], "options": ["ndots:5"]});
    let told = json!({"dns": dns});
    assert_eq!(recorder.calls("ADD")?[0]["runtimeConfig"], told);

    let before = recorder.calls("GC")?.len();
    node.crash().await?;
    pod.client = node.client().await?;
    let collected = wait_for("GC after a crash", DEADLINE, async || {
        recorder.calls("GC").ok()?.into_iter().nth(before)
    })
    .await?;
    let valid = json!([{"containerID": pod.id, "ifname": "eth0"}]);
    assert_eq!(collected["cni.dev/valid-attachments"], valid);
    pod.delete().await?;
    assert_eq!(recorder.calls("DEL")?[0]["runtimeConfig"], told);
    Ok(())
}
