//! What a plugin is told: the command, its environment and the JSON on its standard input. Pure.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Object;
use super::config::{NetworkList, Plugin};
use super::request::{INTERFACE, PodNetwork, PortMapping};

/// Where plugins find the system's programs, e.g. iptables. The controller's own environment is
/// not passed on: what a plugin does must not depend on how the controller was started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Command {
    /// The value of `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The pod that a call is about, and its namespace unless that is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) pod: &'a PodNetwork,
    pub(super) netns: Option<&'a Path>,
}

impl<'a> Target<'a> {
    pub(super) fn of(pod: &'a PodNetwork, netns: Option<&'a Path>) -> Self {
        Target { pod, netns }
    }
}

/// Keys that one call adds to a plugin's configuration.
#[derive(Debug, Default)]
pub(super) struct Additions<'a> {
    pub(super) previous: Option<&'a Value>,
    pub(super) pod: Option<&'a PodNetwork>,
    pub(super) valid: Option<&'a [&'a str]>,
}

/// The whole environment of a plugin. STATUS and GC are about no pod.
pub(super) fn environment(
    command: Command,
    target: Option<&Target<'_>>,
    bin_dirs: &[PathBuf],
) -> Vec<(&'static str, OsString)> {
    let mut environment = vec![
        ("CNI_COMMAND", command.as_str().into()),
        ("CNI_PATH", search_path(bin_dirs)),
        ("PATH", PATH.into()),
    ];
    if let Some(Target { pod, netns }) = target {
        environment.extend([
            ("CNI_CONTAINERID", OsString::from(&pod.pod_id)),
            (
                "CNI_NETNS",
                netns.map_or_else(OsString::new, |netns| netns.as_os_str().to_owned()),
            ),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_ARGS", arguments(pod).into()),
        ]);
    }
    environment
}

/// The JSON that goes to a plugin's standard input.
pub(super) fn input(list: &NetworkList, plugin: &Plugin, additions: &Additions<'_>) -> Value {
    let mut object = plugin.settings.clone();
    object.insert("name".into(), list.name.as_str().into());
    object.insert("cniVersion".into(), list.version.as_str().into());
    if let Some(previous) = additions.previous {
        object.insert("prevResult".into(), previous.clone());
    }
    if let Some(pod) = additions.pod {
        let mut config = runtime_config(pod);
        config.retain(|capability, _| plugin.capabilities.contains(capability));
        if !config.is_empty() {
            object.insert("runtimeConfig".into(), config.into());
        }
    }
    if let Some(valid) = additions.valid {
        let attachment = |id: &&str| json!({"containerID": id, "ifname": INTERFACE});
        let valid: Vec<Value> = valid.iter().map(attachment).collect();
        object.insert("cni.dev/valid-attachments".into(), valid.into());
    }
    object.into()
}

/// All that is known about the pod, by the capability that a plugin must have to be told.
/// Source of the names: the CNI conventions.
fn runtime_config(pod: &PodNetwork) -> Object {
    let mut config = Object::new();
    let mut set = |capability: &str, value: Value| config.insert(capability.to_owned(), value);
    let ports: Vec<&PortMapping> = pod
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .collect();
    if !ports.is_empty() {
        set("portMappings", json!(ports));
    }
    if let Some(bandwidth) = pod.bandwidth.filter(|limits| !limits.is_unlimited()) {
        set("bandwidth", json!(bandwidth));
    }
    if let Some(dns) = &pod.dns {
        let (servers, searches, options) = (&dns.servers, &dns.searches, &dns.options);
        set(
            "dns",
            json!({"servers": servers, "searches": searches, "options": options}),
        );
    }
    if !pod.ips.is_empty() {
        set("ips", json!(pod.ips));
    }
    if let Some(mac) = &pod.mac {
        set("mac", json!(mac));
    }
    if !pod.aliases.is_empty() {
        set("aliases", json!(pod.aliases));
    }
    if let Some(path) = &pod.cgroup_path {
        set("cgroupPath", json!(path));
    }
    config
}

/// The values have been checked to hold neither `;` nor `=`: see [`PodNetwork::validate`].
fn arguments(pod: &PodNetwork) -> String {
    let PodNetwork {
        pod_id,
        name,
        namespace,
        uid,
        ..
    } = pod;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={pod_id};K8S_POD_UID={uid}"
    )
}

fn search_path(dirs: &[PathBuf]) -> OsString {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.as_os_str()).collect();
    dirs.join(":".as_ref())
}

#[cfg(test)]
mod tests {
    use super::super::request::{Bandwidth, Dns, Protocol};
    use super::*;

    fn pod() -> PodNetwork {
        let port = |host_port, protocol| PortMapping {
            host_port,
            container_port: 80,
            protocol,
            host_ip: None,
        };
        PodNetwork {
            pod_id: "p1".into(),
            name: "web".into(),
            namespace: "shop".into(),
            uid: "u-1".into(),
            netns: "/run/netns/p1".into(),
            port_mappings: vec![
                port(0, Protocol::Tcp),
                PortMapping {
                    host_ip: Some("127.0.0.1".parse().unwrap()),
                    ..port(8080, Protocol::Tcp)
                },
                port(53, Protocol::Udp),
            ],
            bandwidth: Some(Bandwidth {
                ingress_rate: 1_000,
                ingress_burst: 8,
                ..<_>::default()
            }),
            dns: Some(Dns {
                servers: vec!["10.0.0.10".into()],
                searches: vec!["svc.local".into()],
                options: vec!["ndots:5".into()],
                domain: None,
            }),
            ips: vec!["10.0.0.7/24".into()],
            mac: Some("02:00:00:00:00:07".into()),
            aliases: vec!["web".into()],
            cgroup_path: Some("/kubepods/p1".into()),
        }
    }

    fn told(capabilities: Value, additions: &Additions<'_>) -> Value {
        let list = NetworkList::from_value(json!({
            "cniVersion": "1.0.0", "cniVersions": ["1.1.0"], "name": "net",
            "plugins": [{
                "type": "demo", "name": "other", "cniVersion": "0.1.0", "mtu": 9000,
                "capabilities": capabilities,
            }],
        }))
        .unwrap();
        input(&list, &list.plugins[0], additions)
    }

    #[test]
    fn the_environment_of_a_pods_call() {
        let pod = pod();
        let target = Target::of(&pod, Some(&pod.netns));
        let dirs = ["/opt/cni/bin".into(), "/usr/lib/cni".into()];
        let text: Vec<String> = environment(Command::Add, Some(&target), &dirs)
            .into_iter()
            .map(|(key, value)| format!("{key}={}", value.to_str().unwrap()))
            .collect();
        let golden = "CNI_COMMAND=ADD
CNI_PATH=/opt/cni/bin:/usr/lib/cni
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CNI_CONTAINERID=p1
CNI_NETNS=/run/netns/p1
CNI_IFNAME=eth0
CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;\
K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u-1";
        assert_eq!(text.join("\n"), golden);
    }

    #[test]
    fn a_vanished_namespace_is_empty_and_status_is_about_no_pod() {
        let pod = pod();
        let gone = environment(Command::Del, Some(&Target::of(&pod, None)), &[]);
        assert!(gone.contains(&("CNI_NETNS", OsString::new())));
        let keys: Vec<_> = environment(Command::Status, None, &[])
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["CNI_COMMAND", "CNI_PATH", "PATH"]);
    }

    #[test]
    fn only_declared_capabilities_are_told() {
        let base = json!({"type": "demo", "name": "net", "cniVersion": "1.1.0", "mtu": 9000});
        let full = json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
                {"hostPort": 53, "containerPort": 80, "protocol": "udp"},
            ],
            "bandwidth":
                {"ingressRate": 1000, "ingressBurst": 8, "egressRate": 0, "egressBurst": 0},
            "dns":
                {"servers": ["10.0.0.10"], "searches": ["svc.local"], "options": ["ndots:5"]},
            "ips": ["10.0.0.7/24"],
            "mac": "02:00:00:00:00:07",
            "aliases": ["web"],
            "cgroupPath": "/kubepods/p1",
        });
        let pod = pod();
        for capability in full.as_object().unwrap().keys() {
            let mut expect = base.clone();
            expect["runtimeConfig"][capability] = full[capability].clone();
            let additions = Additions {
                pod: Some(&pod),
                ..Additions::default()
            };
            let capabilities = json!({capability: true, "ipRanges": true});
            assert_eq!(told(capabilities, &additions), expect, "{capability}");
        }
        let additions = Additions {
            pod: Some(&pod),
            ..Additions::default()
        };
        assert_eq!(told(json!({"dns": false}), &additions), base);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_gets_no_runtime_config() {
        let mut pod = PodNetwork {
            pod_id: "p".into(),
            ..PodNetwork::default()
        };
        pod.port_mappings.push(PortMapping {
            host_port: 0,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        });
        pod.bandwidth = Some(Bandwidth::default());
        let additions = Additions {
            pod: Some(&pod),
            ..Additions::default()
        };
        let told = told(
            json!({"portMappings": true, "bandwidth": true, "dns": true}),
            &additions,
        );
        assert_eq!(told.get("runtimeConfig"), None);
    }

    #[test]
    fn results_and_valid_attachments_are_handed_on() {
        let previous = json!({"cniVersion": "1.1.0"});
        let additions = Additions {
            previous: Some(&previous),
            valid: Some(&["a", "b"]),
            ..Additions::default()
        };
        assert_eq!(
            told(json!({}), &additions),
            json!({
                "type": "demo", "name": "net", "cniVersion": "1.1.0", "mtu": 9000,
                "prevResult": {"cniVersion": "1.1.0"},
                "cni.dev/valid-attachments": [
                    {"containerID": "a", "ifname": "eth0"},
                    {"containerID": "b", "ifname": "eth0"},
                ],
            })
        );
    }
}
