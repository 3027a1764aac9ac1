//! The relay with work that is driven by hand, and the service over an empty store.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use husk_image::{Digest, LayerPhase, Progress, ProgressEvent};
use serde_json::json;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;

use tonic::Code;

use super::v1::admin_server::Admin as _;
use super::v1::progress::Event;
use super::*;

/// Longer than any step takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

fn layer(number: u8, phase: LayerPhase, done: u64) -> ProgressEvent {
    ProgressEvent::Layer {
        digest: Digest::of(&[number]),
        phase,
        done,
        total: 100,
    }
}

fn resolved(layers: u8) -> ProgressEvent {
    ProgressEvent::Resolved {
        reference: "r/b:1".to_owned(),
        layers: (0..layers)
            .map(|number| (Digest::of(&[number]), 100))
            .collect(),
    }
}

async fn next(events: &mut Events) -> Option<Result<Event, Status>> {
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    let message = next.expect("in time")?;
    Some(message.map(|message| message.event.expect("an event")))
}

fn image(id: &str) -> v1::StoredImage {
    v1::StoredImage {
        id: id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_state_of_each_layer_and_then_the_images() {
    let progress = Relay::new();
    progress.event(resolved(3));
    for done in 0..100_000 {
        progress.event(layer(0, LayerPhase::Downloading, done % 100));
    }
    progress.event(layer(0, LayerPhase::Done, 0));
    progress.event(layer(1, LayerPhase::Exists, 0));
    let mut events = relay(progress, async { Ok(vec![image("one"), image("two")]) });
    let mut phases = Vec::new();
    let mut images = Vec::new();
    while let Some(event) = next(&mut events).await {
        match event.expect("no error") {
            Event::Layer(layer) => phases.push(layer.phase()),
            Event::Image(image) => images.push(image.id),
            Event::Retry(retry) => panic!("{retry:?}"),
        }
    }
    assert_eq!(
        phases,
        [v1::Phase::Done, v1::Phase::Present, v1::Phase::Waiting]
    );
    assert_eq!(images, ["one", "two"]);
}

#[tokio::test]
async fn events_arrive_while_the_work_goes_on_and_its_error_comes_last() {
    let progress = Relay::new();
    let (fail, failed) = oneshot::channel();
    let work = async move { Err(failed.await.expect("told to fail")) };
    let mut events = relay(Arc::clone(&progress), work);
    progress.event(layer(7, LayerPhase::Unpacking, 5));
    let Some(Ok(Event::Layer(unpacking))) = next(&mut events).await else {
        panic!("no layer");
    };
    assert_eq!(
        (unpacking.phase(), unpacking.bytes),
        (v1::Phase::Unpacking, 5)
    );
    let reason = "connection reset".to_owned();
    progress.event(ProgressEvent::Retrying {
        registry: "r".to_owned(),
        reason,
    });
    assert!(matches!(next(&mut events).await, Some(Ok(Event::Retry(_)))));
    fail.send(Status::not_found("no such tag"))
        .expect("waited for");
    let status = next(&mut events)
        .await
        .expect("an outcome")
        .expect_err("failed");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "no such tag")
    );
    assert!(next(&mut events).await.is_none());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work() {
    let (alive, end) = oneshot::channel::<()>();
    let events = relay(Relay::new(), async move {
        let _alive = alive;
        std::future::pending().await
    });
    drop(events);
    let end = tokio::time::timeout(PATIENCE, end).await;
    end.expect("in time").expect_err("the work was dropped");
}

struct TwoMonitors;

impl MonitorList for TwoMonitors {
    fn monitors(&self) -> Vec<MonitorInfo> {
        let monitor = |pod: &str, pid| MonitorInfo {
            pod_id: pod.to_owned(),
            pod_name: "web".to_owned(),
            pod_namespace: "shop".to_owned(),
            pid,
            restarts: 2,
        };
        vec![monitor("a", 7), monitor("b", 8)]
    }

    fn upgrade(&self) -> BoxFuture<'static, Vec<(MonitorInfo, Result<(), String>)>> {
        let results = [Ok(()), Err("busy".to_owned())];
        let upgraded = self.monitors().into_iter().zip(results).collect();
        async move { upgraded }.boxed()
    }
}

async fn service(directory: &Path) -> Admin {
    let (root, run) = (directory.join("root"), directory.join("run"));
    let images = Images::open(husk_image::Config::new(root, run)).await;
    Admin {
        images: images.expect("a new store"),
        monitors: Arc::new(TwoMonitors),
    }
}

#[tokio::test]
async fn every_monitor_is_upgraded_and_says_why_it_was_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(directory.path()).await;
    let request = Request::new(v1::UpgradeMonitorsRequest {});
    let answer = service.upgrade_monitors(request).await;
    let upgrades = answer.expect("a list").into_inner().upgrades;
    let errors: Vec<&str> = upgrades.iter().map(|upgrade| &*upgrade.error).collect();
    assert_eq!(errors, ["", "busy"]);
    let pids: Vec<u32> = upgrades
        .iter()
        .filter_map(|upgrade| Some(upgrade.monitor.as_ref()?.pid))
        .collect();
    assert_eq!(pids, [7, 8]);
}

#[tokio::test]
async fn monitors_are_passed_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(directory.path()).await;
    let answer = service.monitors(Request::new(v1::MonitorsRequest {})).await;
    let monitors = answer.expect("a list").into_inner().monitors;
    let pids: Vec<u32> = monitors.iter().map(|monitor| monitor.pid).collect();
    assert_eq!(pids, [7, 8]);
    assert_eq!(monitors[1].pod_id, "b");
}

#[tokio::test]
async fn an_import_that_cannot_be_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(directory.path()).await;
    let garbage = directory.path().join("garbage.tar");
    std::fs::write(&garbage, "no archive").expect("written");
    let import = |path: &Path| {
        service.import_image(Request::new(v1::ImportImageRequest {
            path: path.to_string_lossy().into_owned(),
            tag: String::new(),
        }))
    };
    let relative = import(Path::new("garbage.tar"))
        .await
        .expect_err("relative");
    assert_eq!(relative.code(), Code::InvalidArgument);
    let missing = Path::new("/no/such/archive.tar");
    for (path, code) in [
        (garbage.as_path(), Code::DataLoss),
        (missing, Code::NotFound),
    ] {
        let mut events = import(path).await.expect("begun").into_inner();
        let status = next(&mut events)
            .await
            .expect("an outcome")
            .expect_err("refused");
        assert_eq!(status.code(), code, "{}", status.message());
        let name = path.to_string_lossy();
        assert!(
            status.message().contains(name.as_ref()),
            "{}",
            status.message()
        );
    }
}

/// An OCI layout with one image of one empty layer (the OCI image specification, "Image Layout").
fn write_layout(directory: &Path, name: &str) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("made");
    let put = |bytes: &[u8], media: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("written");
        let media = format!("application/vnd.oci.image.{media}");
        json!({"mediaType": media, "digest": digest.to_string(), "size": bytes.len()})
    };
    // A tar archive ends with two blocks of zeros.
    let layer = put(&[0; 1024], "layer.v1.tar");
    let config = json!({
        "os": "linux",
        "architecture": husk_image::Platform::host().architecture,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(directory.join("index.json"), index.to_string()).expect("written");
    let version = json!({"imageLayoutVersion": "1.0.0"});
    std::fs::write(directory.join("oci-layout"), version.to_string()).expect("written");
}

#[tokio::test]
async fn an_import_tells_its_layer_and_then_the_image_under_its_new_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(directory.path()).await;
    let layout = directory.path().join("layout");
    write_layout(&layout, "docker.io/library/empty:1");
    let import = |tag: &str| {
        service.import_image(Request::new(v1::ImportImageRequest {
            path: layout.to_string_lossy().into_owned(),
            tag: tag.to_owned(),
        }))
    };
    for (tag, phase, name) in [
        ("", v1::Phase::Done, "docker.io/library/empty:1"),
        ("r.example/b:2", v1::Phase::Present, "r.example/b:2"),
    ] {
        let mut events = import(tag).await.expect("begun").into_inner();
        let mut last_phase = None;
        let mut images = Vec::new();
        while let Some(event) = next(&mut events).await {
            match event.expect("no error") {
                Event::Layer(layer) => last_phase = Some(layer.phase()),
                Event::Image(image) => images.push(image),
                Event::Retry(retry) => panic!("{retry:?}"),
            }
        }
        assert_eq!(last_phase, Some(phase), "{tag}");
        assert_eq!(images.len(), 1);
        let stored = service.images.find(name).expect("a name").expect("stored");
        assert_eq!(stored.id, images[0].id);
        assert!(
            images[0].names.iter().any(|known| known == name),
            "{images:?}"
        );
    }
}

#[tokio::test]
async fn a_pull_that_cannot_be_names_the_image_and_the_cause() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = service(directory.path()).await;
    let pull = v1::PullImageRequest {
        reference: "not a reference".to_owned(),
        ..Default::default()
    };
    let answer = service.pull_image(Request::new(pull)).await;
    let mut events = answer.expect("begun").into_inner();
    let outcome = next(&mut events).await.expect("an outcome");
    let status = outcome.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
    assert!(
        status.message().contains("not a reference"),
        "{}",
        status.message()
    );
}

#[test]
fn credentials_are_passed_on_and_nobody_is_anonymous() {
    let asked = |username: &str, password: &str| {
        credentials(v1::PullImageRequest {
            reference: "r.example/b:1".to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
        })
    };
    assert!(asked("", "").is_none());
    let ann = Credentials::Basic {
        username: "ann".to_owned(),
        password: "s3cret".to_owned(),
    };
    assert!(asked("ann", "s3cret") == Some(ann));
}
