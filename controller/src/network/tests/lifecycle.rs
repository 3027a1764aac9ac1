use super::*;

#[tokio::test]
async fn add_goes_forth_and_del_goes_back() {
    let (node, netns) = (Node::with("1.0.0", &["a", "b", "c"]), Netns::new());
    let network = node.open();
    assert_eq!(network.readiness(), Readiness::Ready);
    let attachment = network.add(&netns.pod("p")).await.unwrap();
    assert_eq!(
        attachment.ips,
        ["10.0.0.5".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(attachment.interface, "eth0");
    assert_eq!(node.calls(), ["ADD a", "ADD b", "ADD c"]);
    assert_eq!(node.input("a", "ADD").get("prevResult"), None);
    assert_eq!(node.input("c", "ADD")["prevResult"], attachment.result);
    network.del("p", Some(&netns.path)).await.unwrap();
    assert_eq!(node.calls(), ["DEL c", "DEL b", "DEL a"]);
    assert_eq!(node.input("a", "DEL")["prevResult"], attachment.result);
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn loopback_is_up_after_add() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let reach = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        std::net::TcpStream::connect_timeout(&listener.local_addr()?, DEADLINE).map(drop)
    };
    assert!(
        netns.run(reach).is_err(),
        "the test shows nothing when lo is up from the start"
    );
    node.open().add(&netns.pod("p")).await.unwrap();
    netns.run(reach).unwrap();
}

#[tokio::test]
async fn del_works_after_a_restart_without_the_configuration() {
    let (node, netns) = (Node::with("1.0.0", &["a", "b"]), Netns::new());
    let attachment = node.open().add(&netns.pod("p")).await.unwrap();
    node.calls();
    fs::remove_file(node.path("net.d").join("10-test.conflist")).unwrap();
    let network = node.open();
    assert_ne!(network.readiness(), Readiness::Ready);
    assert_eq!(network.cached("p"), Some(attachment));
    network.del("p", None).await.unwrap();
    assert_eq!(node.calls(), ["DEL b", "DEL a"]);
    assert_eq!(network.cached("p"), None);
}

#[tokio::test]
async fn repeated_calls_do_nothing() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let network = node.open();
    let first = network.add(&netns.pod("p")).await.unwrap();
    assert_eq!(network.add(&netns.pod("p")).await.unwrap(), first);
    assert_eq!(node.calls(), ["ADD a"]);
    network.del("p", None).await.unwrap();
    network.del("p", None).await.unwrap();
    network
        .del("never-attached", Some(&netns.path))
        .await
        .unwrap();
    assert_eq!(node.calls(), ["DEL a"]);
}

#[tokio::test]
async fn a_pod_id_in_a_new_namespace_is_attached_anew() {
    let (node, old, new) = (Node::with("1.0.0", &["a"]), Netns::new(), Netns::new());
    let network = node.open();
    network.add(&old.pod("p")).await.unwrap();
    network.add(&new.pod("p")).await.unwrap();
    assert_eq!(node.calls(), ["ADD a", "DEL a", "ADD a"]);
}

#[tokio::test]
async fn a_vanished_namespace_is_passed_as_empty() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let network = node.open();
    network.add(&netns.pod("p")).await.unwrap();
    drop(netns);
    // After a reboot: the file is there, but nothing is mounted on it.
    let path = node.path("netns");
    fs::write(&path, "").unwrap();
    network.del("p", Some(&path)).await.unwrap();
    let environment = fs::read_to_string(node.path("a.env")).unwrap();
    assert!(
        environment.lines().any(|line| line == "CNI_NETNS="),
        "{environment}"
    );
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn plugins_see_no_other_environment() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    node.open().add(&netns.pod("p")).await.unwrap();
    let environment = fs::read_to_string(node.path("a.env")).unwrap();
    // The shell sets the last three by itself.
    let known = ["PATH=", "CNI_", "PWD=", "SHLVL=", "_="];
    for line in environment.lines() {
        assert!(
            known.iter().any(|prefix| line.starts_with(prefix)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn the_time_of_a_plugin_is_in_its_span() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    // With a single subscriber in the process, tracing lets the thread that comes first to a place
    // in the code decide for all whether it is of interest, and other tests have no subscriber.
    let second = tracing::Dispatch::new(tracing_subscriber::registry());
    node.open().add(&netns.pod("p")).await.unwrap();
    drop((guard, second));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let close = text.lines().find(|line| line.contains("close")).unwrap();
    for told in [
        r#"plugin="a""#,
        r#"command="ADD""#,
        r#"pod="p""#,
        "elapsed_ms=",
    ] {
        assert!(close.contains(told), "{told} is not in {close}");
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_del_is_told_depends_on_the_version() {
    for (version, told) in [("0.3.1", false), ("0.4.0", true), ("1.1.0", true)] {
        let (node, netns) = (Node::with(version, &["a"]), Netns::new());
        let network = node.open();
        network.add(&netns.pod("p")).await.unwrap();
        network.del("p", None).await.unwrap();
        let input = node.input("a", "DEL");
        assert_eq!(input.get("prevResult").is_some(), told, "{version}");
        assert_eq!(input["cniVersion"], version);
    }
}

#[tokio::test]
async fn check_asks_the_plugins_where_there_is_check() {
    for (version, calls) in [("0.3.1", &[][..]), ("0.4.0", &["CHECK a", "CHECK b"])] {
        let (node, netns) = (Node::with(version, &["a", "b"]), Netns::new());
        let network = node.open();
        let error = network.check("p").await.unwrap_err();
        assert!(matches!(error, CheckError::NotAttached { .. }), "{error}");
        network.add(&netns.pod("p")).await.unwrap();
        node.calls();
        network.check("p").await.unwrap();
        assert_eq!(node.calls(), calls, "{version}");
    }
}

#[tokio::test]
async fn a_failed_check_names_plugin_and_cause() {
    let (node, netns) = (Node::with("1.0.0", &["a", "b"]), Netns::new());
    let network = node.open();
    network.add(&netns.pod("p")).await.unwrap();
    node.plugin(
        "b",
        r#"echo '{"code":100,"msg":"eth0 lost its address"}'; exit 1"#,
    );
    let text = chain_of(&network.check("p").await.unwrap_err());
    assert!(text.contains("plugin b failed CHECK"), "{text}");
    assert!(text.contains("eth0 lost its address"), "{text}");
}

#[tokio::test]
async fn gc_deletes_stale_pods_and_tells_the_valid_ones() {
    for (version, gc) in [("1.0.0", &[][..]), ("1.1.0", &["GC a", "GC b"])] {
        let (node, netns) = (Node::with(version, &["a", "b"]), Netns::new());
        let network = node.open();
        for pod in ["keep", "stale"] {
            network.add(&netns.pod(pod)).await.unwrap();
        }
        // What an earlier controller left.
        let network = node.open();
        eventually("STATUS is asked first", || {
            network.readiness() == Readiness::Ready
        })
        .await;
        node.calls();
        network.gc(&["keep"]).await.unwrap();
        let calls = node.calls();
        assert_eq!(calls[..2], ["DEL b", "DEL a"], "{version}");
        assert_eq!(calls[2..], *gc, "{version}");
        assert!(node.is_cached("keep") && !node.is_cached("stale"));
        if version == "1.1.0" {
            let valid = &node.input("a", "GC")["cni.dev/valid-attachments"];
            assert_eq!(*valid, json!([{"containerID": "keep", "ifname": "eth0"}]));
        }
    }
}

#[tokio::test]
async fn gc_spares_a_pod_that_came_after_the_list_of_valid_ones() {
    let (node, netns) = (Node::with("1.1.0", &["a"]), Netns::new());
    let network = node.open();
    eventually("STATUS is asked first", || {
        network.readiness() == Readiness::Ready
    })
    .await;
    let valid: [&str; 0] = [];
    network.add(&netns.pod("late")).await.unwrap();
    network.gc(&valid).await.unwrap();
    assert!(node.is_cached("late"));
    let told = &node.input("a", "GC")["cni.dev/valid-attachments"];
    assert_eq!(*told, json!([{"containerID": "late", "ifname": "eth0"}]));
    assert!(!node.calls().contains(&"DEL a".to_owned()));
}

#[tokio::test]
async fn gc_waits_for_a_running_add() {
    let (node, netns) = (Node::with("1.1.0", &["a"]), Netns::new());
    // ADD ends when the test lets it.
    let wait = "[ $CNI_COMMAND = ADD ] && while [ ! -e $dir/go ]; do sleep 0.01; done";
    node.plugin(
        "a",
        &format!("{wait}\n{GOOD}\necho \"end $CNI_COMMAND\" >> $dir/log"),
    );
    let network = node.open();
    eventually("STATUS is asked first", || {
        network.readiness() == Readiness::Ready
    })
    .await;
    node.calls();
    let (adding, pod) = (network.clone(), netns.pod("p"));
    let add = tokio::spawn(async move { adding.add(&pod).await });
    eventually("ADD runs", || {
        node.path("a.ADD").exists() && node.is_cached("p")
    })
    .await;
    let collecting = network.clone();
    let gc = tokio::spawn(async move { collecting.gc(&["p"]).await });
    eventually("GC waits", || network.0.gate.try_read().is_err()).await;
    fs::write(node.path("go"), "").unwrap();
    add.await.unwrap().unwrap();
    gc.await.unwrap().unwrap();
    assert_eq!(node.calls(), ["ADD a", "end ADD", "GC a", "end GC"]);
}
