//! From a watcher that must not block to a stream that may be read slowly.
//!
//! What is not read yet is kept once a layer, its newest state: memory is bounded by the image, and
//! no phase that lasts is lost. A client that goes away ends the work it asked for.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use husk_image::{LayerPhase, Progress, ProgressEvent};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::v1::{Layer, Phase, Progress as Message, Retry, StoredImage, progress::Event};

/// Messages that are on their way to the client; more wait, merged, in the [`Relay`].
const ON_THE_WAY: usize = 16;

/// Retries that are kept until they are read. Older ones say nothing that newer ones do not.
const RETRIES: usize = 8;

/// Where the watcher leaves what it saw.
#[derive(Debug, Default)]
pub(super) struct Relay {
    unread: Mutex<Unread>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    layers: Vec<Layer>,
    retries: Vec<Retry>,
}

impl Relay {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What is unread, and read with this.
    fn take(&self) -> Vec<Message> {
        let unread = std::mem::take(&mut *self.lock());
        let retries = unread.retries.into_iter().map(Event::Retry);
        let layers = unread.layers.into_iter().map(Event::Layer);
        retries.chain(layers).map(message).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unread {
    fn layer(&mut self, layer: Layer) {
        match self
            .layers
            .iter_mut()
            .find(|old| old.digest == layer.digest)
        {
            Some(old) => *old = layer,
            None => self.layers.push(layer),
        }
    }

    fn retry(&mut self, retry: Retry) {
        if self.retries.len() == RETRIES {
            self.retries.remove(0);
        }
        self.retries.push(retry);
    }
}

impl Progress for Relay {
    fn event(&self, event: ProgressEvent) {
        let mut unread = self.lock();
        match event {
            ProgressEvent::Resolved { layers, .. } => {
                for (digest, total) in layers {
                    unread.layer(Layer {
                        digest: digest.to_string(),
                        phase: Phase::Waiting.into(),
                        bytes: 0,
                        total,
                    });
                }
            }
            ProgressEvent::Layer {
                digest,
                phase,
                done,
                total,
            } => unread.layer(Layer {
                digest: digest.to_string(),
                phase: encode(phase).into(),
                bytes: done,
                total,
            }),
            ProgressEvent::Retrying { registry, reason } => {
                unread.retry(Retry { registry, reason });
            }
            // The images come with the outcome, complete.
            ProgressEvent::Stored { .. } => {}
        }
        drop(unread);
        self.changed.notify_one();
    }
}

fn encode(phase: LayerPhase) -> Phase {
    match phase {
        LayerPhase::Waiting => Phase::Waiting,
        LayerPhase::Downloading => Phase::Fetching,
        LayerPhase::Verifying => Phase::Verifying,
        LayerPhase::Unpacking => Phase::Unpacking,
        LayerPhase::Exists => Phase::Present,
        LayerPhase::Done => Phase::Done,
    }
}

fn message(event: Event) -> Message {
    Message { event: Some(event) }
}

/// Does `work`, and streams what it tells `relay` and then its outcome.
pub(super) fn relay(
    relay: Arc<Relay>,
    work: impl Future<Output = Result<Vec<StoredImage>, Status>> + Send + 'static,
) -> ReceiverStream<Result<Message, Status>> {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    tokio::spawn(async move {
        // The work has a task of its own, so that a slow reader does not hold it up; the set aborts
        // it when this one ends early.
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        // An error means that nobody reads any more.
        drop(forward(&relay, &mut tasks, &sender).await);
    });
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<Result<Message, Status>>;

async fn forward(
    relay: &Relay,
    work: &mut JoinSet<Result<Vec<StoredImage>, Status>>,
    sender: &Sender,
) -> Result<(), mpsc::error::SendError<Result<Message, Status>>> {
    let outcome = loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            () = relay.changed.notified() => send_all(relay.take(), sender).await?,
            outcome = work.join_next() => break outcome,
        }
    };
    send_all(relay.take(), sender).await?;
    match outcome {
        Some(Ok(Ok(images))) => {
            let images = images.into_iter().map(Event::Image).map(message).collect();
            send_all(images, sender).await
        }
        Some(Ok(Err(status))) => sender.send(Err(status)).await,
        Some(Err(_)) | None => {
            let status = Status::internal("the work ended without an outcome");
            sender.send(Err(status)).await
        }
    }
}

async fn send_all(
    messages: Vec<Message>,
    sender: &Sender,
) -> Result<(), mpsc::error::SendError<Result<Message, Status>>> {
    for message in messages {
        sender.send(Ok(message)).await?;
    }
    Ok(())
}
