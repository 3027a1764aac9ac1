//! What the network is asked for on behalf of a pod, from the kubelet's words. Pure.

use std::path::PathBuf;

use husk_cri_api::v1;

use crate::error::PodError;
use crate::network::{self, PodNetwork};

/// A pod that is to be attached.
pub(super) struct Candidate<'a> {
    pub(super) id: &'a str,
    pub(super) config: &'a v1::PodSandboxConfig,
    pub(super) cgroup_parent: &'a str,
    pub(super) netns: PathBuf,
}

/// The request for a pod.
pub(super) fn request(candidate: Candidate<'_>) -> Result<PodNetwork, PodError> {
    let config = candidate.config;
    let metadata = config.metadata.clone().unwrap_or_default();
    let invalid = |subject: &str, cause: String| PodError::Invalid {
        subject: subject.to_owned(),
        cause,
    };
    let bandwidth =
        network::Bandwidth::from_annotations(|key| config.annotations.get(key).map(String::as_str))
            .map_err(|error| invalid("bandwidth annotation", error.to_string()))?;
    let dns = config.dns_config.as_ref().map(|dns| network::Dns {
        servers: dns.servers.clone(),
        domain: None,
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    Ok(PodNetwork {
        pod_id: candidate.id.to_owned(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        netns: candidate.netns,
        port_mappings: port_mappings(&config.port_mappings)?,
        bandwidth,
        dns,
        cgroup_path: Some(candidate.cgroup_parent.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_port: i32, container_port: i32, host_ip: &str) -> v1::PortMapping {
        v1::PortMapping {
            protocol: v1::Protocol::Udp.into(),
            container_port,
            host_port,
            host_ip: host_ip.into(),
        }
    }

    #[test]
    fn host_port_0_is_no_port() {
        let wanted = [mapping(0, 80, ""), mapping(8080, 80, "127.0.0.1")];
        let made = port_mappings(&wanted).unwrap();
        let expected = network::PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: network::Protocol::Udp,
            host_ip: Some([127, 0, 0, 1].into()),
        };
        assert_eq!(made, [expected]);
    }

    #[test]
    fn ports_and_addresses_that_are_none_are_refused_by_name() {
        for (bad, part) in [
            (mapping(70_000, 80, ""), "70000"),
            (mapping(80, -1, ""), "-1"),
            (mapping(80, 80, "localhost"), "localhost"),
        ] {
            let error = port_mappings(&[bad]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
