//! Scopes for monitors, made by systemd over D-Bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OnceCell;
use zbus::Variant;

/// Why systemd did not make or end a scope.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {unit} by systemd")]
pub struct ScopeError {
    operation: &'static str,
    unit: String,
    #[source]
    source: zbus::Error,
}

/// The connection to systemd, made when it is first needed; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    connection: Arc<OnceCell<zbus::Connection>>,
}

/// The interface of systemd's manager that is used here (org.freedesktop.systemd1(5)).
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Units {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        auxiliary: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<zbus::OwnedObjectPath>;
}

impl Systemd {
    /// Puts a running process into a new scope of a slice. The scope ends with its last process.
    ///
    /// # Errors
    /// What D-Bus or systemd says.
    pub async fn start_scope(
        &self,
        slice: &str,
        name: &str,
        pid: u32,
        memory_limit: u64,
    ) -> Result<(), ScopeError> {
        let fail = |source| ScopeError {
            operation: "starting",
            unit: name.to_owned(),
            source,
        };
        let connection = self.connect().await.map_err(fail)?;
        let units = UnitsProxy::new(connection).await.map_err(fail)?;
        let mut properties = vec![
            ("Description", Variant::from("monitor of a pod")),
            ("Slice", Variant::from(slice)),
            ("PIDs", Variant::from(vec![pid])),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        if memory_limit > 0 {
            properties.push(("MemoryMax", Variant::from(memory_limit)));
        }
        units
            .start_transient_unit(name, "replace", &properties, &[])
            .await
            .map_err(fail)?;
        Ok(())
    }

    async fn connect(&self) -> zbus::Result<&zbus::Connection> {
        self.connection
            .get_or_try_init(zbus::Connection::system)
            .await
    }
}

/// The cgroup path of a slice: each dash nests (systemd.slice(5)).
pub(super) fn slice_path(slice: &str) -> PathBuf {
    let stem = slice.trim_end_matches(".slice");
    let mut path = PathBuf::new();
    if stem.is_empty() || stem == "-" {
        return path;
    }
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    for end in dashes.chain([stem.len()]) {
        path.push(Path::new(&format!("{}.slice", &stem[..end])));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_nest_slices() {
        for (slice, path) in [
            ("system.slice", "system.slice"),
            (
                "kubepods-burstable-pod7.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice",
            ),
            ("-.slice", ""),
        ] {
            assert_eq!(slice_path(slice), Path::new(path), "{slice}");
        }
    }
}
