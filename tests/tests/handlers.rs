//! Runtime handlers: several OCI runtimes in one node, and one of the operator's own with its own options.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use husk_tests::client::expect_error;
use husk_tests::{BUSYBOX, Node, NodeOptions, container, cri, settings};
use tonic::Code;

/// A node with crun, runc, and `own`: a program that notes how it is called and then is runc.
async fn node(directory: &Path) -> Result<Option<Node>> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(None);
    }
    let program = directory.join("own-runtime");
    let place = directory.display();
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$@\" >> {place}/calls\nexec runc \"$@\"\n"),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let configuration = format!(
        "[runtime.handlers.own]\npath = \"{}\"\nkind = \"runc\"\noptions = [\"--debug\"]\nroot = \"{place}/state\"\n",
        program.display()
    );
    let options = NodeOptions {
        configuration,
        ..Default::default()
    };
    Ok(Some(Node::start(options).await?))
}

#[tokio::test]
async fn each_pod_runs_in_the_runtime_that_it_names() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(node) = node(directory.path()).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let run = node.directory().join("run/runtime");
    let states = [
        ("crun", run.join("crun")),
        ("runc", run.join("runc")),
        ("own", directory.path().join("state")),
    ];
    let mut pods = Vec::new();
    for (handler, _) in &states {
        let config = node.host_pod(handler);
        let pod = client.run_pod_with(&config, handler).await?;
        let main = container("main", &format!("echo {handler}; exec sleep 600"));
        let id = client.launch(&pod, &config, main).await?;
        assert_eq!(client.pod_status(&pod).await?.runtime_handler, *handler);
        assert_eq!(client.shell(&id, "echo exec too").await?, "exec too");
        pods.push((pod, id));
    }
    for ((_, id), (handler, state)) in pods.iter().zip(&states) {
        assert!(
            state.join(id).exists(),
            "{handler} has no state of its container"
        );
        let elsewhere = states
            .iter()
            .filter(|(other, state)| other != handler && state.join(id).exists());
        assert_eq!(
            elsewhere.count(),
            0,
            "{handler}'s container is known to another runtime"
        );
    }
    for (pod, _) in &pods {
        client.delete_pod(pod).await?;
    }
    let calls = fs::read_to_string(directory.path().join("calls"))?;
    // What the program can do is asked once, before there is any container.
    for call in calls.lines().filter(|call| *call != "features") {
        let own = format!("--root {}", directory.path().join("state").display());
        assert!(call.contains("--debug") && call.contains(&own), "{call}");
    }
    for wanted in ["create", "start", "exec", "delete"] {
        assert!(
            calls.split_whitespace().any(|word| word == wanted),
            "{wanted} in {calls}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_status_lists_all_handlers_and_an_unknown_one_is_refused_by_name() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(node) = node(directory.path()).await? else {
        return Ok(());
    };
    let client = node.client().await?;
    let handlers = client.status().await?.runtime_handlers;
    let mut names: Vec<_> = handlers.iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["", "crun", "own", "runc"]);
    for handler in &handlers {
        let features = handler.features.unwrap_or_default();
        assert!(features.recursive_read_only_mounts, "{handler:?}");
    }
    let refused = client
        .run_pod_with(&node.host_pod("unknown"), "no-such")
        .await;
    expect_error(
        refused,
        &[Code::InvalidArgument],
        &["no-such", "crun, own, runc"],
    )?;
    let mut image = husk_tests::config::image_spec(BUSYBOX);
    "no-such".clone_into(&mut image.runtime_handler);
    let request = cri::PullImageRequest {
        image: Some(image),
        ..Default::default()
    };
    let refused = client.images.clone().pull_image(request).await;
    expect_error(
        refused,
        &[Code::InvalidArgument],
        &["no-such", "crun, own, runc"],
    )?;
    assert!(client.pods(None).await?.is_empty());
    Ok(())
}
