//! The CRI services: decode, call, encode.
//!
//! Every call has an id, from the client's `x-request-id` or made here, that is in each line of the
//! log and goes on to the monitor. `status.rs` alone picks gRPC codes, `views.rs` alone words what
//! is known in the CRI's messages, `filters.rs` says which of it was asked for, `conditions.rs` whether
//! the node is ready.
//!
//! Deliberately absent: any decision, any state. What a later version will serve answers
//! UNIMPLEMENTED and says what it is.

mod conditions;
mod filters;
mod image;
mod measure;
mod metrics;
mod runtime;
mod stats;
mod status;
mod stream;
mod verbose;
mod views;

use std::time::Instant;

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

pub use image::ImageServer;
pub use runtime::RuntimeServer;
use status::later;
pub(crate) use status::of_image;

use crate::monitors::Trace;
use crate::pod::Pods;

/// Takes a request apart, carries it out under its own id, and logs how it went.
async fn serve<Q, R, F>(
    call: &'static str,
    request: Request<Q>,
    work: impl FnOnce(Q, Trace) -> F,
) -> Result<Response<R>, Status>
where
    F: Future<Output = Result<R, Status>>,
{
    let trace = trace(&request);
    let span = tracing::info_span!("cri", call, request = %trace.request_id);
    let started = Instant::now();
    async {
        let outcome = work(request.into_inner(), trace).await;
        let elapsed = started.elapsed();
        match &outcome {
            Ok(_) => tracing::debug!(?elapsed, "done"),
            Err(status) => {
                tracing::warn!(?elapsed, code = ?status.code(), "{}", status.message());
            }
        }
        outcome.map(Response::new)
    }
    .instrument(span)
    .await
}

/// Like [`serve`], for a list: none is sent that is larger than what a client of the CRI takes, for it would
/// get an error that does not say what helps.
async fn serve_list<Q, R, F>(
    call: &'static str,
    pods: &Pods,
    request: Request<Q>,
    work: impl FnOnce(Q) -> F,
) -> Result<Response<R>, Status>
where
    R: prost::Message,
    F: Future<Output = Result<R, Status>>,
{
    let limit = pods.services().config.limits.grpc_message.get();
    serve(call, request, async |asked, _| {
        let list = work(asked).await?;
        match list.encoded_len() {
            bytes if u64::try_from(bytes).is_ok_and(|bytes| bytes <= limit) => Ok(list),
            bytes => Err(status::too_large(call, bytes, limit)),
        }
    })
    .await
}

/// The client's own request id and trace, or a new id.
fn trace<Q>(request: &Request<Q>) -> Trace {
    let metadata = |name: &str| {
        let value = request.metadata().get(name)?.to_str().ok()?;
        // They end up in other programs' logs.
        (value.len() <= 128).then(|| value.to_owned())
    };
    Trace {
        request_id: metadata("x-request-id").unwrap_or_else(new_request_id),
        traceparent: metadata("traceparent").unwrap_or_default(),
    }
}

fn new_request_id() -> String {
    let mut bytes = [0; 8];
    // An id that repeats harms a log's reader only.
    let _ = getrandom::fill(&mut bytes);
    hex::encode(bytes)
}
