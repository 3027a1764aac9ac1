//! `husk status`: pods, their containers, and their monitors with the memory that each costs.
//!
//! Pods and containers come from the CRI, monitors from the admin service, and the memory from the
//! kernel, read here: the daemon does no work for it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::arguments::Output;
use super::daemon::Daemon;
use super::table::{age, columns, row, short, size};
use super::{Failure, write_json};
use crate::admin::v1 as admin;
use crate::config::Config;
use husk_cri_api::v1 as cri;

/// A pod with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Pod {
    id: String,
    namespace: String,
    name: String,
    attempt: u32,
    ready: bool,
    /// Nanoseconds since 1970.
    created_at: i64,
    monitor: Option<Monitor>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Monitor {
    pid: u32,
    /// Memory that no other process shares, in bytes; unknown when the process is gone or is not
    /// ours to look into.
    private_bytes: Option<u64>,
    /// How often another monitor had to take the pod over.
    restarts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Container {
    id: String,
    name: String,
    attempt: u32,
    state: &'static str,
    image: String,
    /// Nanoseconds since 1970.
    created_at: i64,
}

pub(super) async fn run(
    config: &Config,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let daemon = Daemon::connect(config).await?;
    let pods = assemble(
        list_pods(&daemon).await?,
        list_containers(&daemon).await?,
        &list_monitors(&daemon).await?,
    );
    if output.json {
        return write_json(&pods, out);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    out.write_all(show(&pods, now).as_bytes())?;
    Ok(())
}

async fn list_pods(daemon: &Daemon) -> Result<Vec<cri::PodSandbox>, Failure> {
    let request = cri::ListPodSandboxRequest::default();
    let answer = daemon.runtime().list_pod_sandbox(request).await;
    Ok(answer
        .map_err(Failure::call("listing pods"))?
        .into_inner()
        .items)
}

async fn list_containers(daemon: &Daemon) -> Result<Vec<cri::Container>, Failure> {
    let request = cri::ListContainersRequest::default();
    let answer = daemon.runtime().list_containers(request).await;
    let answer = answer.map_err(Failure::call("listing containers"))?;
    Ok(answer.into_inner().items)
}

/// Monitors by pod, with the memory of each.
async fn list_monitors(daemon: &Daemon) -> Result<BTreeMap<String, Monitor>, Failure> {
    let answer = daemon.admin().monitors(admin::MonitorsRequest {}).await;
    let answer = answer
        .map_err(Failure::call("listing monitors"))?
        .into_inner();
    let with_memory = |monitor: admin::Monitor| {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", monitor.pid));
        let measured = Monitor {
            pid: monitor.pid,
            private_bytes: text.ok().and_then(|text| private_bytes(&text)),
            restarts: monitor.restarts,
        };
        (monitor.pod_id, measured)
    };
    Ok(answer.monitors.into_iter().map(with_memory).collect())
}

/// The private memory in the text of `/proc/PID/smaps_rollup` (`proc_pid_smaps(5)`), in bytes.
fn private_bytes(text: &str) -> Option<u64> {
    let mut total = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if matches!(name, "Private_Clean" | "Private_Dirty" | "Private_Hugetlb") {
            let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            total = Some(total.unwrap_or(0) + kib * 1024);
        }
    }
    total
}

/// Containers and monitors under their pods; the newest pod is last.
fn assemble(
    pods: Vec<cri::PodSandbox>,
    containers: Vec<cri::Container>,
    monitors: &BTreeMap<String, Monitor>,
) -> Vec<Pod> {
    let mut by_pod: BTreeMap<String, Vec<Container>> = BTreeMap::new();
    for container in containers {
        let pod = container.pod_sandbox_id.clone();
        by_pod
            .entry(pod)
            .or_default()
            .push(self::container(container));
    }
    let mut assembled: Vec<Pod> = pods
        .into_iter()
        .map(|pod| {
            let mut containers = by_pod.remove(&pod.id).unwrap_or_default();
            containers.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            self::pod(pod, containers, monitors)
        })
        .collect();
    assembled.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    assembled
}

fn pod(
    pod: cri::PodSandbox,
    containers: Vec<Container>,
    monitors: &BTreeMap<String, Monitor>,
) -> Pod {
    let metadata = pod.metadata.clone().unwrap_or_default();
    Pod {
        ready: pod.state() == cri::PodSandboxState::SandboxReady,
        monitor: monitors.get(&pod.id).cloned(),
        id: pod.id,
        namespace: metadata.namespace,
        name: metadata.name,
        attempt: metadata.attempt,
        created_at: pod.created_at,
        containers,
    }
}

fn container(container: cri::Container) -> Container {
    let metadata = container.metadata.clone().unwrap_or_default();
    let state = match container.state() {
        cri::ContainerState::ContainerCreated => "created",
        cri::ContainerState::ContainerRunning => "running",
        cri::ContainerState::ContainerExited => "exited",
        cri::ContainerState::ContainerUnknown => "unknown",
    };
    Container {
        state,
        image: image(&container),
        id: container.id,
        name: metadata.name,
        attempt: metadata.attempt,
        created_at: container.created_at,
    }
}

/// The image as its pod names it; by id when the CRI client left nothing better.
fn image(container: &cri::Container) -> String {
    let spec = container.image.clone().unwrap_or_default();
    let names = [spec.user_specified_image, spec.image];
    let named = names.into_iter().find(|name| !name.is_empty());
    named.unwrap_or_else(|| short(&container.image_id))
}

fn show(pods: &[Pod], now: u64) -> String {
    let mut rows = vec![row(&[
        "ID", "NAME", "STATE", "AGE", "MONITOR", "MEMORY", "IMAGE",
    ])];
    for pod in pods {
        rows.push(pod_row(pod, now));
        rows.extend(
            pod.containers
                .iter()
                .map(|container| container_row(container, now)),
        );
    }
    format!("{}\n{}\n", columns(&rows), summary(pods))
}

fn pod_row(pod: &Pod, now: u64) -> Vec<String> {
    let monitor = pod.monitor.as_ref();
    vec![
        short(&pod.id),
        format!("{}/{}", pod.namespace, pod.name),
        if pod.ready { "ready" } else { "not ready" }.to_owned(),
        age(now, pod.created_at),
        monitor.map_or_else(|| "-".to_owned(), monitor_cell),
        monitor
            .and_then(|monitor| monitor.private_bytes)
            .map_or_else(|| "-".to_owned(), size),
    ]
}

/// Its process, and whether it is not the first that the pod has.
fn monitor_cell(monitor: &Monitor) -> String {
    match monitor.restarts {
        0 => monitor.pid.to_string(),
        restarts => format!("{} ({restarts} lost)", monitor.pid),
    }
}

fn container_row(container: &Container, now: u64) -> Vec<String> {
    vec![
        format!("  {}", short(&container.id)),
        format!("  {}", container.name),
        container.state.to_owned(),
        age(now, container.created_at),
        String::new(),
        String::new(),
        container.image.clone(),
    ]
}

fn summary(pods: &[Pod]) -> String {
    let containers: usize = pods.iter().map(|pod| pod.containers.len()).sum();
    let monitors: Vec<&Monitor> = pods.iter().filter_map(|pod| pod.monitor.as_ref()).collect();
    let private: u64 = monitors
        .iter()
        .filter_map(|monitor| monitor.private_bytes)
        .sum();
    format!(
        "{}, {}, {} with {} of their own",
        counted(pods.len(), "pod"),
        counted(containers, "container"),
        counted(monitors.len(), "monitor"),
        size(private)
    )
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn sandbox(id: &str, name: &str, created: i64) -> cri::PodSandbox {
        cri::PodSandbox {
            id: id.to_owned(),
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                ..Default::default()
            }),
            created_at: created * SECOND,
            ..Default::default()
        }
    }

    fn running(id: &str, pod: &str, name: &str) -> cri::Container {
        cri::Container {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            state: cri::ContainerState::ContainerRunning.into(),
            image_id: "sha256:0123456789abcdef".to_owned(),
            created_at: 40 * SECOND,
            ..Default::default()
        }
    }

    fn example() -> Vec<Pod> {
        let mut gone = sandbox("bbbbbbbbbbbbbbbb", "job", 10);
        gone.state = cri::PodSandboxState::SandboxNotready.into();
        let pods = vec![sandbox("aaaaaaaaaaaaaaaa", "web", 40), gone];
        let mut named = running("cccccccccccccccc", "aaaaaaaaaaaaaaaa", "nginx");
        named.image = Some(cri::ImageSpec {
            image: "nginx:1".to_owned(),
            ..Default::default()
        });
        let containers = vec![
            running("dddddddddddddddd", "aaaaaaaaaaaaaaaa", "side"),
            named,
        ];
        let monitor = Monitor {
            pid: 4242,
            private_bytes: Some(180 * 1024),
            restarts: 1,
        };
        let monitors = BTreeMap::from([("aaaaaaaaaaaaaaaa".to_owned(), monitor)]);
        assemble(pods, containers, &monitors)
    }

    #[test]
    fn the_table_has_containers_below_their_pod() {
        let expected = "\
ID              NAME         STATE      AGE  MONITOR        MEMORY     IMAGE
bbbbbbbbbbbb    default/job  not ready  50s  -              -
aaaaaaaaaaaa    default/web  ready      20s  4242 (1 lost)  180.0 KiB
  cccccccccccc    nginx      running    20s                            nginx:1
  dddddddddddd    side       running    20s                            0123456789ab

2 pods, 2 containers, 1 monitor with 180.0 KiB of their own
";
        assert_eq!(show(&example(), 60), expected);
    }

    #[test]
    fn the_json_has_full_ids_and_numbers() {
        let json = serde_json::to_value(example()).expect("JSON");
        assert_eq!(json[1]["id"], "aaaaaaaaaaaaaaaa");
        assert_eq!(json[1]["monitor"]["private_bytes"], 184_320);
        assert_eq!(json[1]["containers"][0]["state"], "running");
        assert_eq!(json[0]["monitor"], serde_json::Value::Null);
        assert_eq!(json[0]["ready"], false);
    }

    #[test]
    fn nothing_is_shown_as_nothing() {
        let text = show(&[], 0);
        assert!(
            text.ends_with("0 pods, 0 containers, 0 monitors with 0 B of their own\n"),
            "{text}"
        );
    }

    #[test]
    fn private_memory_is_the_sum_of_what_is_not_shared() {
        let rollup = "00400000-7fff r--p 00000000 00:00 0    [rollup]\nRss: 712 kB\nPss:  76 kB\n\
                      Shared_Clean: 600 kB\nPrivate_Clean:        4 kB\nPrivate_Dirty:       60 kB\n\
                      Private_Hugetlb: 0 kB\n";
        assert_eq!(private_bytes(rollup), Some(64 * 1024));
        assert_eq!(private_bytes(""), None);
        assert_eq!(private_bytes("Private_Clean: much"), None);
    }
}
