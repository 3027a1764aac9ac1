//! Scopes for monitors, made by systemd over D-Bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Mutex;
use zbus::Variant;

/// How long systemd may take for a scope, with the connection to it.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause before another try with a scope that is about to be gone: systemd notices within
/// milliseconds that a scope has no process any more.
const PAUSE: Duration = Duration::from_millis(20);
/// How many tries that are: a second's. What still has a process then, and takes none, was made by an
/// earlier version of ours, which did not delegate it.
const TRIES: u32 = 50;

/// systemd's errors that have a remedy (`bus-common-errors.h` in its source).
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

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
    /// Processes were not put into a scope that is there.
    #[error("moving processes into {unit} by systemd")]
    Join {
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

    /// Since systemd 238, and only for units that are delegated.
    fn attach_processes_to_unit(
        &self,
        unit: &str,
        subcgroup: &str,
        pids: &[u32],
    ) -> zbus::Result<()>;

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
    /// Puts running processes into a scope of a slice, and waits at most 10 s for that. The scope is
    /// made where it is not there: it ends with its last process, and is there still where another
    /// one has died and left an init behind. A connection that died is made anew, once.
    ///
    /// # Errors
    /// What D-Bus or systemd says, a job that is not done, and silence.
    pub async fn start_scope(
        &self,
        slice: &str,
        name: &str,
        pids: &[u32],
        memory_limit: u64,
    ) -> Result<(), ScopeError> {
        let mut properties = vec![
            ("Description", Variant::from("monitor of a pod")),
            ("Slice", Variant::from(slice)),
            ("PIDs", Variant::from(pids.to_vec())),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", Variant::from("inactive-or-failed")),
            // Else no process can join later, and from version 253 on systemd stops all of the
            // scope when the kernel kills one process for want of memory (systemd.scope(5)).
            ("Delegate", Variant::from(true)),
        ];
        if memory_limit > 0 {
            properties.push(("MemoryMax", Variant::from(memory_limit)));
        }
        tokio::time::timeout(LIMIT, self.start_or_join(name, &properties, pids))
            .await
            .unwrap_or_else(|_| Err(ScopeError::Timeout { unit: name.into() }))
    }

    /// Neither call alone is enough: the scope can end between a look at it and the next step.
    async fn start_or_join(
        &self,
        name: &str,
        properties: &[(&str, Variant<'_>)],
        pids: &[u32],
    ) -> Result<(), ScopeError> {
        let (mut reconnected, mut tries) = (false, TRIES);
        let mut outcome = self.start(name, properties).await;
        loop {
            let Err(error) = outcome else {
                return Ok(());
            };
            outcome = match error.remedy() {
                Some(Remedy::Reconnect) if !reconnected => {
                    reconnected = true;
                    self.connection.lock().await.take();
                    self.start(name, properties).await
                }
                Some(Remedy::Join) => self.join(name, pids).await,
                Some(Remedy::StartAnew) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(PAUSE).await;
                    self.start(name, properties).await
                }
                Some(Remedy::Reconnect | Remedy::StartAnew) | None => return Err(error),
            };
        }
    }

    async fn join(&self, name: &str, pids: &[u32]) -> Result<(), ScopeError> {
        let fail = |source| ScopeError::Join {
            unit: name.to_owned(),
            source,
        };
        let connection = self.connect().await.map_err(fail)?;
        let units = UnitsProxy::new(&connection).await.map_err(fail)?;
        let joined = units.attach_processes_to_unit(name, "", pids).await;
        joined.map_err(fail)
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

/// What helps where a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Another connection: this one is at fault.
    Reconnect,
    /// The scope is there: by the monitor before, or by a call whose answer was lost.
    Join,
    /// The scope is gone or about to be.
    StartAnew,
}

impl ScopeError {
    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Disconnected { .. } => Some(Remedy::Reconnect),
            Self::Call { source, .. } | Self::Join { source, .. } if is_of_connection(source) => {
                Some(Remedy::Reconnect)
            }
            Self::Call { source, .. } => {
                (name(source) == Some(UNIT_EXISTS)).then_some(Remedy::Join)
            }
            Self::Join { source, .. } => is_ended(source).then_some(Remedy::StartAnew),
            Self::Job { .. } | Self::Timeout { .. } => None,
        }
    }
}

fn is_of_connection(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_))
        || matches!(error, zbus::Error::FDO(error)
            if matches!(**error, zbus::fdo::Error::Disconnected(_)))
}

/// A unit that is not active takes no process (`bus_unit_method_attach_processes` in systemd's
/// `dbus-unit.c`).
fn is_ended(error: &zbus::Error) -> bool {
    let inactive = matches!(error, zbus::Error::FDO(error)
        if matches!(**error, zbus::fdo::Error::InvalidArgs(_)));
    inactive || name(error) == Some(NO_SUCH_UNIT)
}

/// The name of an error that D-Bus itself does not know.
fn name(error: &zbus::Error) -> Option<&str> {
    let zbus::Error::MethodError(name, ..) = error else {
        return None;
    };
    Some(name.as_str())
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

    fn call(source: zbus::Error) -> ScopeError {
        let unit = "a.scope".into();
        ScopeError::Call { unit, source }
    }

    fn join(source: zbus::Error) -> ScopeError {
        let unit = "a.scope".into();
        ScopeError::Join { unit, source }
    }

    /// An error reply that only systemd knows.
    fn reply(name: &'static str) -> zbus::Error {
        let called = zbus::Message::method_call("/", "StartTransientUnit");
        let called = called.build(&()).unwrap();
        let message = zbus::Message::error(&called.header(), name);
        let name = zbus::names::OwnedErrorName::try_from(name).unwrap();
        zbus::Error::MethodError(name, None, message.build(&()).unwrap())
    }

    #[test]
    fn each_failure_has_its_remedy() {
        let broken = || {
            let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            zbus::Error::InputOutput(Arc::new(error))
        };
        let unit = || "a.scope".to_owned();
        let fdo = |error| zbus::Error::FDO(Box::new(error));
        let gone = || fdo(zbus::fdo::Error::Disconnected("gone".into()));
        let arguments = || fdo(zbus::fdo::Error::InvalidArgs("not active".into()));
        let dead = || fdo(zbus::fdo::Error::UnixProcessIdUnknown("no process".into()));
        for (error, remedy) in [
            (
                ScopeError::Disconnected { unit: unit() },
                Some(Remedy::Reconnect),
            ),
            (call(broken()), Some(Remedy::Reconnect)),
            (call(gone()), Some(Remedy::Reconnect)),
            (join(broken()), Some(Remedy::Reconnect)),
            (join(gone()), Some(Remedy::Reconnect)),
            (call(reply(UNIT_EXISTS)), Some(Remedy::Join)),
            (join(reply(NO_SUCH_UNIT)), Some(Remedy::StartAnew)),
            (join(arguments()), Some(Remedy::StartAnew)),
            // A property that systemd does not like, and a process that is gone.
            (call(arguments()), None),
            (call(reply(NO_SUCH_UNIT)), None),
            (join(dead()), None),
            (call(fdo(zbus::fdo::Error::AccessDenied("no".into()))), None),
            (call(zbus::Error::InvalidReply), None),
            (judge("a.scope", "failed").unwrap_err(), None),
            (ScopeError::Timeout { unit: unit() }, None),
        ] {
            assert_eq!(error.remedy(), remedy, "{error:?}");
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
