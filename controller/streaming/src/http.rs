//! From a request to a session: token, protocol, answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::negotiate::{
    ACCEPTED_VERSIONS, Agreement, Carrier, Purpose, Refusal, STREAM_VERSION, negotiate,
};
use crate::serve;
use crate::server::{Pending, Shared};

/// What goes on after the upgrade.
pub(crate) type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

type Answer = Response<Full<Bytes>>;

/// Answers one request; a session is handed over to run once the answer is sent.
pub(crate) fn answer(
    mut request: Request<Incoming>,
    shared: &Arc<Shared>,
    sessions: &mpsc::Sender<Session>,
) -> Result<Answer, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let answer = match prepare(&request, shared) {
        Err(refusal) => refuse(&refusal),
        Ok((pending, agreement)) => match accept(&agreement, request.headers()) {
            Err(refusal) => refuse(&refusal),
            Ok(answer) => {
                let session = Box::pin(attend(upgrade, pending, agreement, Arc::clone(shared)));
                // The queue has room for the one request of a connection.
                let _ = sessions.try_send(session);
                answer
            }
        },
    };
    Ok(answer)
}

/// A token is void after its first use, whatever becomes of the request.
fn prepare(request: &Request<Incoming>, shared: &Shared) -> Result<(Pending, Agreement), Refusal> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and POST are served",
        ));
    }
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "unknown or used session");
    let mut path = request.uri().path().trim_start_matches('/').split('/');
    let (Some(action), Some(token), None) = (path.next(), path.next(), path.next()) else {
        return Err(unknown());
    };
    let pending = shared.redeem(token).ok_or_else(unknown)?;
    let (expected, purpose) = match &pending {
        Pending::Exec(_) => ("exec", Purpose::Remote),
        Pending::Attach(_) => ("attach", Purpose::Remote),
        Pending::PortForward(_) => ("portforward", Purpose::Forward),
    };
    if action != expected {
        return Err(unknown());
    }
    let agreement = negotiate(purpose, request.method(), request.headers())?;
    Ok((pending, agreement))
}

fn accept(agreement: &Agreement, request: &HeaderMap) -> Result<Answer, Refusal> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let protocol = HeaderValue::from_str(&agreement.protocol).ok();
    let protocol = protocol.filter(|value| !value.is_empty());
    if agreement.carrier == Carrier::Spdy {
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.extend(protocol.map(|value| (HeaderName::from_static(STREAM_VERSION), value)));
        return Ok(answer);
    }
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(request)?);
    headers.extend(protocol.map(|value| (SEC_WEBSOCKET_PROTOCOL, value)));
    Ok(answer)
}

fn websocket_accept(request: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if request
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "WebSocket version is not 13",
        ));
    }
    let key = request.get(SEC_WEBSOCKET_KEY);
    let accept = key.and_then(|key| derive_accept_key(key.as_bytes()).parse().ok());
    accept.ok_or(Refusal::new(
        StatusCode::BAD_REQUEST,
        "WebSocket key is missing",
    ))
}

fn refuse(refusal: &Refusal) -> Answer {
    let mut answer = Response::new(Full::from(format!("{}\n", refusal.reason)));
    *answer.status_mut() = refusal.status;
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    for version in &refusal.accepted {
        answer
            .headers_mut()
            .append(ACCEPTED_VERSIONS, HeaderValue::from_static(version));
    }
    answer
}

async fn attend(upgrade: OnUpgrade, pending: Pending, agreement: Agreement, shared: Arc<Shared>) {
    match upgrade.await {
        Ok(io) => serve::session(TokioIo::new(io), pending, agreement, &shared).await,
        Err(error) => tracing::debug!(%error, "upgrade of a streaming client"),
    }
}
