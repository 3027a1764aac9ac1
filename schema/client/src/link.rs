//! A monitor's connection, which is another one after the monitor has become another program.

use std::sync::{Arc, PoisonError};

use pod_monitor_schema::wire::monitor;
use tokio_util::sync::CancellationToken;

use crate::remote::Remote;
use crate::{Monitor, MonitorError};

pub(crate) type Gate = tokio::sync::RwLock<()>;

/// One connection of the monitor's.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) remote: Remote<monitor::Client>,
    pub(crate) closed: CancellationToken,
}

impl Monitor {
    /// Waits until the connection is gone.
    pub async fn disconnected(&self) {
        let mut link = self.link();
        loop {
            link.closed.cancelled().await;
            match self.next_link(&link).await {
                Some(next) => link = next,
                None => return,
            }
        }
    }

    /// The connection as it is now.
    pub(crate) fn link(&self) -> Arc<Link> {
        let link = self.0.link.read();
        // Nothing panics while it holds the lock.
        link.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_link(&self, link: Link) {
        let current = self.0.link.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(link);
    }

    /// The connection after one that broke, where an upgrade has replaced it.
    pub(crate) async fn next_link(&self, broken: &Arc<Link>) -> Option<Arc<Link>> {
        let calls = self.0.gate.read().await;
        let link = self.link();
        drop(calls);
        (!Arc::ptr_eq(&link, broken)).then_some(link)
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.0.gate
    }

    /// Makes one call; see [`Remote::call`].
    pub(crate) async fn call<T, F, Fut>(
        &self,
        operation: &'static str,
        make: F,
    ) -> Result<T, MonitorError>
    where
        T: Send + 'static,
        F: FnOnce(monitor::Client) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, MonitorError>> + 'static,
    {
        let calls = self.0.gate.read().await;
        let answer = self.link().remote.call(operation, make).await;
        drop(calls);
        answer
    }
}
