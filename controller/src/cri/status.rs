//! Errors as gRPC statuses: the only place that picks codes. The message is the error with all its
//! causes.

use std::error::Error as StdError;
use std::io;

use husk_image::ErrorKind;
use pod_monitor_client::schema::ErrorCode;
use tonic::{Code, Status};

use crate::chain::chain;
use crate::pod::{PodError, SharedError};
use crate::sessions::OfferError;
use crate::stats::StatsError;
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
        | PodError::Device { .. } => Code::InvalidArgument,
        PodError::State { .. } => Code::FailedPrecondition,
        PodError::ExecTimeout { .. } | PodError::Unkillable { .. } => Code::DeadlineExceeded,
        PodError::NoMonitor { .. } | PodError::Stopping { .. } => Code::Unavailable,
        PodError::Image { source, .. } => image_code(source.kind()),
        PodError::Rootfs { source, .. } => image_code(source.kind()),
        PodError::Monitor { source, .. } => monitor_code(source),
        PodError::Io { source, .. } => io_code(source),
        PodError::NetworkAdd { source, .. } if source.is_not_ready() => Code::FailedPrecondition,
        PodError::NetworkAdd { .. }
        | PodError::NetworkDel { .. }
        | PodError::Scope { .. }
        | PodError::Store { .. } => {
            // Somewhere below may be a disk that is full.
            io_cause(error).map_or(Code::Internal, io_code)
        }
        PodError::Cleanup { failed, .. } => code(failed),
        PodError::Several(errors) => errors.first().map_or(Code::Internal, code),
    }
}

fn io_code(error: &io::Error) -> Code {
    let kind = error.kind();
    if matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        Code::ResourceExhausted
    } else if kind == io::ErrorKind::NotFound {
        Code::NotFound
    } else {
        Code::Internal
    }
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
            ErrorCode::FailedPrecondition | ErrorCode::RuntimeMissing => Code::FailedPrecondition,
            ErrorCode::ResourceExhausted => Code::ResourceExhausted,
            ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorCode::Unimplemented => Code::Unimplemented,
            ErrorCode::Io if refused.errno == Some(libc::ENOSPC) => Code::ResourceExhausted,
            ErrorCode::RuntimeFailed
            | ErrorCode::Io
            | ErrorCode::Incompatible
            | ErrorCode::Internal => Code::Internal,
        },
        monitors::Error::Disconnected { .. } => Code::Unavailable,
        monitors::Error::Timeout { .. } => Code::DeadlineExceeded,
        monitors::Error::Io { .. }
        | monitors::Error::Protocol { .. }
        | monitors::Error::Foreign { .. }
        | monitors::Error::Ended { .. }
        | _ => Code::Internal,
    }
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
    use crate::pod::Kind;

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
                PodError::Several(vec![missing(), full()]),
                Code::NotFound,
                "writing",
            ),
        ];
        for (error, code, part) in rows {
            let status = of(&error);
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(part), "{status}");
        }
    }
}
