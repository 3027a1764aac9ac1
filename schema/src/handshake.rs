//! What both sides say first, and what every call carries.

use crate::message::{length, present, text};
use crate::{Message, wire};

/// The newest protocol version that this crate speaks. What each brought is in `docs/monitor.md`.
pub const VERSION: u16 = 2;

/// The oldest protocol version that this crate still speaks.
pub const OLDEST_VERSION: u16 = 1;

/// Names of what a monitor can do beyond what its version says.
pub mod capability {
    /// It sees OOM kills: cgroup v2 or a v1 memory controller, and the means to watch it.
    pub const OOM_EVENTS: &str = "oom-events";
    /// `pause` and `resume` work.
    pub const PAUSE: &str = "pause";
    /// It gives duplicates of what it holds, and goes on with what another monitor left.
    pub const ESCROW: &str = "escrow";
    /// It can become another program while its containers run.
    pub const UPGRADE: &str = "upgrade";
}

/// Who the client is and which protocol versions it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The client's program and version, for logs.
    pub name: String,
    /// The newest protocol version that it speaks.
    pub version: u16,
    /// The oldest protocol version that it speaks.
    pub oldest_version: u16,
}

impl Hello {
    /// A hello of a client that was built with this crate.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: VERSION,
            oldest_version: OLDEST_VERSION,
        }
    }

    /// The newest version that this client and a peer both speak; the peer speaks all from
    /// `oldest` to `newest`.
    #[must_use]
    pub fn common_version(&self, oldest: u16, newest: u16) -> Option<u16> {
        let version = self.version.min(newest);
        (version >= self.oldest_version.max(oldest)).then_some(version)
    }
}

/// The monitor's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub version: u16,
    /// What the monitor can do; see [`capability`].
    pub capabilities: Vec<String>,
    /// The version of the monitor's program.
    pub monitor_version: String,
    /// The monitor's process.
    pub pid: u32,
    /// The id of its pod.
    pub pod_id: String,
    /// The first process of the pod's shared PID namespace, where there is one.
    pub pod_pid: Option<u32>,
}

/// What ties a call to the request that caused it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// The id of the request, as the client's log names it.
    pub request_id: String,
    /// W3C Trace Context's `traceparent`, or empty.
    pub traceparent: String,
}

impl Message for Hello {
    type Wire = wire::hello::Owned;

    fn read(reader: wire::hello::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            name: text(reader.get_name())?,
            version: reader.get_version(),
            oldest_version: reader.get_oldest_version(),
        })
    }

    fn write(&self, mut builder: wire::hello::Builder<'_>) {
        builder.set_name(&self.name);
        builder.set_version(self.version);
        builder.set_oldest_version(self.oldest_version);
    }
}

impl Message for Welcome {
    type Wire = wire::welcome::Owned;

    fn read(reader: wire::welcome::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            version: reader.get_version(),
            capabilities: reader
                .get_capabilities()?
                .iter()
                .map(text)
                .collect::<capnp::Result<_>>()?,
            monitor_version: text(reader.get_monitor_version())?,
            pid: reader.get_pid(),
            pod_id: text(reader.get_pod_id())?,
            pod_pid: present(reader.get_pod_pid()),
        })
    }

    fn write(&self, mut builder: wire::welcome::Builder<'_>) {
        builder.set_version(self.version);
        let mut capabilities = builder
            .reborrow()
            .init_capabilities(length(&self.capabilities));
        for (index, name) in (0..).zip(&self.capabilities) {
            capabilities.set(index, name);
        }
        builder.set_monitor_version(&self.monitor_version);
        builder.set_pid(self.pid);
        builder.set_pod_id(&self.pod_id);
        builder.set_pod_pid(self.pod_pid.unwrap_or_default());
    }
}

impl Message for TraceContext {
    type Wire = wire::trace_context::Owned;

    fn read(reader: wire::trace_context::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            request_id: text(reader.get_request_id())?,
            traceparent: text(reader.get_traceparent())?,
        })
    }

    fn write(&self, mut builder: wire::trace_context::Builder<'_>) {
        builder.set_request_id(&self.request_id);
        builder.set_traceparent(&self.traceparent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_version_is_the_newest_of_both() {
        let rows = [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (1, 2), Some(2)),
            ((2, 3), (1, 5), Some(3)),
            ((2, 3), (1, 1), None),
            ((1, 1), (2, 3), None),
        ];
        for ((oldest_version, version), (oldest, newest), expect) in rows {
            let hello = Hello {
                name: String::new(),
                version,
                oldest_version,
            };
            assert_eq!(hello.common_version(oldest, newest), expect, "{hello:?}");
        }
    }
}
