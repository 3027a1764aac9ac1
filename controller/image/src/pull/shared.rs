//! One pull for all who want the same at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::failure::PullError;
use crate::image::Image;
use crate::progress::{Progress, ProgressEvent};

/// What makes two pulls the same.
pub(super) type Key = (String, Option<Credentials>);
type Outcome = Result<Image, PullError>;

/// The pulls that are under way.
#[derive(Debug, Default)]
pub(crate) struct SharedPulls(Arc<Mutex<HashMap<Key, Running>>>);

#[derive(Debug)]
struct Running {
    outcome: watch::Receiver<Option<Outcome>>,
    watchers: Arc<Watchers>,
}

impl SharedPulls {
    /// Waits for a pull, starting it if it is not under way. The pull is a task of its own, so it ends
    /// whoever still waits for it.
    pub(super) async fn join<F>(
        &self,
        key: Key,
        progress: Arc<dyn Progress>,
        start: impl FnOnce(Key, Arc<dyn Progress>) -> F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let reference = key.0.clone();
        let mut outcome = {
            let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(known) => {
                    known.watchers.add(progress);
                    known.outcome.clone()
                }
                None => {
                    let (outcome, watchers) = self.spawn(key.clone(), progress, start);
                    running.insert(
                        key,
                        Running {
                            outcome: outcome.clone(),
                            watchers,
                        },
                    );
                    outcome
                }
            }
        };
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(PullError::new(reference, StoreError::Stopped)),
        }
    }

    fn spawn<F>(
        &self,
        key: Key,
        progress: Arc<dyn Progress>,
        start: impl FnOnce(Key, Arc<dyn Progress>) -> F,
    ) -> (watch::Receiver<Option<Outcome>>, Arc<Watchers>)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        let watchers = Arc::new(Watchers::default());
        watchers.add(progress);
        let task = start(key.clone(), Arc::clone(&watchers) as Arc<dyn Progress>);
        // Also when the task panics or is cancelled: the next caller must be able to start anew.
        let entry = Entry(Arc::clone(&self.0), key);
        tokio::spawn(async move {
            let outcome = task.await;
            drop(entry);
            // Nobody waiting any more is fine.
            let _ = sender.send(Some(outcome));
        });
        (receiver, watchers)
    }
}

/// Takes a pull off the list when dropped.
struct Entry(Arc<Mutex<HashMap<Key, Running>>>, Key);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.1);
    }
}

/// Passes events on to everyone who waits, and tells those who come later how far things are.
#[derive(Default)]
struct Watchers(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    progress: Vec<Arc<dyn Progress>>,
    resolved: Option<ProgressEvent>,
    layers: HashMap<Digest, ProgressEvent>,
}

impl Watchers {
    fn add(&self, progress: Arc<dyn Progress>) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in watched.resolved.iter().chain(watched.layers.values()) {
            progress.event(event.clone());
        }
        watched.progress.push(progress);
    }
}

impl Progress for Watchers {
    fn event(&self, event: ProgressEvent) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            ProgressEvent::Resolved { .. } => watched.resolved = Some(event.clone()),
            ProgressEvent::Layer { digest, .. } => {
                watched.layers.insert(*digest, event.clone());
            }
            ProgressEvent::Retrying { .. } | ProgressEvent::Stored { .. } => {}
        }
        for progress in &watched.progress {
            progress.event(event.clone());
        }
    }
}

impl std::fmt::Debug for Watchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watchers")
    }
}
