//! Values with a meaning of their own: monitor cgroup, rlimits, sysctls, capabilities, and the
//! table of runtime handlers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Handler;
use super::document::Document;
use super::raw::{Node, Raw, quoted};
use super::section::{About, Entry, Reader, Slot, join};
use super::value::{Scalar, text};

/// Where a monitor lives in the cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorCgroup {
    /// Under the pod's own cgroup: its cost is the pod's overhead.
    Pod,
    /// In this cgroup, together with all other monitors.
    Path(PathBuf),
}

impl Scalar for MonitorCgroup {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let expected = "expected \"pod\" or a cgroup's path such as \"/husk-monitors\"";
        match text(raw, expected)? {
            "pod" => Ok(Self::Pod),
            path if path.starts_with('/') && !path.split('/').any(|part| part == "..") => {
                Ok(Self::Path(PathBuf::from(path)))
            }
            _ => Err(expected.to_owned()),
        }
    }

    fn print(&self) -> Option<String> {
        match self {
            Self::Pod => Some(quoted("pod")),
            Self::Path(path) => path.print(),
        }
    }
}

/// One resource limit of a process, as `setrlimit(2)` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// The limit in force. `u64::MAX` is "unlimited".
    pub soft: u64,
    /// What the process may raise it to. `u64::MAX` is "unlimited".
    pub hard: u64,
}

/// Resource limits by their OCI name, e.g. `RLIMIT_NOFILE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rlimits(pub BTreeMap<String, Rlimit>);

/// The names that Linux knows (`getrlimit(2)`), in the configuration's spelling.
const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl Scalar for Rlimits {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let entries = flatten(raw, "expected a table such as { nofile = \"1024:524288\" }")?;
        let one = |(name, raw): (String, &Raw)| {
            if !RLIMITS.contains(&name.as_str()) {
                return Err(format!(
                    "`{name}` is no limit; {}",
                    nearest(&name, &RLIMITS)
                ));
            }
            let limit = rlimit(raw).ok_or_else(|| {
                format!("for `{name}`: expected a number, \"SOFT:HARD\" with SOFT at most HARD, or \"unlimited\"")
            })?;
            Ok((format!("RLIMIT_{}", name.to_ascii_uppercase()), limit))
        };
        entries
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn print(&self) -> Option<String> {
        let word = |limit: u64| match limit {
            u64::MAX => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let entry = |(name, limit): (&String, &Rlimit)| {
            let name = name.trim_start_matches("RLIMIT_").to_ascii_lowercase();
            format!("{name} = \"{}:{}\"", word(limit.soft), word(limit.hard))
        };
        Some(inline(self.0.iter().map(entry)))
    }
}

fn rlimit(raw: &Raw) -> Option<Rlimit> {
    let both = |limit| Rlimit {
        soft: limit,
        hard: limit,
    };
    match raw {
        Raw::Integer(number) => u64::try_from(*number).ok().map(both),
        Raw::Text(text) => match text.split_once(':') {
            None => limit(text).map(both),
            Some((soft, hard)) => {
                let pair = Rlimit {
                    soft: limit(soft)?,
                    hard: limit(hard)?,
                };
                (pair.soft <= pair.hard).then_some(pair)
            }
        },
        Raw::Table(_) | Raw::List(_) | Raw::Boolean(_) | Raw::Other(_) => None,
    }
}

fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Sysctls that every pod gets, by dotted name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls(pub BTreeMap<String, String>);

/// Sysctls that belong to a namespace of the pod, so that setting them cannot touch the host:
/// network, System V IPC, POSIX queues, and the domain name (`namespaces(7)`).
const NAMESPACED: [&str; 7] = [
    "net.",
    "kernel.shm",
    "kernel.msg",
    "kernel.sem",
    "fs.mqueue.",
    "kernel.sem_next_id",
    "kernel.domainname",
];

impl Scalar for Sysctls {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let entries = flatten(
            raw,
            "expected a table such as { \"net.core.somaxconn\" = \"1024\" }",
        )?;
        let one = |(name, raw): (String, &Raw)| {
            if !NAMESPACED.iter().any(|prefix| name.starts_with(prefix)) {
                return Err(format!(
                    "`{name}` is not a sysctl of a pod's own namespaces"
                ));
            }
            match raw {
                Raw::Text(value) if value.chars().all(is_sysctl_value) && !value.is_empty() => {
                    Ok((name, value.clone()))
                }
                Raw::Integer(number) => Ok((name, number.to_string())),
                Raw::Text(_) | Raw::Table(_) | Raw::List(_) | Raw::Boolean(_) | Raw::Other(_) => {
                    Err(format!(
                        "for `{name}`: expected a number or a plain word, as a string"
                    ))
                }
            }
        };
        entries
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn print(&self) -> Option<String> {
        let entry =
            |(name, value): (&String, &String)| format!("{} = {}", quoted(name), quoted(value));
        Some(inline(self.0.iter().map(entry)))
    }
}

/// What a sysctl's value may hold. `+`, `=`, `,` and line ends have been used to smuggle further
/// settings through programs that take a list.
fn is_sysctl_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ' ' | '\t' | '-' | '_' | '.' | ':' | '/')
}

/// Capabilities by their full name, e.g. `CAP_CHOWN`, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities(pub Vec<String>);

/// Every capability of Linux 6.18 (`capabilities(7)`), without the prefix.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

impl Capabilities {
    pub(super) fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| format!("CAP_{name}")).collect())
    }
}

impl Scalar for Capabilities {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let one = |name: String| {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if CAPABILITIES.contains(&short) {
                return Ok(format!("CAP_{short}"));
            }
            Err(format!(
                "`{name}` is no capability; {}",
                nearest(short, &CAPABILITIES)
            ))
        };
        let names = Vec::<String>::parse(raw)?;
        names
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn print(&self) -> Option<String> {
        self.0.print()
    }
}

/// Runtime handlers by name. A configured handler is merged over a built-in one of the same name.
#[derive(Clone, Debug, PartialEq)]
pub struct Handlers(pub BTreeMap<String, Handler>);

impl Default for Handlers {
    fn default() -> Self {
        let named = |name: &str| {
            let handler = Handler {
                path: PathBuf::from(name),
                ..Handler::default()
            };
            (name.to_owned(), handler)
        };
        Self(BTreeMap::from(["crun", "runc"].map(named)))
    }
}

impl Entry for Handlers {
    fn read(reader: &mut Reader, path: &str, node: Option<Node>, slot: Slot<Self>) -> Self {
        let mut table = reader.table(path, node);
        let mut handlers = slot.base.0;
        let names: Vec<String> = handlers.keys().chain(table.keys()).cloned().collect();
        for name in names {
            let node = table.remove(&name);
            if let Some(node) = node.as_ref().filter(|_| !is_label(&name)) {
                reader.refuse(
                    &join(path, &name),
                    node,
                    "a handler's name is lower-case letters, digits and `-`, as in a RuntimeClass",
                );
            }
            let base = handlers.remove(&name).unwrap_or_else(|| Handler {
                path: PathBuf::from(&name),
                ..Handler::default()
            });
            let slot = Slot { base, rule: None };
            let handler = Handler::read(reader, &join(path, &name), node, slot);
            handlers.insert(name, handler);
        }
        Self(handlers)
    }

    fn write(&self, document: &mut Document, path: &str, about: About<'_, Self>) {
        for (name, handler) in &self.0 {
            let about = About {
                lines: about.lines,
                rule: None,
            };
            handler.write(document, &join(path, name), about);
        }
    }
}

/// A label of RFC 1123, which Kubernetes asks of a RuntimeClass's handler.
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The entries of a table; nested tables become dotted names, so that an unquoted dotted key works.
fn flatten<'r>(raw: &'r Raw, expected: &str) -> Result<Vec<(String, &'r Raw)>, String> {
    let Raw::Table(table) = raw else {
        return Err(expected.to_owned());
    };
    let mut entries = Vec::new();
    for (name, node) in table {
        if matches!(node.raw, Raw::Table(_)) {
            let inner = flatten(&node.raw, expected)?;
            entries.extend(
                inner
                    .into_iter()
                    .map(|(rest, raw)| (join(name, &rest), raw)),
            );
        } else {
            entries.push((name.clone(), &node.raw));
        }
    }
    Ok(entries)
}

fn inline(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() {
        return "{}".to_owned();
    }
    format!("{{ {} }}", entries.join(", "))
}

/// Words for the error about the unknown `name`.
fn nearest(name: &str, known: &[&str]) -> String {
    let best = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    format!("the nearest known one is `{}`", best.unwrap_or(&""))
}
