//! Every step of the daemon and of a monitor fails once, and is the last one of its process once: the caller's retry
//! gets what it asked for, and nothing stays.
//!
//! The points are read from the sources, so that a new one is tested from the start on; one that no session passes
//! fails the test.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use husk_tests::config::{image_spec, resources};
use husk_tests::cri::{self, ContainerState};
use husk_tests::points::{Point, sources};
use husk_tests::registry::{Access, Registry};
use husk_tests::wait::DEADLINE;
use husk_tests::{
    Client, Image, Layer, Node, NodeOptions, Snapshot, container, logs, settings, wait_for,
};
use tonic::Status;

/// What a point is told, in the order of its trials. The first write to the store is not the only one that matters.
fn orders(point: &Point) -> Vec<String> {
    let passes = if point.name.starts_with("store.") {
        8
    } else {
        1
    };
    let acts = if point.fails {
        &["fail", "abort"][..]
    } else {
        &["abort"]
    };
    let all = acts
        .iter()
        .flat_map(|act| (0..passes).map(move |skipped| format!("{act} {skipped}")));
    all.collect()
}

/// A client that does what a kubelet does: it asks again, and begins anew with a pod that is lost.
struct Kubelet {
    node: Node,
    client: Client,
    /// Serves the image that is pulled.
    _registry: Registry,
    image: String,
    attempt: u32,
    /// What went wrong, for whoever reads of a failed test.
    said: Vec<String>,
}

impl Kubelet {
    async fn new() -> Result<Self> {
        let options = NodeOptions {
            monitor: Some("faults"),
            configuration: "[runtime]\ndefault = \"crun\"\n".to_owned(),
            ..Default::default()
        };
        let node = Node::start(options).await?;
        let registry = node.registry(Access::Plain)?;
        let layer = Layer::new().file("faults", 0o644, b"a layer that only this image has");
        let image = registry.push("faults:1", &[Image::busybox("faults")?.layer(layer)])?;
        Ok(Self {
            client: node.client().await?,
            node,
            _registry: registry,
            image,
            attempt: 0,
            said: Vec::new(),
        })
    }

    /// Calls until there is an answer, with the daemon brought back where it has gone.
    async fn ask<T>(&mut self, call: impl AsyncFn(&Client) -> Result<T, Status>) -> Result<T> {
        let mut last = None;
        for _ in 0..3 {
            match call(&self.client).await {
                Ok(answer) => return Ok(answer),
                Err(status) => {
                    self.said.push(status.message().to_owned());
                    last = Some(status);
                    self.heal().await?;
                }
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("never asked"), Into::into))
    }

    /// Waits until the daemon answers, and starts it where it has ended.
    async fn heal(&mut self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if self.node.daemon_has_ended() {
                // At this start it may end again: once.
                if let Err(error) = self.node.launch().await {
                    self.said.push(format!("{error:#}"));
                    continue;
                }
            }
            self.client = match self.node.client().await {
                Ok(client) => client,
                Err(_) => continue,
            };
            if self.client.version().await.is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("the daemon does not answer")
    }

    /// A pod with one container from its begin to its end, of which those parts that `point` may be in.
    async fn session(&mut self, point: &str) -> Result<()> {
        let image = self.image.clone();
        let pulls = ["pull.", "image."].iter().any(|it| point.starts_with(it));
        if pulls {
            self.ask(async |client| client.pull(&image, None).await)
                .await?;
        }
        let alone = [
            "container.",
            "rootfs.",
            "pull.",
            "image.",
            "monitor.exec",
            "monitor.st",
        ];
        let mut config = match alone.iter().any(|it| point.starts_with(it)) {
            true => self.node.host_pod("faults"),
            false => self.node.pod("faults"),
        };
        let metadata = config.metadata.get_or_insert_default();
        metadata.uid = "faults".to_owned();
        metadata.attempt = self.attempt;
        config.log_directory = format!("{}-{}", config.log_directory, self.attempt);
        let pod = self
            .ask(async |client| client.run_pod(&config).await)
            .await?;
        self.container(point, &pod, &config, pulls).await?;
        self.ask(async |client| client.stop_pod(&pod).await).await?;
        self.ask(async |client| client.remove_pod(&pod).await)
            .await?;
        if pulls {
            self.ask(async |client| client.remove_image(&image).await)
                .await?;
        }
        Ok(())
    }

    async fn container(
        &mut self,
        point: &str,
        pod: &str,
        sandbox: &cri::PodSandboxConfig,
        pulled: bool,
    ) -> Result<()> {
        let script = "trap 'exit 7' TERM; echo hello; while :; do sleep 0.02; done";
        let mut main = container("main", script);
        if pulled {
            main.image = Some(image_spec(&self.image));
        }
        let create = async |client: &Client| client.create(pod, sandbox, main.clone()).await;
        let id = self.ask(create).await?;
        if point.starts_with("adopt.") {
            if let Err(error) = self.node.restart().await {
                self.said.push(format!("{error:#}"));
            }
            self.heal().await?;
        }
        self.ask(async |client| start(client, &id).await).await?;
        let log = Path::new(&sandbox.log_directory).join("main.log");
        logs::wait_for_line(&log, "hello", DEADLINE).await?;
        let exec = async |client: &Client| client.exec(&id, &["true"], 10).await;
        ensure!(self.ask(exec).await?.exit_code == 0, "exec");
        if ["container.update", "container.reopen", "monitor.reopen"]
            .iter()
            .any(|it| point.starts_with(it))
        {
            self.ask(async |client| update(client, &id).await).await?;
            self.ask(async |client| reopen(client, &id).await).await?;
        }
        self.ask(async |client| client.stop(&id, 10).await).await?;
        let status = self
            .ask(async |client| client.container_status(&id).await)
            .await?;
        ensure!(
            status.state() == ContainerState::ContainerExited && status.exit_code == 7,
            "the container's own exit is not shown: {status:?}"
        );
        let hellos = logs::read(&log)?.len();
        ensure!(hellos == 1, "{hellos} lines in the log");
        self.ask(async |client| client.remove(&id).await).await
    }

    /// A session with a fault in it. A pod that does not survive it is replaced, as a kubelet would.
    async fn with_fault(&mut self, point: &str, order: &str) -> Result<()> {
        self.said.clear();
        self.attempt += 1;
        self.node.arm(point, order)?;
        if let Err(error) = self.session(point).await {
            self.said.push(format!("{error:#}"));
            self.clear().await?;
            self.attempt += 1;
            self.session(point).await.context("even a new pod fails")?;
        }
        ensure!(self.node.hit(point), "no session passes this point");
        let (pods, containers) = (
            self.ask(async |client| client.pods(None).await).await?,
            self.ask(async |client| client.containers(None).await)
                .await?,
        );
        ensure!(
            pods.is_empty() && containers.is_empty(),
            "{pods:?} {containers:?}"
        );
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        for pod in self.ask(async |client| client.pods(None).await).await? {
            self.ask(async |client| client.delete_pod(&pod.id).await)
                .await?;
        }
        let image = self.image.clone();
        self.ask(async |client| client.remove_image(&image).await)
            .await
    }

    /// The node without what says which daemon it is.
    fn snapshot(&self) -> Snapshot {
        let snapshot = self.node.snapshot();
        snapshot
            .only("processes", |line| !line.contains(" serve"))
            .only("descriptors", |_| false)
    }
}

/// A start whose answer was lost is not repeated by a kubelet that sees the container running.
async fn start(client: &Client, id: &str) -> Result<(), Status> {
    if client.container_status(id).await?.state() == ContainerState::ContainerRunning {
        return Ok(());
    }
    client.start(id).await
}

async fn update(client: &Client, id: &str) -> Result<(), Status> {
    let mut config = container("main", "");
    resources(&mut config).cpu_shares = 512;
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: config.linux.and_then(|linux| linux.resources),
        ..Default::default()
    };
    let mut runtime = client.runtime.clone();
    runtime.update_container_resources(request).await.map(drop)
}

async fn reopen(client: &Client, id: &str) -> Result<(), Status> {
    let request = cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    let mut runtime = client.runtime.clone();
    runtime.reopen_container_log(request).await.map(drop)
}

/// A kubelet whose node has seen every step, and what that node holds then.
async fn settled() -> Result<(Kubelet, Snapshot)> {
    let mut kubelet = Kubelet::new().await?;
    kubelet.session("pull.").await?;
    kubelet.session("").await?;
    let before = kubelet.snapshot();
    Ok((kubelet, before))
}

/// Goes over all points and tells of every one that does not go well, lest each costs a run of its own.
async fn go_over(parts: &[&str]) -> Result<()> {
    if settings::skips("only Husk has fault points") {
        return Ok(());
    }
    let (mut kubelet, mut before) = settled().await?;
    let mut wrong = Vec::new();
    for point in sources(parts)? {
        for order in orders(&point) {
            let result = kubelet.with_fault(&point.name, &order).await;
            let same = wait_for("all is as before", DEADLINE / 3, async || {
                before.assert_same(&kubelet.snapshot()).ok()
            });
            let same = same.await;
            let left = before.difference(&kubelet.snapshot());
            if let Err(error) = result.and(same.context(left)) {
                let said = kubelet.said.join("\n    ");
                let log = kubelet.node.log_tail(30);
                wrong.push(format!(
                    "{order} at {}: {error:#}\n    {said}\n{log}",
                    point.name
                ));
                // What is left now would be blamed on the next one.
                (kubelet, before) = settled().await?;
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} faults: {}",
        wrong.len(),
        wrong.join("\n\n")
    );
    Ok(())
}

#[tokio::test]
async fn every_step_of_the_daemon_may_fail_or_be_its_last() -> Result<()> {
    go_over(&["controller/src", "controller/image/src"]).await
}

#[tokio::test]
async fn every_step_of_a_monitor_may_fail_or_be_its_last() -> Result<()> {
    go_over(&["pod-monitor/src"]).await
}

/// Every step that waits: meanwhile another client is answered at once, and afterwards all goes on.
#[tokio::test]
async fn a_step_that_waits_holds_up_nobody_else() -> Result<()> {
    if settings::skips("only Husk has fault points") {
        return Ok(());
    }
    let (mut kubelet, before) = settled().await?;
    let other = kubelet.node.client().await?;
    let config = kubelet.node.host_pod("bystander");
    let bystander = other.run_pod(&config).await?;
    // At its start the daemon serves nobody yet.
    let serving = |point: &Point| !point.name.starts_with("adopt.");
    for point in sources(&["controller/src", "controller/image/src", "pod-monitor/src"])? {
        if !serving(&point) {
            continue;
        }
        let name = point.name.clone();
        kubelet.attempt += 1;
        kubelet.node.arm(&name, "wait")?;
        let node = kubelet.node.directory().join(fault_point::DIRECTORY);
        let look = async {
            let hit = node.join(format!("{name}.hit"));
            wait_for("the point is passed", DEADLINE, async || {
                hit.exists().then_some(())
            })
            .await?;
            // The step waits until it is told to go on, so that only an answer ends this.
            let asked = tokio::time::timeout(DEADLINE, async {
                other.pods(None).await?;
                other.containers(None).await?;
                other.pod_status(&bystander).await
            });
            let answered = asked.await;
            fs::write(node.join(format!("{name}.go")), "")?;
            answered.context("another client waits")??;
            Ok::<_, anyhow::Error>(())
        };
        let (session, looked) = tokio::join!(kubelet.session(&name), look);
        looked
            .and(session)
            .with_context(|| format!("a wait at {name}"))?;
    }
    other.delete_pod(&bystander).await?;
    before.assert_same(&kubelet.snapshot())
}
