use super::*;

/// A plugin's fault in the middle of a list.
struct Fault {
    name: &'static str,
    body: &'static str,
    /// What an operator must be able to read.
    told: &'static [&'static str],
}

const FAULTS: [Fault; 8] = [
    Fault {
        name: "it fails by the book",
        body: r#"echo '{"cniVersion":"1.0.0","code":7,"msg":"bad subnet","details":"10.0/33"}'
                 echo 'level=fatal' >&2; exit 1"#,
        told: &[
            "plugin bad failed ADD",
            "bad subnet: 10.0/33 (CNI code 7)",
            "level=fatal",
        ],
    },
    Fault {
        name: "it fails in words",
        body: "echo 'panic: nil map' >&2; echo 'half an answer'; exit 2",
        told: &[
            "plugin bad failed ADD",
            "exit status: 2",
            "half an answer",
            "panic: nil map",
        ],
    },
    Fault {
        name: "it dies",
        body: "kill -9 $$",
        told: &["plugin bad failed ADD", "signal: 9"],
    },
    Fault {
        name: "it answers garbage",
        body: "echo 'OK, all set'; echo 'some hint' >&2",
        told: &[
            "plugin bad answered ADD with garbage",
            "OK, all set",
            "not JSON",
            "some hint",
        ],
    },
    Fault {
        name: "it answers nothing",
        body: ":",
        told: &["plugin bad answered ADD with garbage", "not JSON"],
    },
    Fault {
        name: "it answers in a foreign version",
        body: r#"echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"}}'"#,
        told: &[
            "plugin bad answered ADD with garbage",
            "CNI version \"0.2.0\"",
        ],
    },
    Fault {
        name: "it answers without end",
        body: "exec yes '{}'",
        told: &["plugin bad answered ADD with more than 1048576 bytes"],
    },
    Fault {
        name: "it gives no address",
        body: r#"echo '{"cniVersion":"1.0.0"}'"#,
        told: &["gave the pod no address"],
    },
];

fn only_in_add(body: &str) -> String {
    format!("[ $CNI_COMMAND = ADD ] || exit 0\n{body}")
}

#[tokio::test]
async fn a_faulty_plugin_is_named_and_what_was_done_is_undone() {
    for fault in FAULTS {
        let (node, netns) = (Node::with("1.0.0", &["first", "bad"]), Netns::new());
        node.plugin("bad", &only_in_add(fault.body));
        let network = node.open();
        let error = network.add(&netns.pod("p")).await.unwrap_err();
        let text = chain_of(&error);
        for told in fault.told {
            assert!(
                text.contains(told),
                "{}: {told:?} is not in {text}",
                fault.name
            );
        }
        let AddError::Failed { cleanup, .. } = error else {
            panic!("{text}")
        };
        assert!(cleanup.0.is_empty(), "{cleanup}");
        assert_eq!(
            node.calls(),
            ["ADD first", "ADD bad", "DEL bad", "DEL first"],
            "{}",
            fault.name
        );
        assert!(!node.is_cached("p"), "{}", fault.name);
        assert_eq!(network.cached("p"), None);
    }
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_all_that_it_started() {
    let (mut node, netns) = (Node::with("1.0.0", &["first", "bad"]), Netns::new());
    let hang = "echo 'waiting for the daemon' >&2; sleep 1000 & echo $! > $dir/pid; wait";
    node.plugin("bad", &only_in_add(hang));
    node.timeout = Duration::from_secs(1);
    let text = chain_of(&node.open().add(&netns.pod("p")).await.unwrap_err());
    assert!(
        text.contains("plugin bad hung in ADD: killed after 1s"),
        "{text}"
    );
    assert!(text.contains("waiting for the daemon"), "{text}");
    let pid = read_pid(&node.path("pid"));
    assert!(!pid.is_empty(), "the plugin did not get as far as to hang");
    eventually("the plugin's child ends", || !is_running(&pid)).await;
    assert_eq!(
        node.calls(),
        ["ADD first", "ADD bad", "DEL bad", "DEL first"]
    );
}

#[tokio::test]
async fn a_plugin_that_leaves_a_process_with_its_pipes_does_not_hang() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let leave = "[ $CNI_COMMAND = ADD ] && { sleep 1000 & echo $! > $dir/pid; }";
    node.plugin("a", &format!("{leave}\n{GOOD}"));
    let started = Instant::now();
    node.open().add(&netns.pod("p")).await.unwrap();
    assert!(started.elapsed() < DEADLINE / 2);
    let pid = read_pid(&node.path("pid"));
    assert!(is_running(&pid), "a plugin's daemon is not ours to kill");
    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn an_undo_that_fails_is_told_and_tried_again_by_del() {
    let (node, netns) = (Node::with("1.0.0", &["first", "bad"]), Netns::new());
    let stuck = "[ $CNI_COMMAND = DEL ] && [ -e $dir/stuck ] && { echo 'busy' >&2; exit 1; }";
    node.plugin("first", &format!("{stuck}\n{GOOD}"));
    node.plugin("bad", &only_in_add("echo 'no uplink' >&2; exit 1"));
    fs::write(node.path("stuck"), "").unwrap();
    let network = node.open();
    let text = chain_of(&network.add(&netns.pod("p")).await.unwrap_err());
    assert!(
        text.contains("plugin bad failed ADD") && text.contains("no uplink"),
        "{text}"
    );
    assert!(
        text.contains("plugin first failed DEL") && text.contains("busy"),
        "{text}"
    );
    assert!(node.is_cached("p"));
    assert_eq!(network.cached("p"), None, "half an attachment is none");
    assert!(network.del("p", None).await.is_err());
    fs::remove_file(node.path("stuck")).unwrap();
    node.calls();
    network.del("p", None).await.unwrap();
    assert_eq!(node.calls(), ["DEL bad", "DEL first"]);
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn an_incompatible_plugin_does_not_keep_a_pod_from_being_removed() {
    let refuse = r#"echo '{"code":1,"msg":"incompatible CNI version"}'; exit 1"#;
    let (node, netns) = (Node::with("1.0.0", &["a", "b"]), Netns::new());
    node.plugin("b", refuse);
    let network = node.open();
    let text = chain_of(&network.add(&netns.pod("p")).await.unwrap_err());
    assert!(
        text.contains("incompatible CNI version (CNI code 1)"),
        "{text}"
    );
    assert!(!node.is_cached("p"));
    // An attachment that was made is another matter: the plugin was exchanged for an older one.
    node.plugin("b", GOOD);
    network.add(&netns.pod("p")).await.unwrap();
    node.plugin("b", refuse);
    assert!(network.del("p", None).await.is_err());
    assert!(node.is_cached("p"));
}

#[tokio::test]
async fn del_goes_on_past_failures_and_forgets_only_after_success() {
    let (node, netns) = (Node::with("1.0.0", &["a", "b", "c"]), Netns::new());
    let network = node.open();
    network.add(&netns.pod("p")).await.unwrap();
    node.calls();
    for bad in ["b", "c"] {
        node.plugin(bad, &format!("echo {bad} is stuck >&2; exit 1"));
    }
    let text = chain_of(&network.del("p", None).await.unwrap_err());
    assert!(
        text.contains("b is stuck") && text.contains("c is stuck"),
        "{text}"
    );
    assert_eq!(node.calls(), ["DEL c", "DEL b", "DEL a"]);
    assert!(network.cached("p").is_some());
    // A plugin that no longer knows the pod has nothing left to delete.
    for gone in ["b", "c"] {
        node.plugin(
            gone,
            r#"echo '{"code":3,"msg":"unknown container"}'; exit 1"#,
        );
    }
    network.del("p", None).await.unwrap();
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn nothing_is_started_when_a_plugin_is_missing() {
    let (node, netns) = (Node::with("1.0.0", &["a", "b"]), Netns::new());
    fs::remove_file(node.path("bin").join("b")).unwrap();
    let network = node.open();
    let Readiness::NotReady { reason } = network.readiness() else {
        panic!("ready")
    };
    assert!(reason.contains("plugin b"), "{reason}");
    let text = chain_of(&network.add(&netns.pod("p")).await.unwrap_err());
    assert!(text.contains("plugin b") && text.contains("/bin"), "{text}");
    assert!(node.calls().is_empty() && !node.is_cached("p"));
}

#[tokio::test]
async fn a_namespace_that_is_none_is_told_and_undone() {
    let node = Node::with("1.0.0", &["a"]);
    let pod = PodNetwork {
        pod_id: "p".into(),
        netns: "/proc/self/status".into(),
        ..PodNetwork::default()
    };
    let text = chain_of(&node.open().add(&pod).await.unwrap_err());
    assert!(text.contains("/proc/self/status"), "{text}");
    assert_eq!(node.calls(), ["ADD a", "DEL a"]);
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn an_add_that_is_given_up_is_killed_and_cleaned_by_del() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    node.plugin("a", &only_in_add("sleep 1000 & echo $! > $dir/pid; wait"));
    let network = node.open();
    let (adding, pod) = (network.clone(), netns.pod("p"));
    let add = tokio::spawn(async move { adding.add(&pod).await });
    eventually("ADD runs", || !read_pid(&node.path("pid")).is_empty()).await;
    add.abort();
    assert!(add.await.unwrap_err().is_cancelled());
    let pid = read_pid(&node.path("pid"));
    eventually("the plugin's child ends", || !is_running(&pid)).await;
    // The same as after a crash of the controller.
    let network = node.open();
    assert_eq!(network.cached("p"), None);
    network.del("p", None).await.unwrap();
    assert_eq!(node.calls(), ["ADD a", "DEL a"]);
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn a_damaged_cache_file_is_replaced_by_the_current_configuration() {
    let (node, netns) = (Node::with("1.0.0", &["a"]), Netns::new());
    let network = node.open();
    network.add(&netns.pod("p")).await.unwrap();
    fs::write(node.path("cache").join("p.json"), "{").unwrap();
    assert_eq!(network.cached("p"), None);
    network.del("p", Some(&netns.path)).await.unwrap();
    assert_eq!(node.calls(), ["ADD a", "DEL a"]);
    assert!(!node.is_cached("p"));
}

#[tokio::test]
async fn gc_reaches_every_pod_and_plugin_and_tells_all_failures() {
    let (node, netns) = (Node::with("1.1.0", &["a"]), Netns::new());
    let network = node.open();
    for pod in ["p1", "p2"] {
        network.add(&netns.pod(pod)).await.unwrap();
    }
    let network = node.open();
    eventually("STATUS is asked first", || {
        network.readiness() == Readiness::Ready
    })
    .await;
    node.calls();
    node.plugin("a", "echo broken >&2; exit 1");
    let text = network.gc::<&str>(&[]).await.unwrap_err().to_string();
    assert!(text.contains("pod p1") && text.contains("pod p2"), "{text}");
    assert!(
        text.contains("failed GC") && text.contains("broken"),
        "{text}"
    );
    assert_eq!(node.calls(), ["DEL a", "DEL a", "GC a"]);
}
