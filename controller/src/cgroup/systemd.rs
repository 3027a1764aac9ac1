//! Scopes for monitors, made by systemd over D-Bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Mutex;
use zbus::Variant;

/// How long systemd may take for a scope, with the connection to it.
const LIMIT: Duration = Duration::from_secs(10);

/// Why systemd did not make a scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// A call failed, or was refused.
    #[error("starting {unit} by systemd")]
    Call {
        /// The scope.
        unit: String,
        /// What D-Bus or systemd said.
        #[source]
        source: zbus::Error,
    },
    /// The job that starts the scope ended otherwise than done.
    #[error("systemd's job for {unit} ended with {result:?}")]
    Job {
        /// The scope.
        unit: String,
        /// The job's result in systemd's word (org.freedesktop.systemd1(5)).
        result: String,
    },
    /// The connection went away before the job's end.
    #[error("the connection to systemd ended before {unit} was started")]
    Disconnected {
        /// The scope.
        unit: String,
    },
    /// No answer in time.
    #[error("systemd did not start {unit} within {LIMIT:?}")]
    Timeout {
        /// The scope.
        unit: String,
    },
}

/// The connection to systemd, made when it is first needed; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    connection: Arc<Mutex<Option<zbus::Connection>>>,
}

/// The interface of systemd's manager that is used here (org.freedesktop.systemd1(5)).
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Units {
    fn subscribe(&self) -> zbus::Result<()>;

    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        auxiliary: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<zbus::OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: zbus::ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

impl Systemd {
    /// Puts a running process into a new scope of a slice, and waits at most 10 s for it to be
    /// started. The scope ends with its last process. A connection that died is made anew, once.
    ///
    /// # Errors
    /// What D-Bus or systemd says, a job that is not done, and silence.
    pub async fn start_scope(
        &self,
        slice: &str,
        name: &str,
        pid: u32,
        memory_limit: u64,
    ) -> Result<(), ScopeError> {
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
        let attempts = async {
            match self.start(name, &properties).await {
                Err(error) if error.is_of_connection() => {
                    self.connection.lock().await.take();
                    accept_existing(self.start(name, &properties).await)
                }
                other => other,
            }
        };
        tokio::time::timeout(LIMIT, attempts)
            .await
            .unwrap_or_else(|_| Err(ScopeError::Timeout { unit: name.into() }))
    }

    async fn start(
        &self,
        name: &str,
        properties: &[(&str, Variant<'_>)],
    ) -> Result<(), ScopeError> {
        let fail = |source| ScopeError::Call {
            unit: name.to_owned(),
            source,
        };
        let connection = self.connect().await.map_err(fail)?;
        let units = UnitsProxy::new(&connection).await.map_err(fail)?;
        // Listened to before the call: the job can be over before its name is known here.
        let mut removed = units.receive_job_removed().await.map_err(fail)?;
        let started = units.start_transient_unit(name, "replace", properties, &[]);
        let job = started.await.map_err(fail)?;
        while let Some(signal) = removed.next().await {
            let ended = signal.args().map_err(fail)?;
            if ended.job.as_str() == job.as_str() {
                return judge(name, ended.result);
            }
        }
        Err(ScopeError::Disconnected { unit: name.into() })
    }

    async fn connect(&self) -> zbus::Result<zbus::Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|kept| !kept.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = zbus::Connection::system().await?;
        // Without it systemd tells nobody of the ends of jobs.
        UnitsProxy::new(&connection).await?.subscribe().await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

impl ScopeError {
    /// Whether the connection is at fault, so that another one may do.
    fn is_of_connection(&self) -> bool {
        match self {
            Self::Disconnected { .. }
            | Self::Call {
                source: zbus::Error::InputOutput(_),
                ..
            } => true,
            Self::Call {
                source: zbus::Error::FDO(error),
                ..
            } => matches!(**error, zbus::fdo::Error::Disconnected(_)),
            Self::Call { .. } | Self::Job { .. } | Self::Timeout { .. } => false,
        }
    }
}

/// After a lost connection the first call may have been served: its scope is the one wanted.
fn accept_existing(outcome: Result<(), ScopeError>) -> Result<(), ScopeError> {
    match outcome {
        Err(ScopeError::Call {
            source: zbus::Error::MethodError(name, ..),
            ..
        }) if name.as_str() == "org.freedesktop.systemd1.UnitExists" => Ok(()),
        other => other,
    }
}

fn judge(unit: &str, result: &str) -> Result<(), ScopeError> {
    if result == "done" {
        return Ok(());
    }
    Err(ScopeError::Job {
        unit: unit.to_owned(),
        result: result.to_owned(),
    })
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
    fn only_a_done_job_is_a_started_scope() {
        for (result, done) in [("done", true), ("failed", false), ("canceled", false)] {
            let judged = judge("a.scope", result);
            assert_eq!(judged.is_ok(), done, "{result}");
        }
    }

    #[test]
    fn only_a_lost_connection_is_worth_another() {
        let call = |source| ScopeError::Call {
            unit: "a.scope".into(),
            source,
        };
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let unit = || "a.scope".to_owned();
        let fdo = |error| call(zbus::Error::FDO(Box::new(error)));
        for (error, lost) in [
            (ScopeError::Disconnected { unit: unit() }, true),
            (call(zbus::Error::InputOutput(Arc::new(broken))), true),
            (fdo(zbus::fdo::Error::Disconnected("gone".into())), true),
            (fdo(zbus::fdo::Error::AccessDenied("no".into())), false),
            (call(zbus::Error::InvalidReply), false),
            (judge("a.scope", "failed").unwrap_err(), false),
            (ScopeError::Timeout { unit: unit() }, false),
        ] {
            assert_eq!(error.is_of_connection(), lost, "{error:?}");
        }
    }

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
