//! Errors as gRPC statuses: the only place that picks codes. The message is the error with all its
//! causes.

use std::error::Error as StdError;
use std::io;

use husk_image::ErrorKind;
use pod_monitor_client::schema::ErrorCode;
use tonic::{Code, Status};

use crate::chain::chain;
use crate::error::{PodError, SharedError};
use crate::network::AddError;
use crate::sessions::OfferError;
use crate::stats::StatsError;
use crate::store::StoreError;
use crate::{events, monitors};

pub(super) fn of_shared(error: SharedError) -> Status {
    of(&error)
}

pub(super) fn of(error: &PodError) -> Status {
    Status::new(code(error), chain(error))
}

/// The status of statistics that could not be read.
pub(super) fn of_stats(error: &StatsError) -> Status {
    Status::new(Code::Internal, chain(error))
}

/// A request without what it must have.
pub(super) fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is required"))
}

/// A request that makes no sense.
pub(super) fn invalid(error: &(dyn StdError + 'static)) -> Status {
    Status::invalid_argument(chain(error))
}

/// A list that is larger than the kubelet takes.
pub(super) fn too_large(call: &str, bytes: usize, limit: u64) -> Status {
    Status::resource_exhausted(format!(
        "the answer to {call} has {bytes} bytes, and limits.grpc_message is {limit}: ask with a filter, or by the \
         Stream call for the same"
    ))
}

/// The answer to what is not built yet.
pub(super) fn later(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not built yet"))
}

/// The status of a subscription that is over.
pub(super) fn of_ended(ended: events::Ended) -> Status {
    let code = match ended {
        events::Ended::Stalled => Code::ResourceExhausted,
        events::Ended::Stopping => Code::Unavailable,
    };
    Status::new(code, ended.to_string())
}

/// The status of a session that is not offered.
pub(super) fn of_offer(error: &OfferError) -> Status {
    let code = match error {
        OfferError::Streams(_) | OfferError::Port(_) => Code::InvalidArgument,
        OfferError::Token(_) => Code::ResourceExhausted,
        OfferError::Pod(error) => code(error),
    };
    Status::new(code, chain(error))
}

/// The status of an image operation.
pub(crate) fn of_image(kind: ErrorKind, error: &(dyn StdError + 'static)) -> Status {
    Status::new(image_code(kind), chain(error))
}

fn code(error: &PodError) -> Code {
    match error {
        PodError::NotFound { .. } | PodError::NoImage { .. } => Code::NotFound,
        PodError::Exists { .. } => Code::AlreadyExists,
        PodError::Ambiguous { .. }
        | PodError::Invalid { .. }
        | PodError::Spec { .. }
        | PodError::Handler { .. }
        | PodError::Users { .. }
        | PodError::Cdi { .. }
        | PodError::Device { .. } => Code::InvalidArgument,
        PodError::State { .. } => Code::FailedPrecondition,
        PodError::Plugins { .. } => Code::Internal,
        PodError::Criu { able: false, .. } | PodError::NoCriu { .. } => Code::Unimplemented,
        PodError::Criu { source, .. } => monitor_code(source),
        PodError::ExecTimeout { .. }
        | PodError::CheckpointTimeout { .. }
        | PodError::Unkillable { .. }
        | PodError::MonitorSilent { .. } => Code::DeadlineExceeded,
        PodError::NoMonitor { .. } | PodError::NoTakeover { .. } | PodError::Stopping { .. } => {
            Code::Unavailable
        }
        PodError::Image { source, .. } => image_code(source.kind()),
        PodError::Rootfs { source, .. } => image_code(source.kind()),
        PodError::Monitor { source, .. } => monitor_code(source),
        PodError::Io { source, .. } => io_code(source.kind()),
        PodError::NetworkAdd { source, .. } => network_code(source),
        PodError::NetworkDel { .. } | PodError::Scope { .. } => cause_code(error, Code::Internal),
        PodError::Store { source, .. } => store_code(source),
        PodError::Cleanup { failed, .. } => code(failed),
        PodError::Several(errors) => errors.first().map_or(Code::Internal, code),
    }
}

fn io_code(kind: io::ErrorKind) -> Code {
    if matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        Code::ResourceExhausted
    } else if kind == io::ErrorKind::NotFound {
        // A file that is missing on the node is no pod and no container that does not exist: the
        // kubelet takes NOT_FOUND for the latter, and an object as gone.
        Code::FailedPrecondition
    } else {
        Code::Internal
    }
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Database {
            kind: Some(kind), ..
        } => io_code(*kind),
        StoreError::Database { kind: None, .. }
        | StoreError::InUse(_)
        | StoreError::Damaged { .. }
        | StoreError::Version { .. }
        | StoreError::Closed { .. } => Code::Internal,
    }
}

fn network_code(error: &AddError) -> Code {
    match error {
        AddError::Invalid(_) => Code::InvalidArgument,
        AddError::NotReady { .. } => Code::FailedPrecondition,
        AddError::Cache(_) | AddError::Leftover(_) => cause_code(error, Code::Internal),
        // What a plugin refuses it refuses for a state of the node, and it may have said that a disk is full.
        AddError::Missing(_) | AddError::Failed { .. } => {
            cause_code(error, Code::FailedPrecondition)
        }
    }
}

/// Somewhere below may be a disk that is full; `otherwise` is for what no I/O error caused.
fn cause_code(error: &(dyn StdError + 'static), otherwise: Code) -> Code {
    io_cause(error).map_or(otherwise, |cause| io_code(cause.kind()))
}

/// The first I/O error among the causes.
fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(found) = source.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = source.source();
    }
    None
}

fn monitor_code(error: &monitors::Error) -> Code {
    match error {
        monitors::Error::Refused(refused) => match refused.code {
            ErrorCode::NotFound => Code::NotFound,
            ErrorCode::AlreadyExists => Code::AlreadyExists,
            ErrorCode::InvalidArgument => Code::InvalidArgument,
            // An OCI runtime tells no kinds of refusals apart: a command that is not in the image, a bundle or a
            // limit that it does not take, a process that has just ended.
            ErrorCode::FailedPrecondition
            | ErrorCode::RuntimeMissing
            | ErrorCode::RuntimeFailed => Code::FailedPrecondition,
            ErrorCode::ResourceExhausted => Code::ResourceExhausted,
            ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorCode::Unimplemented => Code::Unimplemented,
            ErrorCode::Io | ErrorCode::Internal if is_shortage(refused.errno) => {
                Code::ResourceExhausted
            }
            ErrorCode::Io | ErrorCode::Incompatible | ErrorCode::Internal => Code::Internal,
        },
        monitors::Error::Disconnected { .. } => Code::Unavailable,
        monitors::Error::Timeout { .. } => Code::DeadlineExceeded,
        monitors::Error::Io { source, .. } if is_shortage(source.raw_os_error()) => {
            Code::ResourceExhausted
        }
        monitors::Error::Io { .. }
        | monitors::Error::Protocol { .. }
        | monitors::Error::Foreign { .. }
        | monitors::Error::Ended { .. }
        | _ => Code::Internal,
    }
}

/// No process, no memory or no room was left.
fn is_shortage(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EAGAIN | libc::ENOMEM | libc::ENOSPC))
}

fn image_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidReference | ErrorKind::Ambiguous => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthorized => Code::Unauthenticated,
        ErrorKind::Unreachable => Code::Unavailable,
        ErrorKind::Blocked => Code::PermissionDenied,
        ErrorKind::DigestMismatch | ErrorKind::Malformed => Code::DataLoss,
        ErrorKind::NoPlatform
        | ErrorKind::Unsupported
        | ErrorKind::InUse
        | ErrorKind::Configuration => Code::FailedPrecondition,
        ErrorKind::TooLarge | ErrorKind::NoSpace | ErrorKind::Throttled => Code::ResourceExhausted,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::Kind;
    use crate::network::InvalidPod;

    #[test]
    fn codes_and_messages() {
        let missing = || PodError::NotFound {
            kind: Kind::Pod,
            id: "p".into(),
        };
        let full = || PodError::Io {
            operation: "writing",
            path: "/x".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        };
        let rows = [
            (missing(), Code::NotFound, "\"p\" does not exist"),
            (
                full(),
                Code::ResourceExhausted,
                "writing /x: no storage space",
            ),
            (
                PodError::Cleanup {
                    failed: Box::new(full()),
                    cleanup: vec![missing()],
                },
                Code::ResourceExhausted,
                "does not exist",
            ),
            (
                PodError::Store {
                    id: "p".into(),
                    source: StoreError::Database {
                        operation: "writing",
                        path: "/s".into(),
                        cause: "no space left".into(),
                        kind: Some(io::ErrorKind::StorageFull),
                    },
                },
                Code::ResourceExhausted,
                "writing of /s: no space left",
            ),
            (
                PodError::Several(vec![missing(), full()]),
                Code::NotFound,
                "writing",
            ),
        ];
        check(rows);
    }

    #[test]
    fn what_the_node_lacks_is_no_object_that_is_gone() {
        let network = |source| PodError::NetworkAdd {
            id: "p".into(),
            source: Box::new(source),
        };
        check([
            (
                PodError::Io {
                    operation: "reading",
                    path: "/y".into(),
                    source: io::Error::from(io::ErrorKind::NotFound),
                },
                Code::FailedPrecondition,
                "reading /y",
            ),
            (
                network(AddError::NotReady {
                    reason: "no file".into(),
                }),
                Code::FailedPrecondition,
                "no file",
            ),
            (
                network(AddError::Invalid(InvalidPod {
                    pod_id: "p".into(),
                    field: "name",
                    value: "a;b".into(),
                })),
                Code::InvalidArgument,
                "a;b",
            ),
            (
                PodError::MonitorSilent {
                    operation: "start",
                    subject: "container c".into(),
                    limit: std::time::Duration::from_secs(120),
                },
                Code::DeadlineExceeded,
                "start of container c: the monitor has not answered within 120 s",
            ),
        ]);
    }

    fn check<const N: usize>(rows: [(PodError, Code, &str); N]) {
        for (error, code, part) in rows {
            let status = of(&error);
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(part), "{status}");
        }
    }
}
