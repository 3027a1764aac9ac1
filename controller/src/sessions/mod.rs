//! Exec, attach and port-forward: what the streaming server is handed.
//!
//! The CRI call checks what can be known beforehand and gets a URL. Only when the client comes does
//! an opener here ask the pod's monitor for the process's descriptors, or the pod's network
//! namespace for a connection. Bytes go between the descriptors and the client; no Cap'n Proto
//! message ever holds one.
//!
//! Deliberately absent: protocols and tokens (`husk-streaming`), processes (the monitor).

mod attach;
mod exec;
mod forward;

use husk_cri_api::v1;
use husk_streaming::{
    PortForwardSession, RemoteSession, SessionError, StreamSet, StreamSetError, TokenError,
};

use crate::chain::chain;
use crate::container;
use crate::error::PodError;
use crate::monitors::Trace;
use crate::pod::Pods;
use crate::services::Services;
use crate::view::{Found, PodView};

/// Why a session is not offered.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The combination of streams makes no sense.
    #[error("streams of the session")]
    Streams(#[from] StreamSetError),
    /// Too many sessions wait for their clients.
    #[error("offering the session")]
    Token(#[from] TokenError),
    /// The container or pod is not in a state for it.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// A port is none.
    #[error("{0} is no port number")]
    Port(i32),
}

/// Offers an exec; answers the URL for one client.
///
/// # Errors
/// [`OfferError`].
pub fn offer_exec(
    pods: &Pods,
    found: &Found,
    asked: &v1::ExecRequest,
    trace: Trace,
) -> Result<String, OfferError> {
    let streams = checked(StreamSet {
        stdin: asked.stdin,
        stdout: asked.stdout,
        stderr: asked.stderr,
        tty: asked.tty,
    })?;
    let wanted = container::Exec {
        arguments: &asked.cmd,
        terminal: asked.tty,
        streams: monitor_streams(streams),
        timeout: None,
    };
    let opener = exec::ExecOpener {
        config: container::exec_config(pods.services(), found, &wanted)?,
        pods: pods.clone(),
        trace,
    };
    let session = RemoteSession {
        streams,
        opener: Box::new(opener),
    };
    Ok(pods.services().streaming.exec_url(session)?)
}

/// Offers an attach; answers the URL for one client.
///
/// # Errors
/// [`OfferError`].
pub fn offer_attach(
    pods: &Pods,
    found: &Found,
    asked: &v1::AttachRequest,
    trace: Trace,
) -> Result<String, OfferError> {
    let streams = checked(StreamSet {
        stdin: asked.stdin,
        stdout: asked.stdout,
        stderr: asked.stderr,
        tty: asked.tty,
    })?;
    let opener = attach::AttachOpener {
        container: found.container.id.clone(),
        streams: monitor_streams(streams),
        pods: pods.clone(),
        trace,
    };
    let session = RemoteSession {
        streams,
        opener: Box::new(opener),
    };
    Ok(pods.services().streaming.attach_url(session)?)
}

/// Offers a port-forward; answers the URL for one client.
///
/// # Errors
/// [`OfferError`].
pub fn offer_port_forward(
    services: &Services,
    pod: &PodView,
    ports: &[i32],
) -> Result<String, OfferError> {
    let number = |port: &i32| match u16::try_from(*port) {
        Ok(number @ 1..) => Ok(number),
        Ok(0) | Err(_) => Err(OfferError::Port(*port)),
    };
    let session = PortForwardSession {
        ports: ports.iter().map(number).collect::<Result<_, _>>()?,
        connector: Box::new(forward::PodConnector::new(services, pod)),
    };
    Ok(services.streaming.port_forward_url(session)?)
}

fn checked(streams: StreamSet) -> Result<StreamSet, StreamSetError> {
    streams.check().map(|()| streams)
}

fn monitor_streams(streams: StreamSet) -> pod_monitor_client::schema::StreamSet {
    pod_monitor_client::schema::StreamSet {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    }
}

/// What the person at the client reads.
fn session_error(error: &(dyn std::error::Error + 'static)) -> SessionError {
    SessionError::new(chain(error))
}
