//! The Container Device Interface: what a vendor's file says is in the container.

use std::fs;
use std::sync::Arc;

use anyhow::Result;
use husk_tests::client::expect_error;
use husk_tests::{Node, NodeOptions, Pod, container, cri, settings};
use serde_json::json;
use tonic::Code;

fn wanting(name: &str, devices: &[&str]) -> cri::ContainerConfig {
    let mut config = container(name, "exec sleep 600");
    let device = |name: &&str| cri::CdiDevice {
        name: (*name).to_owned(),
    };
    config.cdi_devices = devices.iter().map(device).collect();
    config
}

#[tokio::test]
async fn devices_bring_what_their_files_say() -> Result<()> {
    if settings::skips("the files are where only Husk is told to look") {
        return Ok(());
    }
    let files = tempfile::tempdir()?;
    let (low, high) = (files.path().join("low"), files.path().join("high"));
    for directory in [&low, &high] {
        fs::create_dir(directory)?;
    }
    fs::write(files.path().join("firmware"), "v1")?;
    let mounts = json!([{"hostPath": files.path().join("firmware"), "containerPath": "/lib/firmware/x",
        "options": ["ro", "bind"]}]);
    let node = json!({"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw"});
    let whole = json!({
        "cdiVersion": "0.7.0", "kind": "husk.test/device",
        "containerEdits": {"env": ["ALL=yes"]},
        "devices": [{"name": "zero", "containerEdits": {
            "env": ["ZERO=low"], "deviceNodes": [node], "mounts": mounts, "additionalGids": [4321],
        }}],
    });
    fs::write(low.join("a.json"), whole.to_string())?;
    let later = "cdiVersion: 0.7.0\nkind: husk.test/device\ndevices:\n- name: one\n  containerEdits:\n    env: [ONE=high]\n";
    fs::write(high.join("b.yaml"), later)?;
    let options = NodeOptions {
        configuration: format!("[cdi]\ndirs = [{:?}, {:?}]\n", low, high),
        ..NodeOptions::default()
    };
    let node = Arc::new(Node::start(options).await?);
    let pod = Pod::run(node.clone(), node.host_pod("devices")).await?;
    let config = wanting("main", &["husk.test/device=zero", "husk.test/device=one"]);
    let id = pod.launch(config).await?;
    let script = "echo $ALL $ZERO $ONE; cat /lib/firmware/x; echo; echo gone >/dev/vendor0; \
        stat -c %t:%T /dev/vendor0; id -G | tr ' ' '\\n' | grep -x 4321";
    let found = pod.client.shell(&id, script).await?;
    assert_eq!(found, "yes low high\nv1\n1:3\n4321");

    let answer = pod.client.create(
        &pod.id,
        &pod.config,
        wanting("none", &["husk.test/device=two"]),
    );
    expect_error(
        answer.await,
        &[Code::InvalidArgument],
        &["husk.test/device=two", "not known"],
    )?;
    fs::copy(low.join("a.json"), low.join("c.json"))?;
    let answer = pod.client.create(
        &pod.id,
        &pod.config,
        wanting("both", &["husk.test/device=zero"]),
    );
    expect_error(
        answer.await,
        &[Code::InvalidArgument],
        &["husk.test/device=zero", "a.json", "c.json"],
    )?;
    pod.delete().await
}
