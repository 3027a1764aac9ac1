//! Whether the networks of the pods that were taken over are still as they were left.
//!
//! The CNI specification has a runtime call CHECK to find out whether an attachment is still in
//! order. A daemon that was away is the one that cannot know: meanwhile somebody may have flushed
//! a firewall, deleted a bridge or moved an interface. The pods run on all the same, and what is
//! wrong is said in the log, for no condition of the CRI can say it.

use crate::chain::chain;
use crate::pod::Pods;
use crate::view::PodPhase;

/// Checks one pod after the other, beside everything else: calls of plugins take their time, and
/// nothing waits for this.
pub(super) fn check(pods: &Pods) {
    let attached: Vec<String> = (pods.list().iter())
        .filter(|pod| pod.phase == PodPhase::Ready && !pod.record.addresses.is_empty())
        .map(|pod| pod.record.id.clone())
        .collect();
    if attached.is_empty() {
        return;
    }
    let pods = pods.clone();
    tokio::spawn(async move {
        for id in attached {
            check_one(&pods, &id).await;
        }
    });
}

async fn check_one(pods: &Pods, id: &str) {
    let is_ready = || (pods.pod(id)).is_ok_and(|pod| pod.phase == PodPhase::Ready);
    if !is_ready() {
        return;
    }
    let checked = pods.services().network.check(id).await;
    match checked {
        Err(error) if !error.is_finding() => {
            tracing::debug!(pod = %id, error = %chain(&error), "the pod's network was not checked");
        }
        // A pod that is being stopped loses its network meanwhile, as it should.
        Err(error) if is_ready() => {
            tracing::warn!(pod = %id, error = %chain(&error), "the pod's network is not as it was");
        }
        Ok(()) | Err(_) => {}
    }
}
