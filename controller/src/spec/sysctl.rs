//! Kernel parameters of a pod: only those that a namespace of the pod's own holds.

use std::collections::BTreeMap;

use husk_cri_api::v1::{self, NamespaceMode};

use super::error::SpecError;
use super::namespaces;

/// A checked kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// Its file relative to /proc/sys, such as `net/ipv4/ip_forward`.
    pub path: String,
    /// What to write.
    pub value: String,
}

const FIELD: &str = "linux.sysctls";

/// Parameters of the IPC namespace, besides those under `fs.mqueue.` (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Checks a pod's parameters. Whoever makes the pod's namespaces writes them, in this order.
///
/// # Errors
/// A name that no namespace of the pod's own holds, and a value that could be more than one.
pub fn sysctls(sandbox: &v1::PodSandboxConfig) -> Result<Vec<Sysctl>, SpecError> {
    let Some(linux) = &sandbox.linux else {
        return Ok(Vec::new());
    };
    let mut checked = BTreeMap::new();
    for (name, value) in &linux.sysctls {
        let path = path_of(name)?;
        validate_namespace(name, &path, sandbox)?;
        validate_value(name, value)?;
        if checked.insert(path, value.trim().to_owned()).is_some() {
            return Err(SpecError::invalid(FIELD, name, "it is given twice"));
        }
    }
    Ok(checked
        .into_iter()
        .map(|(path, value)| Sysctl { path, value })
        .collect())
}

/// Names come as `net.ipv4.conf.eth0/1.rp_filter` or `net/ipv4/conf/eth0.1/rp_filter`: the first
/// separator says which sign separates, and the other one is a literal (sysctl.d(5)).
fn path_of(name: &str) -> Result<String, SpecError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !name.chars().all(allowed) {
        return Err(SpecError::invalid(
            FIELD,
            name,
            "no parameter has such a name",
        ));
    }
    let dotted = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes().get(at) == Some(&b'.'));
    let path: String = match dotted {
        true => name.chars().map(swap_separators).collect(),
        false => name.to_owned(),
    };
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(SpecError::invalid(
            FIELD,
            name,
            "no parameter has such a name",
        ));
    }
    Ok(path)
}

fn swap_separators(c: char) -> char {
    match c {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

fn validate_namespace(
    name: &str,
    path: &str,
    sandbox: &v1::PodSandboxConfig,
) -> Result<(), SpecError> {
    let options = namespaces::sandbox_options(sandbox)
        .cloned()
        .unwrap_or_default();
    let dotted = path.replace('/', ".");
    let (mode, reason) = if path.starts_with("net/") {
        (
            options.network(),
            "the pod uses the host's network namespace",
        )
    } else if path.starts_with("fs/mqueue/") || IPC.contains(&dotted.as_str()) {
        (options.ipc(), "the pod uses the host's IPC namespace")
    } else {
        return Err(SpecError::invalid(
            FIELD,
            name,
            "it belongs to no namespace, so to the whole host",
        ));
    };
    if mode == NamespaceMode::Node {
        return Err(SpecError::invalid(FIELD, name, reason));
    }
    Ok(())
}

/// A sign that joins parameters for some program on the way would smuggle a second one through
/// (CVE-2022-0811).
fn validate_value(name: &str, value: &str) -> Result<(), SpecError> {
    if value.contains(['+', '=', ',', '\n', '\r', '\0']) {
        return Err(SpecError::invalid(
            FIELD,
            name,
            "its value has one of + = , newline, NUL in it",
        ));
    }
    if value.trim().is_empty() {
        return Err(SpecError::invalid(FIELD, name, "it has no value"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, node: &[&str]) -> Result<Vec<(String, String)>, String> {
        let mut options = v1::NamespaceOption::default();
        if node.contains(&"network") {
            options.set_network(NamespaceMode::Node);
        }
        if node.contains(&"ipc") {
            options.set_ipc(NamespaceMode::Node);
        }
        let sandbox = v1::PodSandboxConfig {
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                sysctls: [(name.to_owned(), value.to_owned())].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        sysctls(&sandbox)
            .map(|list| {
                list.into_iter()
                    .map(|sysctl| (sysctl.path, sysctl.value))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn namespaced_parameters_become_paths() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.rp_filter",
                "net/ipv4/conf/eth0.1/rp_filter",
            ),
            (
                "net/ipv4/conf/eth0.1/rp_filter",
                "net/ipv4/conf/eth0.1/rp_filter",
            ),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ] {
            assert_eq!(
                check(name, " 1 ", &[]),
                Ok(vec![(path.to_owned(), "1".to_owned())]),
                "{name}"
            );
        }
    }

    #[test]
    fn what_reaches_the_host_is_refused() {
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "fs.file-max",
            "kernel.shm_rmid_forced.x",
            "net",
            "net..ipv4",
            "net/../kernel/core_pattern",
            "net.ipv4./../x",
            "../net.ipv4.ip_forward",
            "net.ipv4.ip forward",
            "net.ipv4.ip\nforward",
            "",
        ] {
            assert!(check(name, "1", &[]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn host_namespaces_take_no_parameters() {
        assert!(check("net.ipv4.ip_forward", "1", &["network"]).is_err());
        assert!(check("kernel.msgmax", "1", &["ipc"]).is_err());
        assert!(check("kernel.msgmax", "1", &["network"]).is_ok());
        assert!(check("net.ipv4.ip_forward", "1", &["ipc"]).is_ok());
    }

    #[test]
    fn a_value_is_one_value() {
        for value in [
            "1+kernel.core_pattern=|/x",
            "1,2",
            "a=b",
            "1\n2",
            "1\r2",
            "1\0",
            "",
            " ",
        ] {
            assert!(
                check("net.ipv4.ip_forward", value, &[]).is_err(),
                "{value:?}"
            );
        }
        assert!(check("net.ipv4.ip_local_port_range", "1024 65535", &[]).is_ok());
        assert!(check("net.ipv4.ping_group_range", "0\t2147483647", &[]).is_ok());
    }
}
