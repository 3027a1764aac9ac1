//! What some calls do beyond changing the pod.

use std::sync::Arc;
use std::time::Duration;

use pod_monitor_schema::wire::event_sink;
use pod_monitor_schema::{
    Error, ErrorCode, Event, Exit, Hello, Message as _, OLDEST_VERSION, VERSION, Welcome,
    capability,
};
use tokio::sync::mpsc;

use super::Shared;
use super::exec::exited;

pub(super) fn welcome(shared: &Shared, hello: &Hello) -> Result<Welcome, Error> {
    let Some(version) = hello.common_version(OLDEST_VERSION, VERSION) else {
        let detail = format!("the monitor speaks versions {OLDEST_VERSION} to {VERSION}");
        return Err(Error::new(
            ErrorCode::Incompatible,
            "hello",
            &hello.name,
            detail,
        ));
    };
    Ok(Welcome {
        version,
        capabilities: vec![capability::OOM_EVENTS.into(), capability::PAUSE.into()],
        monitor_version: format!("fake {}", env!("CARGO_PKG_VERSION")),
        pid: shared.pid,
        pod_id: shared.config.id.clone(),
        pod_pid: None,
    })
}

/// Sends events one by one, each when the one before has its receipt.
pub(super) async fn push(mut events: mpsc::Receiver<Event>, sink: event_sink::Client) {
    while let Some(event) = events.recv().await {
        let mut request = sink.event_request();
        event.write(request.get().init_event());
        if request.send().promise.await.is_err() {
            return;
        }
    }
}

pub(super) async fn stop(
    shared: &Arc<Shared>,
    id: &str,
    signal: u8,
    grace: Duration,
) -> Result<Exit, Error> {
    if let Some(exit) = shared.pod().exit_of(id)? {
        return Ok(exit);
    }
    shared.change(|pod| pod.signal(id, signal))?;
    if tokio::time::timeout(grace, exited(shared, id))
        .await
        .is_err()
    {
        // Where it exits just now, the signal has nobody to reach.
        let _ = shared.change(|pod| pod.signal(id, 9));
    }
    let exit = shared.pod().exit_of(id)?;
    let detail = "it did not exit";
    exit.ok_or_else(|| Error::new(ErrorCode::FailedPrecondition, "stop", id, detail))
}

/// The answer is queued when the handler has returned, and disconnecting sends what is queued.
pub(super) async fn stop_after_answer(shared: Arc<Shared>) {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    shared.stop();
}
