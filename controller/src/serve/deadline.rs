//! The time that a client gives a call, kept with the code that gRPC has for it.
//!
//! tonic keeps it too, but ends the call with CANCELLED, which clients take for their own doing. This layer is inside of
//! tonic's, so that its timer is the older one and its answer the first.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::Service;

/// A service whose calls end with DEADLINE_EXCEEDED when their client's time is over.
#[derive(Debug, Clone)]
pub(super) struct Deadline<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(limit) = limit(request.headers()) else {
            return Box::pin(self.0.call(request));
        };
        let call = request.uri().path().to_owned();
        // Not within the future: the time runs from here.
        let answer = tokio::time::timeout(limit, self.0.call(request));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_elapsed| {
                tracing::warn!(call, ?limit, "the client's time is over");
                let status = format!("not done in the {limit:?} that the client gave it");
                Ok(Status::deadline_exceeded(status).into_http())
            })
        })
    }
}

/// How long the client waits: at most eight digits and a unit (`grpc-timeout` in gRPC's PROTOCOL-HTTP2).
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = digits.bytes().all(|it| it.is_ascii_digit()) && digits.len() <= 8;
    let number = digits.parse().ok().filter(|_| number)?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn asked(timeout: &str) -> Request<()> {
        let request = Request::builder().header("grpc-timeout", timeout);
        request.body(()).unwrap()
    }

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        let read = |text: &str| limit(asked(text).headers());
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("15m"), Some(Duration::from_millis(15)));
        assert_eq!(read("0u"), Some(Duration::ZERO));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "S", "5", "1s", "-1S", "+1S", "999999999S", "1 S"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(limit(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_call_beyond_its_time_has_exceeded_its_deadline() {
        let never = tower::service_fn(|_: Request<()>| {
            pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        let answer = Deadline(never).call(asked("5m")).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
    }

    #[tokio::test]
    async fn a_call_within_its_time_has_its_answer() {
        let done = tower::service_fn(|_: Request<()>| {
            ready(Ok::<_, std::convert::Infallible>(Response::new(
                Body::empty(),
            )))
        });
        for timeout in ["1H", "nonsense"] {
            let answer = Deadline(done).call(asked(timeout)).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"), "{timeout}");
        }
    }
}
