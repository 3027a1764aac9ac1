//! How a sandbox is made and taken down, step by step.
//!
//! Making: directories and files, the monitor's cgroup, the monitor with its namespaces, the
//! network, the record. Each step that succeeded leaves behind how to undo it. Taking down goes past
//! errors, counts "already gone" as done, and reports all of what failed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use husk_cri_api::v1::{self, NamespaceMode};
use pod_monitor_client::schema::{Exit, IdMapping, Namespaces, StartConfig};
use pod_monitor_client::{Events, Monitor};

use super::{PodError, Recovered, Undo, files};
use crate::cgroup::MonitorCgroup;
use crate::container;
use crate::monitors::Trace;
use crate::network::{self, PodNetwork};
use crate::services::Services;
use crate::spec;
use crate::store::v1::{ContainerRecord, PodRecord};

/// The longest of the pauses in which a busy cgroup is waited for; together they are twice as long.
const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// 64 hexadecimal digits by the kernel's random source.
pub(crate) fn new_id() -> Result<String, PodError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| PodError::Io {
        operation: "reading random numbers for an id from",
        path: PathBuf::from("getrandom(2)"),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(hex::encode(bytes))
}

/// The namespace modes of a pod, with the CRI's defaults where nothing is said.
pub(crate) fn namespace_options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

/// What a pod's making needs from step to step.
struct Plan {
    id: String,
    config: v1::PodSandboxConfig,
    handler: String,
    parent: String,
    cgroup: MonitorCgroup,
    options: v1::NamespaceOption,
    hostname: String,
    sysctls: Vec<spec::Sysctl>,
}

/// Makes a sandbox, or nothing.
pub(super) async fn create(
    services: &Arc<Services>,
    config: v1::PodSandboxConfig,
    handler: String,
    trace: &Trace,
) -> Result<Recovered, PodError> {
    let plan = plan(services, config, handler)?;
    let mut undo = Undo::default();
    match build(services, &plan, &mut undo, trace).await {
        Ok(recovered) => Ok(recovered),
        Err(error) => Err(undo.run(error).await),
    }
}

fn plan(
    services: &Services,
    config: v1::PodSandboxConfig,
    handler: String,
) -> Result<Plan, PodError> {
    let invalid = |source| PodError::Spec {
        subject: subject(&config),
        source: Box::new(source),
    };
    spec::validate_sandbox(&config).map_err(invalid)?;
    let sysctls = spec::sysctls(&config).map_err(invalid)?;
    services
        .monitors
        .handlers
        .find(&handler)
        .map_err(|_| PodError::Handler {
            name: handler.clone(),
            known: services
                .monitors
                .handlers
                .names()
                .collect::<Vec<_>>()
                .join(", "),
        })?;
    let id = new_id()?;
    let requested = config
        .linux
        .as_ref()
        .map_or("", |linux| &linux.cgroup_parent);
    let parent = services.cgroups.parent(requested, &id);
    let options = namespace_options(&config);
    let host_network = options.network() == NamespaceMode::Node;
    let hostname = if host_network || config.hostname.is_empty() {
        services.host.hostname.clone()
    } else {
        config.hostname.clone()
    };
    Ok(Plan {
        cgroup: services.cgroups.monitor(&parent, &id),
        id,
        config,
        handler,
        parent,
        options,
        hostname,
        sysctls,
    })
}

fn subject(config: &v1::PodSandboxConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    format!("pod {}/{}", metadata.namespace, metadata.name)
}

async fn build(
    services: &Arc<Services>,
    plan: &Plan,
    undo: &mut Undo,
    trace: &Trace,
) -> Result<Recovered, PodError> {
    prepare(services, plan, undo)?;
    let (monitor, events) = start_monitor(services, plan, undo, trace).await?;
    let addresses = attach_network(services, plan, undo).await?;
    let record = PodRecord {
        id: plan.id.clone(),
        config: plan.config.clone(),
        handler: plan.handler.clone(),
        created_at: now(),
        ready: true,
        addresses,
        cgroup_parent: plan.parent.clone(),
        init_pid: monitor.welcome().pod_pid.unwrap_or_default(),
        reason: String::new(),
    };
    services
        .store
        .put_pod(&record)
        .await
        .map_err(|source| PodError::Store {
            id: plan.id.clone(),
            source,
        })?;
    Ok(Recovered {
        record,
        containers: Vec::new(),
        monitor: Some((monitor, events)),
        clean: false,
    })
}

/// Directories and files. All of it is on a tmpfs and takes microseconds.
fn prepare(services: &Arc<Services>, plan: &Plan, undo: &mut Undo) -> Result<(), PodError> {
    let directories = &services.directories;
    let run = directories.pod(&plan.id);
    {
        let (services, id) = (services.clone(), plan.id.clone());
        undo.push(async move { files::remove(&services.directories, &id) });
    }
    std::fs::create_dir_all(run.join("containers")).map_err(PodError::io("making", &run))?;
    let host_ipc = plan.options.ipc() == NamespaceMode::Node;
    files::make(
        directories,
        &plan.id,
        &plan.config,
        &plan.hostname,
        host_ipc,
    )?;
    if !plan.config.log_directory.is_empty() {
        let logs = PathBuf::from(&plan.config.log_directory);
        std::fs::create_dir_all(&logs).map_err(PodError::io("making", logs))?;
    }
    Ok(())
}

async fn start_monitor(
    services: &Arc<Services>,
    plan: &Plan,
    undo: &mut Undo,
    trace: &Trace,
) -> Result<(Monitor, Events), PodError> {
    {
        let (services, cgroup, parent) =
            (services.clone(), plan.cgroup.clone(), plan.parent.clone());
        undo.push(async move { remove_cgroup(&services, &cgroup, &parent).await });
    }
    let procs = services.cgroups.make(&plan.cgroup).map_err(PodError::io(
        "making the monitor's cgroup below",
        &plan.parent,
    ))?;
    let config = start_config(services, plan)?;
    let started = services.monitors.start(config, procs).await;
    let (monitor, events) = started.map_err(|source| PodError::Monitor {
        operation: "starting the monitor",
        subject: subject(&plan.config),
        source: Box::new(source),
    })?;
    let (own, monitor_end, trace) = (services.clone(), monitor.clone(), trace.clone());
    undo.push(async move {
        own.monitors.end(&monitor_end, &trace).await;
        Ok(())
    });
    if let (Some(systemd), MonitorCgroup::Scope { slice, name }) =
        (services.cgroups.systemd(), &plan.cgroup)
    {
        let limit = services.config.monitor.memory_limit.get();
        let started = systemd.start_scope(slice, name, monitor.pid(), limit).await;
        started.map_err(|source| PodError::Scope {
            id: plan.id.clone(),
            source: Box::new(source),
        })?;
    }
    Ok((monitor, events))
}

fn start_config(services: &Services, plan: &Plan) -> Result<StartConfig, PodError> {
    let handler = services
        .monitors
        .handlers
        .find(&plan.handler)
        .map_err(|_| PodError::Handler {
            name: plan.handler.clone(),
            known: String::new(),
        })?;
    let pod = |mode: NamespaceMode| mode == NamespaceMode::Pod;
    let network = pod(plan.options.network());
    let user = plan.options.userns_options.clone().unwrap_or_default();
    let mapped = pod(user.mode());
    let mappings = |list: &[v1::IdMapping]| {
        let list = if mapped { list } else { &[] };
        list.iter()
            .map(|mapping| IdMapping {
                container_id: mapping.container_id,
                host_id: mapping.host_id,
                length: mapping.length,
            })
            .collect()
    };
    Ok(StartConfig {
        id: plan.id.clone(),
        run_directory: services.directories.pod(&plan.id),
        runtime: handler.runtime_config(services.cgroups.systemd().is_some()),
        namespaces: Namespaces {
            net: network,
            ipc: pod(plan.options.ipc()),
            uts: network,
            pid: pod(plan.options.pid()),
            uid_mappings: mappings(&user.uids),
            gid_mappings: mappings(&user.gids),
        },
        hostname: if network {
            plan.hostname.clone()
        } else {
            String::new()
        },
        sysctls: plan
            .sysctls
            .iter()
            .map(|sysctl| (sysctl.path.replace('/', "."), sysctl.value.clone()))
            .collect(),
        ..StartConfig::default()
    })
}

async fn attach_network(
    services: &Arc<Services>,
    plan: &Plan,
    undo: &mut Undo,
) -> Result<Vec<String>, PodError> {
    if plan.options.network() != NamespaceMode::Pod {
        return Ok(Vec::new());
    }
    let request = pod_network(services, plan)?;
    let netns = request.netns.clone();
    let attachment =
        services
            .network
            .add(&request)
            .await
            .map_err(|source| PodError::NetworkAdd {
                id: plan.id.clone(),
                source: Box::new(source),
            })?;
    let (own, id) = (services.clone(), plan.id.clone());
    undo.push(async move {
        own.network
            .del(&id, Some(&netns))
            .await
            .map_err(|source| PodError::NetworkDel {
                id,
                source: Box::new(source),
            })
    });
    Ok(attachment.ips.iter().map(ToString::to_string).collect())
}

fn pod_network(services: &Services, plan: &Plan) -> Result<PodNetwork, PodError> {
    let metadata = plan.config.metadata.clone().unwrap_or_default();
    let invalid = |subject: &str, cause: String| PodError::Invalid {
        subject: subject.to_owned(),
        cause,
    };
    let bandwidth = network::Bandwidth::from_annotations(|key| {
        plan.config.annotations.get(key).map(String::as_str)
    })
    .map_err(|error| invalid("bandwidth annotation", error.to_string()))?;
    let dns = plan.config.dns_config.as_ref().map(|dns| network::Dns {
        servers: dns.servers.clone(),
        domain: None,
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    Ok(PodNetwork {
        pod_id: plan.id.clone(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        netns: services.directories.pod(&plan.id).join("ns/net"),
        port_mappings: port_mappings(&plan.config.port_mappings)?,
        bandwidth,
        dns,
        cgroup_path: Some(plan.parent.clone()),
        ..PodNetwork::default()
    })
}

fn port_mappings(wanted: &[v1::PortMapping]) -> Result<Vec<network::PortMapping>, PodError> {
    let mut mappings = Vec::new();
    for mapping in wanted.iter().filter(|mapping| mapping.host_port > 0) {
        let invalid = |cause: String| PodError::Invalid {
            subject: format!("port mapping to host port {}", mapping.host_port),
            cause,
        };
        let port = |value: i32| {
            u16::try_from(value).map_err(|_| invalid(format!("{value} is no port number")))
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| invalid(format!("{text:?} is no IP address")))?,
            ),
        };
        mappings.push(network::PortMapping {
            host_port: port(mapping.host_port)?,
            container_port: port(mapping.container_port)?,
            protocol: match mapping.protocol() {
                v1::Protocol::Tcp => network::Protocol::Tcp,
                v1::Protocol::Udp => network::Protocol::Udp,
                v1::Protocol::Sctp => network::Protocol::Sctp,
            },
            host_ip,
        });
    }
    Ok(mappings)
}

/// Removes the monitor's cgroup. The kernel keeps it busy for a moment after its last process was
/// seen to end, and tells nobody when that is over.
async fn remove_cgroup(
    services: &Services,
    cgroup: &MonitorCgroup,
    parent: &str,
) -> Result<(), PodError> {
    let mut pause = Duration::from_millis(1);
    loop {
        match services.cgroups.remove(cgroup, parent) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && pause < BUSY_LIMIT => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            other => {
                let failed = PodError::io("removing the monitor's cgroup below", parent);
                return other.map_err(failed);
            }
        }
    }
}

/// What a pod's stop works on.
pub(super) struct Stop {
    pub(super) services: Arc<Services>,
    pub(super) record: Arc<PodRecord>,
    pub(super) monitor: Option<Monitor>,
    /// The containers that are not known to have exited.
    pub(super) alive: Vec<Arc<ContainerRecord>>,
    pub(super) trace: Trace,
}

/// How a stop went.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) exits: Vec<(String, Exit)>,
    pub(super) monitor_ended: bool,
    pub(super) result: Result<(), PodError>,
}

/// Kills the containers, gives the network back, ends the monitor. The containers are killed while
/// the network plugins run: whoever stops a pod has stopped its containers gently before.
pub(super) async fn stop(stop: Stop) -> Stopped {
    let services = &stop.services;
    let netns = services.directories.pod(&stop.record.id).join("ns/net");
    let (exits, network) = tokio::join!(
        kill_all(&stop),
        services.network.del(&stop.record.id, Some(&netns))
    );
    let mut errors = Vec::new();
    if let Err(source) = network {
        errors.push(PodError::NetworkDel {
            id: stop.record.id.clone(),
            source: Box::new(source),
        });
    }
    let mut ended = Vec::new();
    for (id, exit) in exits {
        match exit {
            Ok(exit) => ended.push((id, exit)),
            Err(error) => errors.push(error),
        }
    }
    if let Some(monitor) = &stop.monitor {
        services.monitors.end(monitor, &stop.trace).await;
    }
    kill_leftovers(services, &stop.record, stop.alive.iter().map(|c| &c.id)).await;
    let cgroup = services
        .cgroups
        .monitor(&stop.record.cgroup_parent, &stop.record.id);
    let removed = remove_cgroup(services, &cgroup, &stop.record.cgroup_parent).await;
    errors.extend(removed.err());
    Stopped {
        exits: ended,
        monitor_ended: true,
        result: PodError::gathered(errors),
    }
}

async fn kill_all(stop: &Stop) -> Vec<(String, Result<Exit, PodError>)> {
    let Some(monitor) = &stop.monitor else {
        return Vec::new();
    };
    let kills = stop.alive.iter().map(|record| async {
        let exit = container::stop(monitor, record, Duration::ZERO, &stop.trace).await;
        (record.id.clone(), exit)
    });
    join_all(kills).await
}

/// Stops what still is, then removes containers, files and records.
pub(super) async fn remove(
    sandbox: Stop,
    containers: Vec<Arc<ContainerRecord>>,
) -> Result<(), PodError> {
    let services = sandbox.services.clone();
    let (record, trace) = (sandbox.record.clone(), sandbox.trace.clone());
    let mut errors = Vec::new();
    errors.extend(stop(sandbox).await.result.err());
    let removals = containers
        .iter()
        .map(|record| container::remove(&services, None, record, &trace));
    errors.extend(join_all(removals).await.into_iter().filter_map(Result::err));
    errors.extend(files::remove(&services.directories, &record.id).err());
    if errors.is_empty() {
        let deleted = services.store.delete_pod(&record.id).await;
        errors.extend(deleted.err().map(|source| PodError::Store {
            id: record.id.clone(),
            source,
        }));
    }
    PodError::gathered(errors)
}

/// Kills what is left in the cgroups of containers whose monitor died.
pub(super) async fn kill_leftovers<'a>(
    services: &Services,
    record: &PodRecord,
    containers: impl Iterator<Item = &'a String>,
) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for id in containers {
        for pid in services
            .cgroups
            .container_processes(&record.cgroup_parent, id)
        {
            if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                tracing::debug!(pid, container = %id, %error, "a leftover process is gone already");
            }
        }
    }
}

/// Removes what is left of a pod whose making was cut off, as far as its id tells.
pub(crate) async fn remove_half_made(services: &Services, id: &str) {
    let netns = services.directories.pod(id).join("ns/net");
    let mut errors = Vec::new();
    if let Err(source) = services.network.del(id, Some(&netns)).await {
        errors.push(PodError::NetworkDel {
            id: id.to_owned(),
            source: Box::new(source),
        });
    }
    errors.extend(files::remove(&services.directories, id).err());
    let parent = services.cgroups.parent("", id);
    let cgroup = services.cgroups.monitor(&parent, id);
    errors.extend(remove_cgroup(services, &cgroup, &parent).await.err());
    for error in errors {
        tracing::warn!(pod = %id, error = %crate::chain::chain(&error), "a half-made pod is not all removed");
    }
}
