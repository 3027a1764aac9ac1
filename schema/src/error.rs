//! How a call says that it failed: a code to decide by, and words for people.

use std::fmt;

use crate::message::{present, text};
use crate::{Message, wire};

/// Why the other side did not do what it was asked for.
#[expect(clippy::error_impl_error, reason = "the schema's name for it")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What callers decide by.
    pub code: ErrorCode,
    /// What was being done: `create`, `open log`.
    pub operation: String,
    /// What it was done to: a container's id, a path.
    pub subject: String,
    /// The cause in words.
    pub detail: String,
    /// The kernel's error number where the cause is a system call.
    pub errno: Option<i32>,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A fault of the callee. Also what a code from a newer peer is read as.
    Internal,
    /// Nothing has the id.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request can never be right.
    InvalidArgument,
    /// The request is not right now, for example starting what runs already.
    FailedPrecondition,
    /// A limit of the callee or of the kernel is reached.
    ResourceExhausted,
    /// The operation took longer than it may and was undone.
    DeadlineExceeded,
    /// The OCI runtime ran and refused; the detail holds what it said.
    RuntimeFailed,
    /// The OCI runtime's program could not be started.
    RuntimeMissing,
    /// A system call failed.
    Io,
    /// The protocol versions do not meet.
    Incompatible,
    /// The callee knows the call, and does not offer it.
    Unimplemented,
}

impl Error {
    /// An error without an error number.
    #[must_use]
    pub fn new(
        code: ErrorCode,
        operation: impl Into<String>,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            code,
            operation: operation.into(),
            subject: subject.into(),
            detail: detail.into(),
            errno: None,
        }
    }

    /// A system call's failure, as [`ErrorCode::Io`].
    #[must_use]
    pub fn io(
        operation: impl Into<String>,
        subject: impl Into<String>,
        source: &std::io::Error,
    ) -> Self {
        Self {
            code: ErrorCode::Io,
            operation: operation.into(),
            subject: subject.into(),
            detail: source.to_string(),
            errno: source.raw_os_error(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Message for Error {
    type Wire = wire::error::Owned;

    fn read(reader: wire::error::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            code: reader
                .get_code()
                .map_or(ErrorCode::Internal, ErrorCode::from),
            operation: text(reader.get_operation())?,
            subject: text(reader.get_subject())?,
            detail: text(reader.get_detail())?,
            errno: present(reader.get_errno()),
        })
    }

    fn write(&self, mut builder: wire::error::Builder<'_>) {
        builder.set_code(self.code.into());
        builder.set_operation(&self.operation);
        builder.set_subject(&self.subject);
        builder.set_detail(&self.detail);
        builder.set_errno(self.errno.unwrap_or_default());
    }
}

impl From<wire::ErrorCode> for ErrorCode {
    fn from(code: wire::ErrorCode) -> Self {
        match code {
            wire::ErrorCode::Internal => Self::Internal,
            wire::ErrorCode::NotFound => Self::NotFound,
            wire::ErrorCode::AlreadyExists => Self::AlreadyExists,
            wire::ErrorCode::InvalidArgument => Self::InvalidArgument,
            wire::ErrorCode::FailedPrecondition => Self::FailedPrecondition,
            wire::ErrorCode::ResourceExhausted => Self::ResourceExhausted,
            wire::ErrorCode::DeadlineExceeded => Self::DeadlineExceeded,
            wire::ErrorCode::RuntimeFailed => Self::RuntimeFailed,
            wire::ErrorCode::RuntimeMissing => Self::RuntimeMissing,
            wire::ErrorCode::Io => Self::Io,
            wire::ErrorCode::Incompatible => Self::Incompatible,
            wire::ErrorCode::Unimplemented => Self::Unimplemented,
        }
    }
}

impl From<ErrorCode> for wire::ErrorCode {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Internal => Self::Internal,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::AlreadyExists => Self::AlreadyExists,
            ErrorCode::InvalidArgument => Self::InvalidArgument,
            ErrorCode::FailedPrecondition => Self::FailedPrecondition,
            ErrorCode::ResourceExhausted => Self::ResourceExhausted,
            ErrorCode::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorCode::RuntimeFailed => Self::RuntimeFailed,
            ErrorCode::RuntimeMissing => Self::RuntimeMissing,
            ErrorCode::Io => Self::Io,
            ErrorCode::Incompatible => Self::Incompatible,
            ErrorCode::Unimplemented => Self::Unimplemented,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_leaves_out_what_is_empty() {
        let rows = [
            (
                "create",
                "c1",
                "no such bundle",
                "create c1: no such bundle",
            ),
            ("create", "c1", "", "create c1"),
            (
                "shutdown",
                "",
                "containers are left",
                "shutdown: containers are left",
            ),
        ];
        for (operation, subject, detail, expect) in rows {
            let error = Error::new(ErrorCode::Internal, operation, subject, detail);
            assert_eq!(error.to_string(), expect);
        }
    }
}
