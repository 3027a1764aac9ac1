//! The protocol as a whole: every call is answered, verbose statuses are JSON, a request's id goes all the way.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes};
use husk_tests::config::{bare_container, words};
use husk_tests::wait::DEADLINE;
use husk_tests::{BUSYBOX, Client, Node, Pod, container, cri, wait_for};
use serde_json::Value;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

/// The calls that are not built yet. One that is takes its name off this list and off README's.
const LATER: &[&str] = &["CheckpointPod", "RestorePod"];

/// Messages as the bytes that they are, so that a call needs no type.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Every call of the protocol as `(path, name)`, from the protocol's own file.
fn calls() -> Result<Vec<(String, String)>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/cri-api/proto");
    let files = protox::compile(["cri.proto"], [proto])?.file;
    let mut calls = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                calls.push((path, method.name().to_owned()));
            }
        }
    }
    Ok(calls)
}

/// Calls with an empty message, and waits for the answer's beginning: streams need not end.
async fn call(client: &Client, path: &str) -> Result<Result<(), Status>> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.context("the connection")?;
    let answer = grpc.server_streaming(Request::new(Bytes::new()), path.parse()?, Raw);
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    Ok(answer
        .with_context(|| format!("{path} was not answered"))?
        .map(drop))
}

#[tokio::test]
async fn every_call_of_the_protocol_is_answered_and_the_later_ones_name_themselves() -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("only Husk promises this") {
        return Ok(());
    }
    let client = node.client().await?;
    let calls = calls()?;
    ensure!(calls.len() >= 43, "only {} calls were found", calls.len());
    let mut later = BTreeSet::new();
    for (path, name) in &calls {
        match call(&client, path).await? {
            Err(status) if status.code() == Code::Unimplemented => {
                ensure!(
                    status.message().contains(name.as_str()),
                    "{name} does not name itself: {status}"
                );
                later.insert(name.as_str());
            }
            // What an empty message may meet: success, or a refusal that says what is missing.
            Err(status) => {
                let fits = [Code::InvalidArgument, Code::NotFound].contains(&status.code());
                ensure!(fits && !status.message().is_empty(), "{name}: {status}");
            }
            Ok(()) => {}
        }
    }
    assert_eq!(later, LATER.iter().copied().collect());
    Ok(())
}

#[tokio::test]
async fn the_pod_cidr_is_taken_and_noted() -> Result<()> {
    let node = Node::shared().await?;
    if node.skips("only Husk promises this") {
        return Ok(());
    }
    let network = cri::NetworkConfig {
        pod_cidr: "10.77.0.0/24".to_owned(),
    };
    let config = cri::RuntimeConfig {
        network_config: Some(network),
    };
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(config),
    };
    node.client()
        .await?
        .runtime
        .update_runtime_config(request)
        .await?;
    let log = node.log_tail(1000);
    ensure!(
        log.contains("10.77.0.0/24"),
        "the CIDR is not in the log: {log}"
    );
    Ok(())
}

fn json(info: &std::collections::HashMap<String, String>, name: &str) -> Result<Value> {
    let text = info
        .get(name)
        .with_context(|| format!("{name} in {info:?}"))?;
    serde_json::from_str(text).with_context(|| format!("{name} is not JSON: {text}"))
}

/// Fails unless `value` has something at each of the JSON pointers, which blanks separate.
fn has(value: &Value, pointers: &str) -> Result<()> {
    for pointer in pointers.split_whitespace() {
        let found = value.pointer(pointer).is_some_and(|it| !it.is_null());
        ensure!(found, "{pointer} in {value}");
    }
    Ok(())
}

#[tokio::test]
async fn the_verbose_status_of_node_and_image_is_json_with_what_an_operator_asks_for() -> Result<()>
{
    let node = Node::shared().await?;
    if node.skips("only Husk's names are known") {
        return Ok(());
    }
    let client = node.client().await?;
    let status = client.status().await?.info;
    let husk = json(&status, "husk")?;
    has(
        &husk,
        "/version /defaultHandler /pods /root /run /kernel /cgroupVersion",
    )?;
    let config = json(&status, "config")?;
    has(
        &config,
        "/socket /runtime/handlers/crun/path /network/conf_dir /image/pinned",
    )?;

    let image = Some(husk_tests::config::image_spec(BUSYBOX));
    let request = cri::ImageStatusRequest {
        image,
        verbose: true,
    };
    let answer = client
        .images
        .clone()
        .image_status(request)
        .await?
        .into_inner();
    has(&json(&answer.info, "info")?, "/imageSpec/config/Env")?;
    Ok(())
}

#[tokio::test]
async fn verbose_statuses_of_pods_are_json_with_what_an_operator_asks_for() -> Result<()> {
    let pod = Pod::on_network("verbose").await?;
    if pod.node.skips("only Husk's names are known") {
        return pod.delete().await;
    }
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let mut runtime = pod.client.runtime.clone();

    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let answer = runtime.pod_sandbox_status(request).await?.into_inner();
    let info = json(&answer.info, "info")?;
    has(
        &info,
        "/monitorPid /runDirectory /networkNamespace /cgroupParent",
    )?;
    let monitors = husk_tests::process::monitors(&pod.id);
    assert_eq!(
        info["monitorPid"].as_u64(),
        monitors.first().map(|it| u64::from(it.pid))
    );

    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let answer = runtime.container_status(request).await?.into_inner();
    let info = json(&answer.info, "info")?;
    has(
        &info,
        "/pid /bundle /runtimeSpec/process/args /runtimeSpec/linux/cgroupsPath",
    )?;
    assert_eq!(info["sandboxID"], pod.id.as_str());

    let request = cri::ContainerStatusRequest {
        container_id: id,
        verbose: false,
    };
    assert!(
        runtime
            .container_status(request)
            .await?
            .into_inner()
            .info
            .is_empty()
    );
    pod.delete().await
}

#[tokio::test]
async fn a_requests_id_is_in_the_controllers_line_and_in_the_monitors() -> Result<()> {
    let pod = Pod::on_host("request-id").await?;
    if pod.node.skips("only Husk's log is known") {
        return pod.delete().await;
    }
    let mut config = bare_container("main", BUSYBOX);
    config.command = words(&["/no/such/command"]);
    let name = format!("e2e-{}", pod.id);
    let mut runtime = pod.client.runtime.clone();
    let mut request = Request::new(cri::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config),
        sandbox_config: Some(pod.config.clone()),
    });
    request.metadata_mut().insert("x-request-id", name.parse()?);
    // An OCI runtime finds out that there is no such program when it makes or when it starts the container.
    if let Ok(created) = runtime.create_container(request).await {
        let container_id = created.into_inner().container_id;
        let mut request = Request::new(cri::StartContainerRequest { container_id });
        request.metadata_mut().insert("x-request-id", name.parse()?);
        ensure!(
            runtime.start_container(request).await.is_err(),
            "a program that is not there was started"
        );
    }
    let lines = wait_for("the request's id in both logs", DEADLINE, async || {
        let log = pod.node.log_tail(1000);
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(&name))
            .map(str::to_owned)
            .collect();
        let (monitor, controller): (Vec<_>, Vec<_>) = lines
            .iter()
            .cloned()
            .partition(|line| line.starts_with("pod-monitor: "));
        (!monitor.is_empty() && !controller.is_empty()).then_some((monitor, controller))
    })
    .await?;
    for line in lines.0.iter().chain(&lines.1) {
        ensure!(
            line.contains("/no/such/command"),
            "another line than that of the failure: {line}"
        );
    }
    pod.delete().await
}
