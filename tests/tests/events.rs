//! Container events (KEP-3386): order, fields, times, and subscribers that do not disturb each other.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use husk_tests::client::expect_error;
use husk_tests::config::namespaces;
use husk_tests::cri::ContainerEventType as Kind;
use husk_tests::cri::{self, ContainerState, NamespaceMode, PodSandboxState};
use husk_tests::process::wait_for_reaped;
use husk_tests::wait::DEADLINE;
use husk_tests::{Client, Node, NodeOptions, Pod, container, settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::{JoinError, JoinHandle};
use tonic::{Code, Status};

type Events = tonic::Streaming<cri::ContainerEventResponse>;

/// One subscription, as a kubelet has it.
enum Listener {
    /// Some runtimes do not answer at all before there is an event.
    Asked(JoinHandle<Result<Events, Status>>),
    Answered(Box<Events>),
}

impl Listener {
    async fn new(client: &Client) -> Result<Self> {
        let mut runtime = client.runtime.clone();
        let mut call = tokio::spawn(async move {
            let answer = runtime
                .get_container_events(cri::GetEventsRequest {})
                .await?;
            Ok(answer.into_inner())
        });
        if settings::endpoint().is_none() {
            return Ok(Self::Answered(Box::new(call.await??)));
        }
        // Nothing else says when another runtime has the subscription.
        match tokio::time::timeout(Duration::from_secs(1), &mut call).await {
            Ok(answer) => Ok(Self::Answered(Box::new(answer??))),
            Err(_elapsed) => Ok(Self::Asked(call)),
        }
    }

    async fn message(&mut self) -> Result<Option<cri::ContainerEventResponse>, Status> {
        if let Self::Asked(call) = self {
            let ended = |error: JoinError| Status::internal(error.to_string());
            *self = Self::Answered(Box::new(call.await.map_err(ended)??));
        }
        match self {
            Self::Answered(events) => events.message().await,
            Self::Asked(_) => Err(Status::internal("not answered")),
        }
    }

    async fn next(&mut self) -> Result<cri::ContainerEventResponse, Status> {
        let late = |_elapsed| Status::deadline_exceeded("no event came");
        let message = tokio::time::timeout(DEADLINE, self.message()).await;
        let message = message.map_err(late)??;
        message.ok_or_else(|| Status::cancelled("the stream ended without a status"))
    }

    /// The events of one pod up to the one that is `last`.
    async fn of_pod(
        &mut self,
        pod: &str,
        last: (&str, Kind),
    ) -> Result<Vec<cri::ContainerEventResponse>> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await?;
            let status = event.pod_sandbox_status.as_ref();
            if status.is_none_or(|status| status.id != pod) {
                continue;
            }
            let found = (event.container_id.as_str(), event.container_event_type());
            let end = found == last;
            events.push(event);
            if end {
                return Ok(events);
            }
        }
    }
}

fn kinds(events: &[cri::ContainerEventResponse]) -> Vec<(&str, Kind)> {
    events
        .iter()
        .map(|event| (event.container_id.as_str(), event.container_event_type()))
        .collect()
}

/// What every event must have, whatever it tells of.
fn assert_whole(events: &[cri::ContainerEventResponse], config: &cri::PodSandboxConfig) {
    let mut last = 0;
    for event in events {
        assert!(event.created_at > last, "times do not rise: {events:?}");
        last = event.created_at;
        let status = event.pod_sandbox_status.clone().unwrap_or_default();
        assert_eq!(status.metadata, config.metadata);
        assert_eq!(status.annotations, config.annotations);
    }
}

/// The state of a container in an event.
fn state_in(event: &cri::ContainerEventResponse, id: &str) -> Option<ContainerState> {
    let mut statuses = event.containers_statuses.iter();
    statuses.find(|status| status.id == id).map(|it| it.state())
}

/// A pod's whole life with one container, and its events.
struct Life {
    config: cri::PodSandboxConfig,
    pod: String,
    main: String,
}

impl Life {
    async fn live(node: &Node, client: &Client, name: &str) -> Result<Self> {
        let mut config = node.host_pod(name);
        config.annotations.insert("a/b".into(), "c".into());
        let pod = client.run_pod(&config).await?;
        let main = client
            .launch(&pod, &config, container("main", "exit 7"))
            .await?;
        client.wait_exit(&main).await?;
        client.remove(&main).await?;
        client.delete_pod(&pod).await?;
        Ok(Self { config, pod, main })
    }

    fn expected(&self) -> Vec<(&str, Kind)> {
        let (pod, main) = (self.pod.as_str(), self.main.as_str());
        vec![
            (pod, Kind::ContainerCreatedEvent),
            (pod, Kind::ContainerStartedEvent),
            (main, Kind::ContainerCreatedEvent),
            (main, Kind::ContainerStartedEvent),
            (main, Kind::ContainerStoppedEvent),
            (main, Kind::ContainerDeletedEvent),
            (pod, Kind::ContainerStoppedEvent),
            (pod, Kind::ContainerDeletedEvent),
        ]
    }
}

#[tokio::test]
async fn a_life_is_told_in_order_to_two_subscribers() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let mut first = Listener::new(&client).await?;
    let mut second = Listener::new(&node.client().await?).await?;
    let life = Life::live(&node, &client, "told").await?;
    let last = (life.pod.as_str(), Kind::ContainerDeletedEvent);
    let events = first.of_pod(&life.pod, last).await?;
    assert_eq!(kinds(&events), life.expected());
    assert_whole(&events, &life.config);
    assert_eq!(second.of_pod(&life.pod, last).await?, events);

    let states: Vec<_> = events
        .iter()
        .map(|event| state_in(event, &life.main))
        .collect();
    let (created, running, exited) = (
        Some(ContainerState::ContainerCreated),
        ContainerState::ContainerRunning,
        Some(ContainerState::ContainerExited),
    );
    assert_eq!(states[2], created);
    assert!(
        states[3] == Some(running) || states[3] == exited,
        "{states:?}"
    );
    assert_eq!(states[4], exited);
    assert_eq!((states[1], states[5], states[7]), (None, None, None));
    let ended = &events[4].containers_statuses[0];
    assert_eq!((ended.exit_code, ended.finished_at > 0), (7, true));
    let ready: Vec<_> = events
        .iter()
        .filter_map(|event| event.pod_sandbox_status.as_ref())
        .map(|status| status.state() == PodSandboxState::SandboxReady)
        .collect();
    assert_eq!(ready, [true, true, true, true, true, true, false, false]);
    Ok(())
}

#[tokio::test]
async fn removing_a_running_pod_tells_of_every_end() -> Result<()> {
    let pod = Pod::on_host("removed-running").await?;
    let client = &pod.client;
    let main = pod.launch(container("main", "exec sleep 600")).await?;
    let idle = pod.create(container("idle", "true")).await?;
    let mut listener = Listener::new(client).await?;
    let before = client.pod_status(&pod.id).await?;
    client.remove_pod(&pod.id).await?;
    let last = (pod.id.as_str(), Kind::ContainerDeletedEvent);
    let events = listener.of_pod(&pod.id, last).await?;
    assert_whole(&events, &pod.config);
    let kinds = kinds(&events);
    let at = |id: &str, kind| kinds.iter().position(|it| *it == (id, kind));
    let stopped = at(&pod.id, Kind::ContainerStoppedEvent);
    for id in [&main, &idle] {
        assert!(at(id, Kind::ContainerStoppedEvent) < stopped, "{kinds:?}");
        assert!(at(id, Kind::ContainerStoppedEvent).is_some(), "{kinds:?}");
        assert!(at(id, Kind::ContainerDeletedEvent) > stopped, "{kinds:?}");
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    let uid = |status: &cri::PodSandboxStatus| status.metadata.clone().map(|it| it.uid);
    let end = events
        .last()
        .and_then(|event| event.pod_sandbox_status.clone());
    assert_eq!(end.as_ref().and_then(uid), uid(&before));
    Ok(())
}

#[tokio::test]
async fn a_container_that_dies_before_its_start_has_an_end_and_cannot_be_started() -> Result<()> {
    let pod = Pod::on_host("never-started").await?;
    let mut listener = Listener::new(&pod.client).await?;
    if pod.node.skips("peers do not name the process") {
        return pod.delete().await;
    }
    let id = pod.create(container("main", "exec sleep 600")).await?;
    let status = pod.client.verbose_container_status(&id).await?;
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    let process = i32::try_from(info["pid"].as_i64().context("no pid")?)?;
    kill(Pid::from_raw(process), Signal::SIGKILL)?;
    let last = (id.as_str(), Kind::ContainerStoppedEvent);
    let events = listener.of_pod(&pod.id, last).await?;
    let expected = [Kind::ContainerCreatedEvent, Kind::ContainerStoppedEvent];
    let of_container: Vec<_> = kinds(&events).into_iter().filter(|it| it.0 == id).collect();
    assert_eq!(of_container, expected.map(|kind| (id.as_str(), kind)));
    let late = pod.client.start(&id).await;
    expect_error(late, &[Code::FailedPrecondition], &["exited"])?;
    pod.delete().await
}

#[tokio::test]
async fn one_that_does_not_read_is_ended_and_hinders_nobody() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let stalled_client = node.client().await?;
    let mut stalled = Listener::new(&stalled_client).await?;
    let mut reader = Listener::new(&client).await?;
    // Large events fill what the connection holds, small ones the queue behind it.
    let (enough, mut last) = (360, String::new());
    for number in 0..enough {
        let mut config = node.host_pod(&format!("stall-{number}"));
        config.annotations = HashMap::from([("filler".to_owned(), "x".repeat(64 << 10))]);
        last = client.run_pod(&config).await?;
        client.delete_pod(&last).await?;
        let events = reader.of_pod(&last, (&last, Kind::ContainerDeletedEvent));
        ensure!(events.await?.len() == 4, "the reader misses events");
    }
    let mut read = 0;
    let end = loop {
        match stalled.next().await {
            Ok(event) if event.container_id == last => bail!("it was not ended in time"),
            Ok(_event) => read += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    assert!(read < enough * 4, "nothing was lost");
    let mut again = Listener::new(&stalled_client).await?;
    let pod = client.run_pod(&node.host_pod("after-stall")).await?;
    let started = (pod.as_str(), Kind::ContainerStartedEvent);
    assert_eq!(again.of_pod(&pod, started).await?.len(), 2);
    Ok(client.delete_pod(&pod).await?)
}

#[tokio::test]
async fn an_exit_while_the_daemon_is_down_is_told_on_return() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        told_on_return(signal).await?;
    }
    Ok(())
}

async fn told_on_return(signal: Signal) -> Result<()> {
    let node = std::sync::Arc::new(Node::start(NodeOptions::default()).await?);
    let mut config = node.host_pod("away");
    namespaces(&mut config).pid = NamespaceMode::Container.into();
    let mut pod = Pod::run(node.clone(), config).await?;
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; exit 33";
    let leaver = pod.launch(container("leaver", script)).await?;
    let stays = pod.launch(container("stays", "exec sleep 600")).await?;
    let pid = leaver_pid(&pod, &leaver).await?;
    node.end_daemon(signal)?;
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "")?;
    wait_for_reaped(u32::try_from(pid)?, DEADLINE).await?;
    let down_until = jiff::Timestamp::now().as_nanosecond();
    node.launch().await?;
    pod.client = node.client().await?;
    // The subscriber comes after recovery, like every subscriber.
    let mut listener = Listener::new(&pod.client).await?;
    let stopped = (leaver.as_str(), Kind::ContainerStoppedEvent);
    let events = listener.of_pod(&pod.id, stopped).await?;
    assert_eq!(kinds(&events), [stopped]);
    let statuses = &events[0].containers_statuses;
    let left = statuses
        .iter()
        .find(|it| it.id == leaver)
        .context("absent")?;
    assert_eq!(left.exit_code, 33);
    assert!(
        i128::from(left.finished_at) < down_until,
        "not its own time"
    );
    let running = Some(ContainerState::ContainerRunning);
    assert_eq!(state_in(&events[0], &stays), running);
    pod.client.remove(&leaver).await?;
    let deleted = (leaver.as_str(), Kind::ContainerDeletedEvent);
    let after = listener.of_pod(&pod.id, deleted).await?;
    assert_eq!(kinds(&after), [deleted]);
    assert!(after[0].created_at > events[0].created_at);
    pod.delete().await
}

async fn leaver_pid(pod: &Pod, id: &str) -> Result<u64> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let answer = pod.client.runtime.clone().container_status(request).await?;
    let info: serde_json::Value = serde_json::from_str(&answer.into_inner().info["info"])?;
    info["pid"].as_u64().context("no pid")
}

#[tokio::test]
async fn an_exit_is_told_at_once() -> Result<()> {
    let pod = Pod::on_host("prompt").await?;
    let mut listener = Listener::new(&pod.client).await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    pod.client.stop(&id, 0).await?;
    let stopped = (id.as_str(), Kind::ContainerStoppedEvent);
    let events = listener.of_pod(&pod.id, stopped).await?;
    let event = events.last().context("no event")?;
    let status = event.containers_statuses.iter().find(|it| it.id == id);
    let finished = status.context("absent")?.finished_at;
    // Generous: the budget itself is the benchmark's.
    let delay = Duration::from_nanos(u64::try_from(event.created_at - finished)?);
    assert!(
        delay < Duration::from_secs(1) * settings::patience(),
        "{delay:?}"
    );
    pod.delete().await
}
