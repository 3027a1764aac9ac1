//! How a sandbox is made, step by step.
//!
//! Directories and files, the monitor's cgroup, the monitor with its namespaces, the network, the
//! record. Each step leaves behind how to undo it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use husk_cri_api::v1::{self, NamespaceMode};
use husk_nri::api::Event;
use pod_monitor_client::schema::{IdMapping, Namespaces, StartConfig, to_bytes};
use pod_monitor_client::{Events, Monitor};

use super::attachment::{self, Candidate};
use super::teardown::remove_cgroup;
use super::{News, Recovered, files};
use crate::cgroup::MonitorCgroup;
use crate::clock::now;
use crate::error::PodError;
use crate::fault;
use crate::id::new_id;
use crate::monitors::{self, Trace};
use crate::nri::Subject;
use crate::services::Services;
use crate::spec::{self, SpecError, namespace_options};
use crate::store::v1::{PodRecord, pack};
use crate::undo::Undo;

/// What a pod's making needs from step to step.
struct Plan {
    id: String,
    config: v1::PodSandboxConfig,
    handler: String,
    parent: String,
    monitor_parent: String,
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
    let sysctls = sysctls(services, &config).map_err(invalid)?;
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
    let checked = services.cgroups.check_parent(requested);
    checked.map_err(|error| PodError::Invalid {
        subject: "linux.cgroup_parent".into(),
        cause: error.to_string(),
    })?;
    let parent = services.cgroups.parent(requested, &id);
    let monitor_parent = services.cgroups.monitor_parent(&parent);
    let options = namespace_options(&config);
    let host_network = options.network() == NamespaceMode::Node;
    let hostname = if host_network || config.hostname.is_empty() {
        services.host.hostname.clone()
    } else {
        config.hostname.clone()
    };
    Ok(Plan {
        cgroup: services.cgroups.monitor(&monitor_parent, &id),
        monitor_parent,
        id,
        config,
        handler,
        parent,
        options,
        hostname,
        sysctls,
    })
}

/// The pod's kernel parameters, over the configured ones of the namespaces that the pod has.
fn sysctls(
    services: &Services,
    config: &v1::PodSandboxConfig,
) -> Result<Vec<spec::Sysctl>, SpecError> {
    let options = namespace_options(config);
    let mut with_defaults = config.clone();
    let sysctls = &mut with_defaults.linux.get_or_insert_default().sysctls;
    for (name, value) in &services.config.defaults.sysctls.0 {
        let namespace = if name.starts_with("net.") {
            options.network()
        } else {
            options.ipc()
        };
        if namespace == NamespaceMode::Pod && !sysctls.contains_key(name) {
            sysctls.insert(name.clone(), value.clone());
        }
    }
    spec::sysctls(&with_defaults)
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
    let config = start_config(services, plan)?;
    let (monitor, events) = start_monitor(services, plan, undo, (&config, trace)).await?;
    // Neither needs the other. Both are waited for, since a network that is cut off stays half-made.
    let (scope, addresses) = futures::join!(
        start_scope(services, &plan.cgroup, &plan.id, &monitor),
        attach_network(services, plan, undo),
    );
    let addresses = match (scope, addresses) {
        (Ok(()), addresses) => addresses?,
        (Err(scope), Ok(_)) => return Err(scope),
        (Err(scope), Err(network)) => return Err(PodError::Several(vec![scope, network])),
    };
    let record = PodRecord {
        id: plan.id.clone(),
        packed_config: pack(&plan.config),
        handler: plan.handler.clone(),
        created_at: now(),
        ready: true,
        addresses,
        cgroup_parent: plan.parent.clone(),
        init_pid: monitor.welcome().pod_pid.unwrap_or_default(),
        reason: String::new(),
        clean: false,
        monitor_parent: plan.monitor_parent.clone(),
        resources: None,
        overhead: None,
        monitor: to_bytes(&config),
        monitor_restarts: 0,
    };
    ask_plugins(services, &record, undo).await?;
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
        escrows: HashMap::new(),
        clean: false,
        news: News::Made,
    })
}

/// Asks whether there may be this pod. Should it not be made in the end, plugins are told so.
async fn ask_plugins(
    services: &Arc<Services>,
    record: &PodRecord,
    undo: &mut Undo,
) -> Result<(), PodError> {
    let Some(pod) = Subject::pod(services, record) else {
        return Ok(());
    };
    let gone = pod.clone();
    undo.push(async move {
        gone.tell(Event::StopPodSandbox).await;
        gone.tell(Event::RemovePodSandbox).await;
        Ok(())
    });
    pod.ask(Event::RunPodSandbox).await
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
    fault::point("pod.run.directory")?;
    files::write_cgroup_parents(directories, &plan.id, [&plan.parent, &plan.monitor_parent])?;
    let host_ipc = plan.options.ipc() == NamespaceMode::Node;
    files::make(
        directories,
        &plan.id,
        &plan.config,
        &plan.hostname,
        host_ipc,
    )?;
    fault::point("pod.run.files")?;
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
    (config, trace): (&StartConfig, &Trace),
) -> Result<(Monitor, Events), PodError> {
    {
        let (services, cgroup, parent) =
            (services.clone(), plan.cgroup.clone(), plan.parent.clone());
        undo.push(async move {
            // A monitor that was killed has left the init that it had forked.
            services.cgroups.kill_monitor(&cgroup).await;
            remove_cgroup(&services, &cgroup, &parent).await
        });
    }
    let procs = services.cgroups.make(&plan.cgroup).map_err(PodError::io(
        "making the monitor's cgroup below",
        &plan.parent,
    ))?;
    fault::point("pod.run.cgroup")?;
    let started = services.monitors.start(config.clone(), procs, trace).await;
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
    fault::point("pod.run.monitor")?;
    Ok((monitor, events))
}

/// Where systemd makes cgroups, the monitor's is a scope that is made around it and its init.
pub(super) async fn start_scope(
    services: &Services,
    cgroup: &MonitorCgroup,
    id: &str,
    monitor: &Monitor,
) -> Result<(), PodError> {
    let (Some(systemd), MonitorCgroup::Scope { slice, name }) =
        (services.cgroups.systemd(), cgroup)
    else {
        return Ok(());
    };
    let limit = services.config.monitor.memory_limit.get();
    // Where the init has ended unseen, its number may be another process's.
    let pinned = services.directories.pod(id).join("ns/pid");
    let is_own = |init: &u32| monitors::has_init(*init, &pinned);
    let mut pids = vec![monitor.pid()];
    pids.extend(monitor.welcome().pod_pid.filter(is_own));
    let started = systemd.start_scope(slice, name, &pids, limit).await;
    started.map_err(|source| PodError::Scope {
        id: id.to_owned(),
        source: Box::new(source),
    })
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
    let netns = services.directories.pod(&plan.id).join("ns/net");
    let request = attachment::request(Candidate {
        id: &plan.id,
        config: &plan.config,
        cgroup_parent: &plan.parent,
        netns: netns.clone(),
    })?;
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
    fault::point("pod.run.network")?;
    Ok(attachment.ips.iter().map(ToString::to_string).collect())
}
