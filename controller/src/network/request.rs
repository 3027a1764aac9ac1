//! What the caller asks for: the pod and what a plugin may be told about it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the pod's interface in its namespace: what Kubernetes expects of every network.
pub const INTERFACE: &str = "eth0";

/// One pod to be attached. It is kept in the cache, because DEL must be told the same as ADD was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodNetwork {
    /// Id of the pod sandbox: the container id of CNI.
    pub pod_id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// Path of the pinned network namespace.
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    pub dns: Option<Dns>,
    /// Addresses asked for, in CIDR notation, e.g. `10.0.0.7/24`.
    pub ips: Vec<String>,
    /// Hardware address asked for.
    pub mac: Option<String>,
    /// Further names under which the pod is known in the network.
    pub aliases: Vec<String>,
    /// Cgroup of the pod, below the cgroup root.
    pub cgroup_path: Option<String>,
}

/// A port of the node that leads to a port of the pod. Host port 0 is no port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Rates in bits per second, bursts in bits; 0 is no limit. Ingress is towards the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

/// Resolver settings: of the pod in a request, of the network in an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub servers: Vec<String>,
    pub domain: Option<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A value that cannot be passed to a plugin.
#[derive(Debug, thiserror::Error)]
#[error("pod {pod_id}: {field} {value:?} cannot be passed to a CNI plugin")]
pub struct InvalidPod {
    pub pod_id: String,
    pub field: &'static str,
    pub value: String,
}

/// An annotation that does not hold a rate.
#[derive(Debug, thiserror::Error)]
#[error("annotation {key}: {value:?} is no rate in bits per second, such as 10M")]
pub struct BandwidthError {
    pub key: &'static str,
    pub value: String,
}

impl PodNetwork {
    /// The id becomes a file name and the other values become `CNI_ARGS`, where `;` and `=` would
    /// let one value pose as several.
    pub(super) fn validate(&self) -> Result<(), InvalidPod> {
        let invalid = |field, value: &str| InvalidPod {
            pod_id: self.pod_id.clone(),
            field,
            value: value.to_owned(),
        };
        if !is_identifier(&self.pod_id) {
            return Err(invalid("id", &self.pod_id));
        }
        if !self.netns.is_absolute() {
            return Err(invalid("network namespace", &self.netns.to_string_lossy()));
        }
        let values = [
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("uid", &self.uid),
        ];
        match values.into_iter().find(|(_, value)| !is_argument(value)) {
            Some((field, value)) => Err(invalid(field, value)),
            None => Ok(()),
        }
    }
}

/// Whether a text is a network name or a container id in the specification's sense: letters,
/// digits, `_`, `.` and `-`, not beginning with one of the last three.
pub(super) fn is_identifier(text: &str) -> bool {
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= 200
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(tail)
}

fn is_argument(value: &str) -> bool {
    !value
        .chars()
        .any(|c| c.is_control() || matches!(c, ';' | '='))
}

impl Bandwidth {
    const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
    const EGRESS: &str = "kubernetes.io/egress-bandwidth";
    /// The largest burst that the bandwidth plugin takes, in bits: it refuses 4 GiB less a byte.
    const BURST: u64 = 8 * (u32::MAX as u64) - 1;

    /// Limits from a pod's annotations `kubernetes.io/ingress-bandwidth` and `…/egress-bandwidth`.
    /// None when neither is there.
    ///
    /// # Errors
    /// When a value is not a quantity between 1k and 1P, the range that Kubernetes allows.
    pub fn from_annotations<'a>(
        find: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<Bandwidth>, BandwidthError> {
        let rate = |key: &'static str| match find(key) {
            None => Ok(0),
            Some(value) => parse_rate(value).ok_or_else(|| BandwidthError {
                key,
                value: value.to_owned(),
            }),
        };
        let (ingress_rate, egress_rate) = (rate(Self::INGRESS)?, rate(Self::EGRESS)?);
        let burst = |rate| if rate == 0 { 0 } else { Self::BURST };
        Ok((ingress_rate != 0 || egress_rate != 0).then(|| Bandwidth {
            ingress_rate,
            ingress_burst: burst(ingress_rate),
            egress_rate,
            egress_burst: burst(egress_rate),
        }))
    }

    pub(super) fn is_unlimited(&self) -> bool {
        self.ingress_rate == 0 && self.egress_rate == 0
    }
}

/// A whole quantity with an optional decimal or binary suffix.
fn parse_rate(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
    ];
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1));
    let rate = digits.parse::<u64>().ok()?.checked_mul(factor)?;
    (1_000..=1_000_000_000_000_000)
        .contains(&rate)
        .then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_quantities_in_range() {
        for (text, expect) in [
            ("1k", Some(1_000)),
            ("10M", Some(10_000_000)),
            ("1Mi", Some(1_048_576)),
            ("4096", Some(4_096)),
            ("1P", Some(1_000_000_000_000_000)),
            ("999", None),
            ("2P", None),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1 M", None),
            ("99999999999999999999G", None),
        ] {
            assert_eq!(parse_rate(text), expect, "{text}");
        }
    }

    #[test]
    fn bandwidth_names_the_bad_annotation() {
        let error = Bandwidth::from_annotations(|key| {
            (key == "kubernetes.io/egress-bandwidth").then_some("fast")
        })
        .unwrap_err();
        assert!(error.to_string().contains("egress-bandwidth"), "{error}");
        assert_eq!(Bandwidth::from_annotations(|_| None).unwrap(), None);
    }

    #[test]
    fn hostile_pods_are_refused() {
        let good = PodNetwork {
            pod_id: "0a".into(),
            name: "web".into(),
            netns: "/run/netns/x".into(),
            ..PodNetwork::default()
        };
        assert!(good.validate().is_ok());
        let refuse = |field: &str, change: fn(&mut PodNetwork)| {
            let mut pod = good.clone();
            change(&mut pod);
            assert_eq!(pod.validate().unwrap_err().field, field);
        };
        refuse("id", |pod| pod.pod_id = "../../etc/passwd".into());
        refuse("id", |pod| pod.pod_id = String::new());
        refuse("id", |pod| pod.pod_id = ".hidden".into());
        refuse("name", |pod| pod.name = "a;K8S_POD_NAME=b".into());
        refuse("namespace", |pod| pod.namespace = "a=b".into());
        refuse("uid", |pod| pod.uid = "a\nb".into());
        refuse("network namespace", |pod| pod.netns = "relative".into());
    }
}
