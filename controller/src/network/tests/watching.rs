use super::*;

fn reason(network: &Network) -> String {
    network.readiness().to_string()
}

#[tokio::test]
async fn a_directory_may_come_go_and_come_back() {
    let node = Node::with("1.0.0", &["a"]);
    let (dir, aside) = (node.path("net.d"), node.path("aside"));
    fs::rename(&dir, &aside).unwrap();
    let network = node.open();
    assert!(reason(&network).contains("net.d"), "{}", reason(&network));
    for _ in 0..2 {
        fs::rename(&aside, &dir).unwrap();
        eventually("it is found", || network.readiness() == Readiness::Ready).await;
        fs::rename(&dir, &aside).unwrap();
        eventually("it is missed", || network.readiness() != Readiness::Ready).await;
    }
    fs::create_dir(&dir).unwrap();
    eventually("it is empty", || reason(&network).contains("no .conflist")).await;
    node.configure("10-late.conflist", "1.0.0", &["a"]);
    eventually("it is filled", || network.readiness() == Readiness::Ready).await;
}

#[tokio::test]
async fn changes_are_noticed_and_the_first_usable_file_wins() {
    let (node, netns) = (Node::new(), Netns::new());
    for plugin in ["a", "b"] {
        node.plugin(plugin, GOOD);
    }
    fs::write(node.path("net.d").join("05-broken.conflist"), "{").unwrap();
    fs::write(node.path("net.d").join("01-note.txt"), "{").unwrap();
    let network = node.open();
    let text = reason(&network);
    assert!(
        text.contains("05-broken.conflist") && text.contains("not JSON"),
        "{text}"
    );
    let error = network.add(&netns.pod("p")).await.unwrap_err();
    assert!(
        matches!(&error, AddError::NotReady { reason } if *reason == text),
        "{error}"
    );
    node.configure("20-b.conflist", "1.0.0", &["b"]);
    eventually("b is usable", || network.readiness() == Readiness::Ready).await;
    network.add(&netns.pod("p")).await.unwrap();
    node.configure("aside", "1.0.0", &["a"]);
    let dir = node.path("net.d");
    fs::rename(dir.join("aside"), dir.join("10-a.conflist")).unwrap();
    let current = || network.0.current_list().unwrap().plugins[0].kind.clone();
    eventually("a comes first", || current() == "a").await;
    network.add(&netns.pod("q")).await.unwrap();
    network.del("p", None).await.unwrap();
    assert_eq!(node.calls(), ["ADD b", "ADD a", "DEL b"]);
    for file in ["10-a.conflist", "20-b.conflist"] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    eventually("nothing is left", || reason(&network) == text).await;
}

#[tokio::test]
async fn status_decides_on_readiness_and_is_remembered() {
    let node = Node::with("1.1.0", &["a", "b"]);
    let unready = "[ $CNI_COMMAND = STATUS ] && [ ! -e $dir/up ] && {
        echo '{\"code\":50,\"msg\":\"agent is starting\"}'; exit 1; }";
    node.plugin("b", &format!("{unready}\n{GOOD}"));
    let network = node.open();
    eventually("STATUS is asked", || {
        reason(&network).contains("agent is starting")
    })
    .await;
    assert!(
        reason(&network).contains("plugin b failed STATUS"),
        "{}",
        reason(&network)
    );
    fs::write(node.path("up"), "").unwrap();
    assert_eq!(network.refresh_status().await, Readiness::Ready);
    assert_eq!(network.readiness(), Readiness::Ready);
    let calls = node.calls();
    assert_eq!(calls[calls.len() - 2..], ["STATUS a", "STATUS b"]);
    assert_eq!(
        node.input("a", "STATUS"),
        json!({"cniVersion":"1.1.0","name":"test","type":"a"})
    );
    fs::remove_file(node.path("up")).unwrap();
    assert_ne!(network.refresh_status().await, Readiness::Ready);
    // Nobody asks, and yet it is noticed that the agent has come up.
    fs::write(node.path("up"), "").unwrap();
    eventually("it is asked again", || {
        network.readiness() == Readiness::Ready
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_is_installed_late_is_found() {
    let node = Node::with("1.0.0", &["a"]);
    fs::remove_file(node.path("bin").join("a")).unwrap();
    let network = node.open();
    assert!(
        reason(&network).contains("plugin a"),
        "{}",
        reason(&network)
    );
    node.plugin("a", GOOD);
    eventually("it is found", || network.readiness() == Readiness::Ready).await;
}

#[tokio::test]
async fn the_watch_ends_with_the_network() {
    let node = Node::with("1.0.0", &["a"]);
    let network = node.open();
    let weak = Arc::downgrade(&network.0);
    let task = network.0.watcher.read().unwrap().clone().unwrap();
    drop(network);
    eventually("the task ends", || {
        weak.strong_count() == 0 && task.is_finished()
    })
    .await;
}
