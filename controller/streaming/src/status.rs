//! What the error channel says when a session ends.
//!
//! From version 4 on it is a `metav1.Status` in JSON, which the client parses for
//! the exit code; before, it is a text that is shown to a person, and silence means
//! success.

use bytes::Bytes;
use serde::Serialize;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Exited(i32),
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusFormat {
    Text,
    Json,
}

impl Verdict {
    /// None where the protocol is silent.
    pub(crate) fn render(&self, format: StatusFormat) -> Option<Bytes> {
        match (self, format) {
            (Verdict::Exited(0), StatusFormat::Text) => None,
            (_, StatusFormat::Text) => Some(self.message().into()),
            (_, StatusFormat::Json) => {
                // Strings and numbers always have a JSON form.
                Some(
                    serde_json::to_vec(&self.status())
                        .unwrap_or_default()
                        .into(),
                )
            }
        }
    }

    fn message(&self) -> String {
        match self {
            Verdict::Exited(code) => format!("command terminated with exit code {code}"),
            Verdict::Failed(reason) => reason.clone(),
        }
    }

    fn status(&self) -> Status {
        let mut status = Status {
            metadata: Metadata {},
            status: "Failure",
            message: Some(self.message()),
            reason: None,
            details: None,
            code: None,
        };
        match self {
            Verdict::Exited(0) => {
                status.status = "Success";
                status.message = None;
            }
            Verdict::Exited(code) => {
                let message = code.to_string();
                let cause = Cause {
                    kind: "ExitCode",
                    message,
                };
                status.reason = Some("NonZeroExitCode");
                status.details = Some(Details { causes: [cause] });
            }
            Verdict::Failed(_) => {
                status.reason = Some("InternalError");
                status.code = Some(500);
            }
        }
        status
    }
}

/// The part of `metav1.Status` that clients of exec and attach look at.
#[derive(Serialize)]
struct Status {
    metadata: Metadata,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    /// `StatusCause.Type` is called reason in JSON.
    #[serde(rename = "reason")]
    kind: &'static str,
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_read_as_clients_expect() {
        let exited = r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        let failed = r#"{"metadata":{},"status":"Failure","message":"no \"sh\"","reason":"InternalError","code":500}"#;
        let missing = Verdict::Failed("no \"sh\"".to_owned());
        let rows = [
            (Verdict::Exited(0), StatusFormat::Text, None),
            (
                Verdict::Exited(0),
                StatusFormat::Json,
                Some(r#"{"metadata":{},"status":"Success"}"#),
            ),
            (
                Verdict::Exited(7),
                StatusFormat::Text,
                Some("command terminated with exit code 7"),
            ),
            (Verdict::Exited(7), StatusFormat::Json, Some(exited)),
            (missing.clone(), StatusFormat::Text, Some("no \"sh\"")),
            (missing, StatusFormat::Json, Some(failed)),
        ];
        for (verdict, format, expected) in rows {
            let expected = expected.map(|text| Bytes::from_static(text.as_bytes()));
            assert_eq!(verdict.render(format), expected, "{verdict:?} {format:?}");
        }
    }
}
