//! Images that are pulled, and those that cannot be.

use anyhow::Result;
use husk_tests::Image;
use husk_tests::kubelet::{Kubelet, container, container_status, pod, with};
use husk_tests::registry::Access;
use serde_json::{Value, json};

#[tokio::test]
async fn an_image_is_pulled_and_its_name_comes_back() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let registry = kubelet.node.registry(Access::Plain)?;
    // Another image than the one that is there: the kubelet is strict with what it pulled itself.
    let image = Image::busybox("tool")?.with("Labels", json!({"made": "for the kubelet"}));
    let reference = registry.push("team/tool:3", &[image])?;
    let wanted = json!({"image": reference, "imagePullPolicy": "IfNotPresent"});
    kubelet.apply(
        "pulled",
        &pod(json!([with(container("main", "exec sleep 600"), wanted)])),
    )?;
    let seen = kubelet.wait_ready("pulled").await?;
    let status = container_status(&seen["status"], "main");
    assert_eq!(status["image"], reference.as_str(), "{status:#}");
    let id = status["imageID"].as_str().unwrap_or_default();
    assert!(id.contains("sha256:"), "{status:#}");
    kubelet.remove(&["pulled"]).await
}

#[tokio::test]
async fn images_that_cannot_be_had_are_told_with_the_cause() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let registry = kubelet.node.registry(Access::Plain)?;
    let absent = format!("{}/team/absent:1", registry.host());
    let all = [
        (
            "absent",
            absent.as_str(),
            "Always",
            ["ErrImagePull", "ImagePullBackOff"],
            "has no team/absent",
        ),
        (
            "deaf",
            "127.0.0.1:9/tool:1",
            "Always",
            ["ErrImagePull", "ImagePullBackOff"],
            "refused",
        ),
        (
            "kept-out",
            "husk.test/none:1",
            "Never",
            ["ErrImageNeverPull"; 2],
            "not present",
        ),
        (
            "misnamed",
            "UPPER/Case:1",
            "Always",
            ["InvalidImageName"; 2],
            "invalid reference",
        ),
    ];
    for (name, image, policy, ..) in all {
        let wanted = json!({"image": image, "imagePullPolicy": policy});
        kubelet.apply(name, &pod(json!([with(container("main", "true"), wanted)])))?;
    }
    for (name, _, _, reasons, part) in all {
        let told = |it: &Value| {
            let waiting = &container_status(it, "main")["state"]["waiting"];
            let message = waiting["message"]
                .as_str()
                .unwrap_or_default()
                .to_lowercase();
            reasons.iter().any(|reason| waiting["reason"] == *reason) && message.contains(part)
        };
        kubelet.wait_pod(name, part, told).await?;
    }
    kubelet.remove(&all.map(|(name, ..)| name)).await
}
