//! How the monitor's own errors become those of the contract.

use std::error::Error as _;
use std::path::Path;

use pod_monitor_schema::{Error, ErrorCode};

use crate::runtime::CallError;

/// What a call of the OCI runtime failed with, as the caller sees it.
pub(crate) fn of_call(operation: &str, subject: &str, error: &CallError) -> Error {
    let code = match error {
        CallError::Missing { source, .. } if is_shortage(source) => ErrorCode::ResourceExhausted,
        CallError::Missing { .. } => ErrorCode::RuntimeMissing,
        CallError::TimedOut { .. } => ErrorCode::DeadlineExceeded,
        CallError::Refused { .. } => ErrorCode::RuntimeFailed,
        CallError::Io { .. } => ErrorCode::Io,
    };
    let errno = match error {
        CallError::Missing { source, .. } | CallError::Io { source, .. } => source.raw_os_error(),
        CallError::TimedOut { .. } | CallError::Refused { .. } => None,
    };
    let mut detail = error.to_string();
    if let Some(source) = error.source() {
        detail.push_str(": ");
        detail.push_str(&source.to_string());
    }
    Error {
        errno,
        ..Error::new(code, operation, subject, detail)
    }
}

/// Whether there was no process or no memory left for a program that is there: it may be better in a moment.
fn is_shortage(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    )
}

pub(crate) fn not_found(operation: &str, id: &str) -> Error {
    Error::new(
        ErrorCode::NotFound,
        operation,
        id,
        "no container has this id",
    )
}

pub(crate) fn not_now(operation: &str, id: &str, why: &str) -> Error {
    Error::new(ErrorCode::FailedPrecondition, operation, id, why)
}

/// Paths are the client's: which directory they would be relative to is nobody's business.
pub(crate) fn absolute(operation: &str, path: &Path) -> Result<(), Error> {
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.display().to_string();
    Err(invalid(operation, &path, "not an absolute path"))
}

pub(crate) fn invalid(operation: &str, subject: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, operation, subject, why)
}
