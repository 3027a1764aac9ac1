//! Work on layers that pulls and imports share: one worker per layer, a bounded number of them, and
//! blocking work kept off the async threads.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::failure::Cause;
use crate::fault;
use crate::layer::{self, Budget, Source, UnpackLimits};
use crate::locks::KeyedLocks;
use crate::progress::{LayerPhase, Progress, ProgressEvent};
use crate::store::Store;

/// Uncompressed bytes between two progress events.
const REPORT_EVERY: u64 = 1 << 20;

/// The workers of one store.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) store: Arc<Store>,
    slots: Arc<Semaphore>,
    layers: KeyedLocks<Digest>,
    blobs: KeyedLocks<Digest>,
}

/// One layer of one image.
#[derive(Clone)]
pub(crate) struct LayerJob {
    /// What the layer is called in progress events and errors.
    pub(crate) name: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) limits: UnpackLimits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) progress: Arc<dyn Progress>,
    /// Only held.
    pub(crate) _crew: Membership,
}

/// All work on the layers of one image. When one layer fails, blocking work on the others cannot be
/// stopped, but it can be waited for, so that a failure is only reported when nothing goes on.
#[derive(Debug)]
pub(crate) struct Crew {
    member: mpsc::Sender<()>,
    gone: mpsc::Receiver<()>,
}

/// Held by whoever still works.
pub(crate) type Membership = mpsc::Sender<()>;

impl Crew {
    pub(crate) fn new() -> Self {
        let (member, gone) = mpsc::channel(1);
        Self { member, gone }
    }

    pub(crate) fn join(&self) -> Membership {
        self.member.clone()
    }

    /// Waits until every membership is dropped.
    pub(crate) async fn wait(self) {
        let Self { member, mut gone } = self;
        drop(member);
        // Nothing is ever sent: the end of the channel is the message.
        while gone.recv().await.is_some() {}
    }
}

/// The right to make a layer. It must live until the layer is in the store.
#[derive(Debug)]
pub(crate) struct Turn {
    _layer: OwnedMutexGuard<()>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl LayerJob {
    pub(crate) fn report(&self, phase: LayerPhase, done: u64, total: u64) {
        self.progress.event(ProgressEvent::Layer {
            digest: self.name,
            phase,
            done,
            total,
        });
    }
}

impl Workers {
    pub(crate) fn new(store: Arc<Store>, parallel: usize) -> Self {
        Self {
            store,
            slots: Arc::new(Semaphore::new(parallel.max(1))),
            layers: KeyedLocks::default(),
            blobs: KeyedLocks::default(),
        }
    }

    /// Waits until this layer may be made; `None` if it is in the store.
    pub(crate) async fn turn(&self, job: &LayerJob) -> Result<Option<Turn>, Cause> {
        job.report(LayerPhase::Waiting, 0, 0);
        let layer = self.layers.lock(job.diff_id).await;
        let store = Arc::clone(&self.store);
        let diff_id = job.diff_id;
        if blocking(move || Ok::<_, Cause>(store.has_layer(&diff_id))).await? {
            job.report(LayerPhase::Exists, 0, 0);
            return Ok(None);
        }
        // The semaphore is never closed; were it, working without a slot would do no harm.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        Ok(Some(Turn {
            _layer: layer,
            _slot: slot,
        }))
    }

    /// Waits for the right to download a blob.
    pub(crate) async fn blob(&self, digest: Digest) -> OwnedMutexGuard<()> {
        self.blobs.lock(digest).await
    }

    /// Unpacks a layer into the store, on this thread.
    pub(crate) fn unpack(
        store: &Arc<Store>,
        job: &LayerJob,
        (reader, compressed): (Box<dyn Read + Send>, u64),
    ) -> Result<(), Cause> {
        let draft = store.draft_layer()?;
        let reported = AtomicU64::new(0);
        let watched = job.clone();
        let source = Source {
            reader,
            compressed,
            diff_id: Some(job.diff_id),
            limits: job.limits,
            budget: Arc::clone(&job.budget),
            progress: Box::new(move |done| {
                if done >= reported.load(Ordering::Relaxed) + REPORT_EVERY {
                    reported.store(done, Ordering::Relaxed);
                    watched.report(LayerPhase::Unpacking, done, 0);
                }
            }),
        };
        job.report(LayerPhase::Unpacking, 0, 0);
        let unpacked = layer::unpack(source, &draft.content());
        let unpacked = unpacked.map_err(|source| Cause::Layer {
            digest: job.name,
            source,
        })?;
        fault::point("pull.layer.unpacked").map_err(StoreError::from)?;
        draft.commit(job.diff_id, unpacked)?;
        fault::point("pull.layer.kept").map_err(StoreError::from)?;
        job.report(LayerPhase::Done, unpacked.bytes, unpacked.bytes);
        Ok(())
    }
}

/// Runs blocking work on its own thread pool. It runs to its end even if the caller goes away.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopped.into()),
        },
    }
}
