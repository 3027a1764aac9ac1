//! Containers of a pod from their start to their end: order, restarts, probes, grace.

use std::fs;

use anyhow::{Context as _, Result};
use husk_tests::kubelet::{Kubelet, condition, container, container_status, pod, with};
use serde_json::{Value, json};

#[tokio::test]
async fn init_containers_run_in_order_and_a_sidecar_beside_the_rest() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let mount = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    let part = |name: &str, script: &str| with(container(name, script), mount.clone());
    let sidecar = with(
        part("sidecar", "echo sidecar >> /shared/order; exec sleep 600"),
        json!({"restartPolicy": "Always", "startupProbe": {
            "exec": {"command": ["grep", "sidecar", "/shared/order"]}, "periodSeconds": 1,
        }}),
    );
    let spec = with(
        pod(json!([part(
            "main",
            "echo main >> /shared/order; cat /shared/order; exec sleep 600"
        )])),
        json!({
            "initContainers": [part("first", "echo first > /shared/order"), sidecar, part("last", "echo last >> /shared/order")],
            "volumes": [{"name": "shared", "emptyDir": {}}],
        }),
    );
    kubelet.apply("ordered", &spec)?;
    let seen = kubelet.wait_ready("ordered").await?;
    for (name, state) in [
        ("first", "terminated"),
        ("sidecar", "running"),
        ("last", "terminated"),
    ] {
        let status = container_status(&seen["status"], name);
        assert!(status["state"][state].is_object(), "{name}: {status:#}");
    }
    let shown = kubelet.wait_log("ordered", "main", "main").await?;
    assert_eq!(shown, "first\nsidecar\nlast\nmain\n");
    kubelet.remove(&["ordered"]).await
}

#[tokio::test]
async fn restart_policies_are_kept_and_failures_back_off() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let policy = |policy: &str, script: &str| {
        let volume = json!({"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]});
        with(
            pod(json!([with(container("main", script), volume)])),
            json!({"restartPolicy": policy, "volumes": [{"name": "kept", "emptyDir": {}}]}),
        )
    };
    kubelet.apply("never", &policy("Never", "echo once; exit 3"))?;
    let second = "[ -e /kept/tried ] && exit 0; touch /kept/tried; exit 1";
    kubelet.apply("on-failure", &policy("OnFailure", second))?;
    kubelet.apply("always", &policy("Always", "exit 4"))?;

    let never = kubelet
        .wait_pod("never", "failed", |it| it["phase"] == "Failed")
        .await?;
    let status = container_status(&never["status"], "main");
    assert_eq!(status["state"]["terminated"]["exitCode"], 3, "{status:#}");
    assert_eq!(status["restartCount"], 0);
    let on_failure = kubelet.wait_pod("on-failure", "succeeded", |it| it["phase"] == "Succeeded");
    let on_failure = on_failure.await?;
    let status = container_status(&on_failure["status"], "main");
    assert_eq!(status["restartCount"], 1, "{status:#}");
    let backs_off = |it: &Value| {
        let status = container_status(it, "main");
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["lastState"]["terminated"]["exitCode"] == 4
            && status["restartCount"].as_u64() >= Some(1)
    };
    kubelet.wait_pod("always", "backing off", backs_off).await?;
    kubelet.remove(&["never", "on-failure", "always"]).await
}

#[tokio::test]
async fn exec_http_and_tcp_probes_judge_containers() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    // An answer may be late where the machine is busy with other scenarios; no answer is what is tried here.
    let often = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30});
    let probe = |kind: Value| with(kind, often.clone());
    let web = with(
        container(
            "web",
            "echo serving; mkdir -p /www; echo fine > /www/health; exec httpd -f -p 80 -h /www",
        ),
        json!({
            "readinessProbe": probe(json!({"tcpSocket": {"port": 80}})),
            "startupProbe": {"httpGet": {"path": "/health", "port": 80}, "periodSeconds": 1, "failureThreshold": 60},
            "livenessProbe": probe(json!({"httpGet": {"path": "/health", "port": 80}})),
        }),
    );
    let late = with(
        container("late", "exec sleep 600"),
        json!({"readinessProbe": probe(json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}}))}),
    );
    kubelet.apply("probed", &pod(json!([web, late])))?;
    let web_alone = |it: &Value| {
        container_status(it, "web")["ready"] == true
            && container_status(it, "late")["ready"] == false
    };
    kubelet.wait_pod("probed", "half ready", web_alone).await?;
    let run = |place, script| -> Result<()> {
        let status = kubelet.exec("spdy", place, script)?.status()?;
        anyhow::ensure!(status.success(), "{script}: {status}");
        Ok(())
    };
    run(("probed", "late"), "touch /tmp/ready")?;
    kubelet.wait_ready("probed").await?;
    // A restart makes a new root file system, in which the page is back.
    run(("probed", "web"), "rm /www/health")?;
    let restarted =
        |it: &Value| container_status(it, "web")["restartCount"] == 1 && condition(it, "Ready");
    let seen = kubelet
        .wait_pod("probed", "restarted by its probe", restarted)
        .await?;
    assert_eq!(container_status(&seen["status"], "late")["restartCount"], 0);
    assert_eq!(kubelet.logs("probed", "web", "previous=true")?, "serving\n");
    kubelet.remove(&["probed"]).await
}

#[tokio::test]
async fn a_removed_pod_gets_its_pre_stop_hook_its_signal_and_its_grace() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let place = tempfile::tempdir_in(kubelet.node.directory())?;
    let mounts = json!([{"name": "place", "mountPath": "/place"}]);
    let hook =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /place/gentle"]}}});
    let gentle = "trap 'echo signal >> /place/gentle; exit 0' TERM; touch /tmp/set; while :; do sleep 0.1; done";
    // It notes when it was told to end, and until when it lived.
    let stubborn = "now() { cut -d' ' -f1 /proc/uptime > /place/now; mv /place/now /place/$1; }; \
                    trap 'now told' TERM; touch /tmp/set; while :; do now lived; sleep 0.1; done";
    let part = |name: &str, script: &str, more: Value| {
        let ready = json!({"exec": {"command": ["test", "-e", "/tmp/set"]}, "periodSeconds": 1});
        let more = with(
            more,
            json!({"volumeMounts": mounts, "readinessProbe": ready}),
        );
        with(container(name, script), more)
    };
    let containers = json!([
        part("gentle", gentle, json!({"lifecycle": hook})),
        part("stubborn", stubborn, json!({})),
    ]);
    let volumes =
        json!([{"name": "place", "hostPath": {"path": place.path(), "type": "Directory"}}]);
    let spec = with(
        pod(containers),
        json!({"terminationGracePeriodSeconds": 10, "volumes": volumes}),
    );
    kubelet.apply("graceful", &spec)?;
    kubelet.wait_ready("graceful").await?;
    kubelet.remove(&["graceful"]).await?;
    let said =
        |name: &str| fs::read_to_string(place.path().join(name)).with_context(|| name.to_owned());
    assert_eq!(said("gentle")?, "hook\nsignal\n");
    let seconds = |name| -> Result<f64> { Ok(said(name)?.trim().parse()?) };
    let grace = seconds("lived")? - seconds("told")?;
    // What it noted last may be a while old on a busy machine.
    assert!(grace > 6.0, "killed {grace} s after the signal");
    Ok(())
}

#[tokio::test]
async fn an_end_is_explained_by_its_reason_and_message() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let hungry = with(
        container("hungry", "head -c 100000000 /dev/zero | tail"),
        json!({"resources": {"limits": {"memory": "24Mi"}, "requests": {"memory": "24Mi"}}}),
    );
    let quiet = with(
        container("quiet", "echo the last words; exit 5"),
        json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
    );
    let polite = container("polite", "echo -n farewell > /dev/termination-log");
    let spec = with(
        pod(json!([hungry, quiet, polite])),
        json!({"restartPolicy": "Never"}),
    );
    kubelet.apply("ended", &spec)?;
    let seen = kubelet
        .wait_pod("ended", "failed", |it| it["phase"] == "Failed")
        .await?;
    for (name, code, reason, message) in [
        ("hungry", 137, "OOMKilled", None),
        ("quiet", 5, "Error", Some("the last words\n")),
        ("polite", 0, "Completed", Some("farewell")),
    ] {
        let end = &container_status(&seen["status"], name)["state"]["terminated"];
        assert_eq!(end["exitCode"], code, "{name}: {end:#}");
        assert_eq!(end["reason"], reason, "{name}: {end:#}");
        assert!(
            message.is_none() || end["message"] == message.unwrap_or_default(),
            "{name}: {end:#}"
        );
        assert!(
            end["finishedAt"].is_string() && end["containerID"].is_string(),
            "{name}: {end:#}"
        );
    }
    kubelet.remove(&["ended"]).await
}
