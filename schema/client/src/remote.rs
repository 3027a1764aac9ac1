//! One capability on the RPC thread and its handles elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::MonitorError;

/// How many calls wait for the thread, besides one of each caller that waits with them. There is a
/// queue for every monitor and nearly always nothing in it: this kind takes its room when something
/// comes, where tokio's take a kilobyte from the start on.
const QUEUE: usize = 64;

/// How many calls of one capability wait for their answer, those included whose callers went
/// away.
const IN_FLIGHT: usize = 1024;

/// How long answers that have arrived may take to be read once the connection is gone.
const DRAIN: Duration = Duration::from_millis(100);

type Job<C> = Box<dyn FnOnce(C) -> LocalBoxFuture<'static, ()> + Send>;

/// A handle of a capability. The capability is dropped when the last handle is.
pub(crate) struct Remote<C> {
    jobs: mpsc::Sender<Job<C>>,
    in_flight: Arc<Semaphore>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
            in_flight: Arc::clone(&self.in_flight),
        }
    }
}

impl<C> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote(..)")
    }
}

impl<C: Clone + 'static> Remote<C> {
    /// Takes the capability into the care of a task of this thread, which runs `ended` when the
    /// last handle is dropped and its calls are answered, or when the connection has closed.
    pub(crate) fn new(
        client: C,
        closed: CancellationToken,
        ended: impl Future<Output = ()> + 'static,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        spawn_local(async move {
            serve(client, queue, closed).await;
            ended.await;
        });
        Self {
            jobs,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    /// Makes one call. It is carried to its end when the caller goes away.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        operation: &'static str,
        make: F,
    ) -> Result<T, MonitorError>
    where
        T: Send + 'static,
        F: FnOnce(C) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, MonitorError>> + 'static,
    {
        let slot = Arc::clone(&self.in_flight)
            .acquire_owned()
            .await
            .map_err(|_| MonitorError::Disconnected { operation })?;
        self.watch(operation, |client| {
            let answer = make(client);
            async move {
                let answer = answer.await;
                drop(slot);
                answer
            }
        })
        .await
    }

    /// Like [`Self::call`], for calls that last as long as a process: they take no slot, or they
    /// could keep out the call that ends the process.
    pub(crate) async fn watch<T, F, Fut>(
        &self,
        operation: &'static str,
        make: F,
    ) -> Result<T, MonitorError>
    where
        T: Send + 'static,
        F: FnOnce(C) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, MonitorError>> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job<C> = Box::new(move |client| {
            let value = make(client);
            async move {
                // Who does not wait any more does not need to be told.
                let _ = answer.send(value.await);
            }
            .boxed_local()
        });
        let gone = || MonitorError::Disconnected { operation };
        self.jobs.clone().send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn serve<C: Clone>(client: C, mut queue: mpsc::Receiver<Job<C>>, closed: CancellationToken) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = closed.cancelled() => break,
            Some(_) = calls.join_next() => {}
            job = queue.next() => match job {
                Some(job) => {
                    calls.spawn_local(job(client.clone()));
                }
                None => break,
            },
        }
    }
    drop(queue);
    tokio::select! {
        () = drain(&mut calls) => {}
        () = closed.cancelled() => {
            // What is not answered by then never will be: dropping it tells its caller.
            let _ = tokio::time::timeout(DRAIN, drain(&mut calls)).await;
        }
    }
}

async fn drain(calls: &mut JoinSet<()>) {
    while calls.join_next().await.is_some() {}
}
