//! The node as a whole: programs that restart, images that are collected, and as many pods as a node has.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use husk_tests::command::output;
use husk_tests::kubelet::{
    Kubelet, PATIENCE, condition, container, container_status, full_name, pod, with,
};
use husk_tests::{Image, NodeOptions, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MANY: usize = 110;

/// What must stay as it is while programs around the pods come and go.
fn identity(pod: &Value) -> (String, Value) {
    let status = container_status(&pod["status"], "main");
    let id = status["containerID"].as_str().unwrap_or_default();
    (id.to_owned(), status["restartCount"].clone())
}

#[tokio::test]
async fn pods_outlive_restarts_of_the_kubelet_and_of_husk() -> Result<()> {
    let kubelet = Kubelet::start(NodeOptions::default()).await?;
    let place = tempfile::tempdir_in(kubelet.node.directory())?;
    let script =
        "while [ ! -e /place/end ]; do sleep 0.1; done; mv /place/end /place/ended; exit 9";
    let mounts = json!({"volumeMounts": [{"name": "place", "mountPath": "/place"}]});
    let volumes =
        json!([{"name": "place", "hostPath": {"path": place.path(), "type": "Directory"}}]);
    let ending = pod(json!([with(container("main", script), mounts)]));
    kubelet.apply("one", &with(ending, json!({"volumes": volumes})))?;
    kubelet.apply("two", &pod(json!([container("main", "exec sleep 600")])))?;
    let mut before = Vec::new();
    for name in ["one", "two"] {
        before.push(identity(&kubelet.wait_ready(name).await?));
    }
    kubelet.end()?;
    kubelet.launch(json!({})).await?;
    same(&kubelet, &before, "a restart of the kubelet").await?;
    kubelet.node.restart().await?;
    same(&kubelet, &before, "a restart of Husk").await?;
    kubelet.node.crash().await?;
    same(&kubelet, &before, "a crash of Husk").await?;

    // An end while Husk is down is told afterwards, and the kubelet starts the container again.
    kubelet.node.end_daemon(Signal::SIGKILL)?;
    fs::write(place.path().join("end"), "")?;
    let ended = wait_for("the end", PATIENCE, async || {
        place.path().join("ended").exists().then_some(())
    });
    ended.await?;
    kubelet.node.launch().await?;
    let again = |it: &Value| {
        let status = container_status(it, "main");
        status["restartCount"] == 1
            && status["lastState"]["terminated"]["exitCode"] == 9
            && condition(it, "Ready")
    };
    kubelet.wait_pod("one", "started again", again).await?;
    kubelet.remove(&["one", "two"]).await
}

async fn same(kubelet: &Kubelet, before: &[(String, Value)], after: &str) -> Result<()> {
    for (name, identity_before) in ["one", "two"].iter().zip(before) {
        let seen = kubelet.wait_ready(name).await?;
        assert_eq!(&identity(&seen), identity_before, "{name} after {after}");
        // The kubelet's connection comes back in its own time.
        let answer = wait_for("the kubelet reaches Husk", PATIENCE, async || {
            output(&mut kubelet.exec("spdy", (name, "main"), "echo here").ok()?).ok()
        });
        let answer = answer.await?;
        assert_eq!(answer, "here\n", "{name} after {after}");
    }
    Ok(())
}

#[tokio::test]
async fn under_disk_pressure_unused_images_go_and_used_ones_stay() -> Result<()> {
    let kubelet = Kubelet::start(NodeOptions::default()).await?;
    kubelet.apply("keeper", &pod(json!([container("main", "exec sleep 600")])))?;
    kubelet.wait_ready("keeper").await?;
    kubelet
        .node
        .import(&Image::busybox("husk.test/unused:1")?.with("Labels", json!({"a": "b"})))?;
    let client = kubelet.node.client().await?;
    let has = async |name: &str| {
        let images = client.list_images().await.unwrap_or_default();
        images
            .iter()
            .any(|image| image.repo_tags.iter().any(|tag| tag == name))
    };
    assert!(has("husk.test/unused:1").await);
    kubelet.end()?;
    // More than any disk has: the kubelet is always short, and what Husk says of its file systems tells it so.
    kubelet
        .launch(json!({
            "evictionHard": {"imagefs.available": "1Pi", "nodefs.available": "1Mi"},
            "imageMinimumGCAge": "1s",
        }))
        .await?;
    let gone = wait_for("the unused image is collected", PATIENCE, async || {
        (!has("husk.test/unused:1").await).then_some(())
    });
    gone.await.with_context(|| kubelet.log_tail(30))?;
    assert!(has(husk_tests::BUSYBOX).await);
    kubelet.wait_ready("keeper").await?;
    kubelet.remove(&["keeper"]).await
}

#[tokio::test]
async fn as_many_pods_as_a_node_has_start_at_once_and_go() -> Result<()> {
    let kubelet = Kubelet::start(NodeOptions::default()).await?;
    let start = Instant::now();
    for number in 0..MANY {
        let spec = with(
            pod(json!([container("main", "exec sleep 3600")])),
            json!({"terminationGracePeriodSeconds": 0}),
        );
        kubelet.apply(&format!("many-{number}"), &spec)?;
    }
    let count_ready = || {
        let pods: Value = serde_json::from_str(&kubelet.get("/pods").ok()?).ok()?;
        let pods = pods["items"].as_array()?;
        Some(
            pods.iter()
                .filter(|it| condition(&it["status"], "Ready"))
                .count(),
        )
    };
    wait_for("every pod is ready", 3 * PATIENCE, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (count_ready()? == MANY).then_some(())
    })
    .await
    .with_context(|| format!("{:?} are ready", count_ready()))?;
    tell(&format!(
        "{MANY} pods were ready after {:?}",
        start.elapsed()
    ));
    let addresses = addresses(&kubelet)?;
    assert_eq!(addresses.len(), MANY, "each has an address of its own");
    for number in 0..MANY {
        kubelet.withdraw(&format!("many-{number}"))?;
    }
    let client = kubelet.node.client().await?;
    wait_for("every pod is gone", 3 * PATIENCE, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.pods(None).await.ok()?.is_empty().then_some(())
    })
    .await?;
    tell(&format!("and gone after {:?}", start.elapsed()));
    Ok(())
}

fn addresses(kubelet: &Kubelet) -> Result<BTreeSet<String>> {
    let pods: Value = serde_json::from_str(&kubelet.get("/pods")?)?;
    let pods = pods["items"].as_array().context("no pods")?;
    let named = pods.iter().filter(|it| {
        let name = it["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("many-") && name == full_name(name.trim_end_matches("-node"))
    });
    Ok(named
        .filter_map(|it| it["status"]["podIP"].as_str().map(str::to_owned))
        .collect())
}

#[expect(clippy::print_stderr, reason = "a figure worth having in the log")]
fn tell(text: &str) {
    eprintln!("{text}");
}
