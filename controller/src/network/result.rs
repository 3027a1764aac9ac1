//! What a plugin answers to ADD, in every version of the specification that is spoken here. Pure.
//!
//! All versions are read into one shape, the newest, and written in the version that the network's
//! configuration speaks: a plugin may answer in an older version than the next one in the list
//! expects. Before 1.0.0 every address carries its family; 1.1.0 added fields that older versions
//! do not know. Keys that no version knows are kept.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::Object;
use super::config::Version;
use super::request::Dns;

/// Where a pod is attached and how it is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Addresses of the pod in the plugin's order. The first is the primary one.
    pub ips: Vec<IpAddr>,
    /// Interface in the pod's namespace.
    pub interface: String,
    pub mac: Option<String>,
    pub routes: Vec<Route>,
    /// The network's resolver settings.
    pub dns: Dns,
    /// The plugins' answer as it was, for display.
    pub result: Value,
}

/// A route in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub dst: Cidr,
    #[serde(
        default,
        deserialize_with = "optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    extra: Object,
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

/// An answer that is no result of CNI.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("it does not have the shape of a result")]
    Shape(#[source] serde_json::Error),
    #[error("it has CNI version {0:?}")]
    Version(String),
}

/// A result in the newest shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkResult {
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    interfaces: Vec<Interface>,
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    ips: Vec<IpConfig>,
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    dns: ResultDns,
    #[serde(flatten)]
    extra: Object,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Interface {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    /// Path of the namespace that holds the interface; empty for interfaces of the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sandbox: String,
    #[serde(flatten)]
    extra: Object,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct IpConfig {
    address: Cidr,
    #[serde(
        default,
        deserialize_with = "optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    #[serde(flatten)]
    extra: Object,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ResultDns {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// Fields of interfaces and of routes that 1.1.0 added.
const NEW_IN_INTERFACES: [&str; 3] = ["mtu", "socketPath", "pciID"];
const NEW_IN_ROUTES: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

impl NetworkResult {
    /// Reads an answer. One without a version is taken to have that of the configuration.
    pub(super) fn parse(answer: &[u8]) -> Result<Self, ResultError> {
        Self::from_value(serde_json::from_slice(answer).map_err(ResultError::Json)?)
    }

    pub(super) fn from_value(mut value: Value) -> Result<Self, ResultError> {
        match value
            .as_object_mut()
            .and_then(|object| object.remove("cniVersion"))
        {
            None => {}
            Some(Value::String(text)) if text.parse::<Version>().is_ok() => {}
            Some(Value::String(text)) => return Err(ResultError::Version(text)),
            Some(other) => return Err(ResultError::Version(other.to_string())),
        }
        let mut result: Self = serde_json::from_value(value).map_err(ResultError::Shape)?;
        for ip in &mut result.ips {
            ip.extra.remove("version");
        }
        Ok(result)
    }

    /// Writes the result as the given version has it.
    pub(super) fn to_value(&self, version: Version) -> Result<Value, ResultError> {
        let mut copy = self.clone();
        copy.extra
            .insert("cniVersion".into(), version.as_str().into());
        if version < Version::V1_1_0 {
            for interface in &mut copy.interfaces {
                interface
                    .extra
                    .retain(|key, _| !NEW_IN_INTERFACES.contains(&key.as_str()));
            }
            for route in &mut copy.routes {
                route
                    .extra
                    .retain(|key, _| !NEW_IN_ROUTES.contains(&key.as_str()));
            }
        }
        if version < Version::V1_0_0 {
            for ip in &mut copy.ips {
                let family = if ip.address.address.is_ipv4() {
                    "4"
                } else {
                    "6"
                };
                ip.extra.insert("version".into(), family.into());
            }
        }
        serde_json::to_value(copy).map_err(ResultError::Shape)
    }

    /// What the pod got. Addresses of interfaces that stay on the host are not the pod's.
    pub(super) fn attachment(&self, interface: &str, result: Value) -> Attachment {
        let of_pod = |interface: &Interface| !interface.sandbox.is_empty();
        let belongs = |ip: &&IpConfig| match ip.interface.map(usize::try_from) {
            Some(Ok(index)) => self.interfaces.get(index).is_none_or(of_pod),
            Some(Err(_)) | None => true,
        };
        let mac = self
            .interfaces
            .iter()
            .find(|candidate| of_pod(candidate) && candidate.name == interface)
            .and_then(|found| (!found.mac.is_empty()).then(|| found.mac.clone()));
        Attachment {
            ips: self
                .ips
                .iter()
                .filter(belongs)
                .map(|ip| ip.address.address)
                .collect(),
            interface: interface.to_owned(),
            mac,
            routes: self.routes.clone(),
            dns: Dns {
                servers: self.dns.nameservers.clone(),
                domain: (!self.dns.domain.is_empty()).then(|| self.dns.domain.clone()),
                searches: self.dns.search.clone(),
                options: self.dns.options.clone(),
            },
            result,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= longest).then_some(Cidr { address, prefix })
        });
        parsed.ok_or_else(|| format!("{text:?} is no address with a prefix length"))
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Plugins write an empty list as `null` as readily as they leave it out.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// No address may be written as `null` or as an empty string.
fn optional_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests;
