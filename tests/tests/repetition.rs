//! The same again and again, and by many at once: nothing is left of it, in the node or in the machine.

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use husk_tests::config::{image_spec, words};
use husk_tests::process::Process;
use husk_tests::registry::{Access, Registry};
use husk_tests::streaming::{Channel, PROTOCOLS, Remote};
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Image, Layer, Node, NodeOptions, container, cri, logs, wait_for};

/// How many do the same at once.
const CLIENTS: usize = 8;

/// An image with a layer that no other has.
fn push(registry: &Registry, name: &str) -> Result<String> {
    let mark = Layer::new().file("mark", 0o644, name.as_bytes());
    registry.push(
        &format!("repetition/{name}:1"),
        &[Image::busybox(name)?.layer(mark)],
    )
}

/// Everything that a pod may see, from the pull of its image to the removal of both.
async fn live(node: &Node, reference: &str, name: &str) -> Result<()> {
    let client = node.client().await?;
    client.pull(reference, None).await?;
    let config = node.pod(name);
    let pod = client.run_pod(&config).await?;
    let network = client.pod_status(&pod).await?.network.unwrap_or_default();
    ensure!(!network.ip.is_empty(), "{name} has no address");

    let mut main = container("main", "echo up; exec cat");
    (main.image, main.stdin) = (Some(image_spec(reference)), true);
    let id = client.launch(&pod, &config, main).await?;
    let log = client.container_status(&id).await?.log_path;
    logs::wait_for_line(log.as_ref(), "up", DEADLINE).await?;
    assert_eq!(client.shell(&id, "cat /mark").await?, name);
    streams(node, &id).await?;
    changes(&client, &id).await?;

    let (status, output) = client
        .run_to_end(&pod, &config, container("short", "echo once; exit 4"))
        .await?;
    assert_eq!((status.exit_code, output), (4, vec!["once".to_owned()]));
    client.stop(&id, 0).await?;
    client.delete_pod(&pod).await?;
    Ok(client.remove_image(reference).await?)
}

/// An exec and an attach, each over both protocols.
async fn streams(node: &Node, id: &str) -> Result<()> {
    for protocol in PROTOCOLS {
        let request = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: words(&["/bin/sh", "-c", "echo said; exit 5"]),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let ended = Remote::exec(node, protocol, request)
            .await?
            .finish()
            .await?;
        assert_eq!((&*ended.stdout, ended.code()?), ("said\n", 5));
        let request = cri::AttachRequest {
            container_id: id.to_owned(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let mut attached = Remote::attach(node, protocol, request).await?;
        attached.send(Channel::Stdin, b"echoed\n").await?;
        attached.read_until(Channel::Stdout, "echoed\n").await?;
    }
    Ok(())
}

/// A rotation, an update, and a look at what is used.
async fn changes(client: &Client, id: &str) -> Result<()> {
    let log = client.container_status(id).await?.log_path;
    std::fs::rename(&log, format!("{log}.1"))?;
    client.reopen_log(id).await?;
    let mut runtime = client.runtime.clone();
    let limits = cri::LinuxContainerResources {
        cpu_shares: 512,
        ..Default::default()
    };
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..Default::default()
    };
    runtime.update_container_resources(update).await?;
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let stats = runtime.container_stats(request).await?.into_inner().stats;
    ensure!(stats.context("stats")?.memory.is_some(), "no memory");
    Ok(())
}

/// What a client can count: pods, containers, images.
async fn counts(client: &Client) -> Result<[usize; 3]> {
    Ok([
        client.pods(None).await?.len(),
        client.containers(None).await?.len(),
        client.list_images().await?.len(),
    ])
}

/// The connections of the daemon, and the interfaces that lead to pods.
fn open(node: &Node) -> Result<(usize, String)> {
    let Some(daemon) = node.daemon() else {
        return Ok((0, String::new()));
    };
    let held = Process::find(daemon).context("no daemon")?.descriptors()?;
    let links = node.script("ip -o link show type veth")?;
    Ok((held.get("socket").copied().unwrap_or_default(), links))
}

#[tokio::test]
async fn three_lives_in_a_row_and_eight_at_once_leave_nothing() -> Result<()> {
    let node = Node::start(NodeOptions::default()).await?;
    let registry = node.registry(Access::Plain)?;
    let client = node.client().await?;
    let first = push(&registry, "first")?;
    // Whatever is made once for all, such as connections between daemon and kernel, is made now.
    live(&node, &first, "first").await?;
    let before = node.settled().await?;
    let (counted, held) = (counts(&client).await?, open(&node)?);
    for round in 0..3 {
        live(&node, &first, "first")
            .await
            .with_context(|| format!("round {round}"))?;
        assert_eq!(counts(&client).await?, counted, "round {round}");
    }
    let names: Vec<_> = (0..CLIENTS)
        .map(|number| format!("life-{number}"))
        .collect();
    let images = names.iter().map(|name| push(&registry, name));
    let images = images.collect::<Result<Vec<_>>>()?;
    let lives = names.iter().zip(&images);
    try_join_all(lives.map(|(name, image)| live(&node, image, name))).await?;
    assert_eq!(counts(&client).await?, counted);
    node.assert_settles(&before).await?;
    let closed = wait_for(
        "connections and interfaces are as before",
        DEADLINE,
        async || (open(&node).ok()? == held).then_some(()),
    );
    closed
        .await
        .with_context(|| format!("{held:?} became {:?}", open(&node)))
}
