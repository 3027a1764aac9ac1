//! What is mounted into containers.

use std::fs;

use anyhow::Result;
use husk_tests::kubelet::{Kubelet, container, pod, with};
use serde_json::json;

const LOOK: &str = "cat /given/file /one /info/labels /info/name /env 2>&1; echo $NAME $ADDRESS; \
                    echo from the container > /given/answer; touch /memory/x; grep ' /memory tmpfs ' /proc/mounts | cut -d' ' -f3; \
                    grep -c ' /fixed [^ ]* ro,' /proc/mounts; cat /disk/sub; exec sleep 600";

#[tokio::test]
async fn empty_dirs_host_paths_and_downward_files_are_there() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let host = tempfile::tempdir_in(kubelet.node.directory())?;
    fs::write(host.path().join("file"), "a file\n")?;
    fs::write(host.path().join("single"), "one file\n")?;
    let name = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    let limits = json!({"path": "name", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}});
    let main = with(
        container("main", LOOK),
        json!({
            "env": [{"name": "NAME", "valueFrom": name}, {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"limits": {"memory": "64Mi"}},
            "volumeMounts": [
                {"name": "host", "mountPath": "/given"}, {"name": "single", "mountPath": "/one"},
                {"name": "host", "mountPath": "/fixed", "readOnly": true}, {"name": "memory", "mountPath": "/memory"},
                {"name": "disk", "mountPath": "/disk"}, {"name": "disk", "mountPath": "/env", "subPath": "env"},
                {"name": "info", "mountPath": "/info"},
            ],
        }),
    );
    let init = with(
        container(
            "init",
            "echo 'by sub path' > /disk/env; echo shared > /disk/sub",
        ),
        json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}),
    );
    let spec = with(
        pod(json!([main])),
        json!({
            "initContainers": [init],
            "volumes": [
                {"name": "host", "hostPath": {"path": host.path(), "type": "Directory"}},
                {"name": "single", "hostPath": {"path": host.path().join("single"), "type": "File"}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "disk", "emptyDir": {}},
                {"name": "info", "downwardAPI": {"items": [labels, limits]}},
            ],
        }),
    );
    kubelet.apply("volumes", &spec)?;
    let seen = kubelet.wait_ready("volumes").await?;
    let address = seen["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let shown = kubelet.wait_log("volumes", "main", "shared").await?;
    let expected = format!(
        "a file\none file\napp=\"volumes\"67108864by sub path\nvolumes-node {address}\ntmpfs\n1\nshared\n"
    );
    assert_eq!(shown, expected);
    assert_eq!(
        fs::read_to_string(host.path().join("answer"))?,
        "from the container\n"
    );
    kubelet.remove(&["volumes"]).await
}
