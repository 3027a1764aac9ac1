//! Pulling: from a reference to a stored image.
//!
//! ```text
//!  text ─▶ candidates ─▶ endpoints ─▶ manifest ─▶ configuration ─▶ layers, side by side ─▶ store
//! ```
//! The first server that has the manifest is asked for the rest too; the others stand in for a layer
//! that it does not deliver. [`shared`] lets callers of the same pull share it.

mod shared;
mod sources;

use std::sync::Arc;

use futures::future::try_join_all;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::failure::{Cause, PullError};
use crate::fault;
use crate::image::Image;
use crate::images::{Images, Inner};
use crate::kind::ErrorKind;
use crate::layer::Budget;
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::progress::{LayerPhase, Progress, ProgressEvent};
use crate::reference::Reference;
use crate::registries::Registries;
use crate::registry::Download;
use crate::store::NewImage;
use crate::workers::{Crew, LayerJob, Workers, blocking};
pub(crate) use shared::SharedPulls;
use sources::{Sources, Wanted};

/// A manifest and where it came from.
struct Resolved {
    manifest: Manifest,
    bytes: Vec<u8>,
    /// Of what the reference names: the index's digest where there is one.
    digest: Digest,
}

impl Images {
    /// Fetches an image and stores it. Callers that want the same reference with the same credentials
    /// at the same time share one pull, which goes on when one of them goes away.
    ///
    /// # Errors
    /// [`PullError::kind`] tells whose fault it is; the text names reference, server and cause.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        progress: Arc<dyn Progress>,
    ) -> Result<Image, PullError> {
        let inner = Arc::clone(self.inner());
        let key = (reference.to_owned(), credentials);
        self.inner()
            .pulls
            .join(
                key,
                progress,
                move |(reference, credentials), progress| async move {
                    let pulled = inner.pull(&reference, credentials, &progress).await;
                    if let Err(error) = &pulled {
                        inner.clean_after(error.kind()).await;
                    }
                    pulled
                },
            )
            .await
    }
}

impl Inner {
    /// What failed for good leaves nothing; what may succeed soon keeps its complete layers, which
    /// the next garbage collection removes if it does not.
    pub(crate) async fn clean_after(&self, kind: ErrorKind) {
        let transient = [
            ErrorKind::Unreachable,
            ErrorKind::Throttled,
            ErrorKind::Unauthorized,
        ];
        if transient.contains(&kind) {
            return;
        }
        let store = Arc::clone(self.store());
        if let Err(error) = blocking(move || store.collect_garbage()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cleaning up after a failed pull"
            );
        }
    }

    async fn pull(
        &self,
        text: &str,
        credentials: Option<Credentials>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, PullError> {
        let failed = |cause: Cause| PullError::new(text, cause);
        let registries = self.fresh_registries().await.map_err(failed)?;
        let candidates = registries.candidates(text).map_err(|source| {
            failed(Cause::Reference {
                text: text.to_owned(),
                source,
            })
        })?;
        let mut last = None;
        for reference in candidates {
            let pulled = self
                .pull_reference(&reference, &registries, credentials.as_ref(), progress)
                .await;
            match pulled {
                Ok(image) => return Ok(image),
                // A short name: another search registry may have what this one has not.
                Err(cause) => last = Some(PullError::new(&reference, cause)),
            }
        }
        Err(last.unwrap_or_else(|| failed(Cause::NoCandidate)))
    }

    /// The configuration as it is now: administrators change mirrors without a restart.
    async fn fresh_registries(&self) -> Result<Arc<Registries>, Cause> {
        let files = self.config.registries.clone();
        let loaded = blocking(move || Ok::<_, Cause>(Registries::load(&files)?)).await?;
        let loaded = Arc::new(loaded);
        self.replace_registries(Arc::clone(&loaded));
        Ok(loaded)
    }

    async fn pull_reference(
        &self,
        reference: &Reference,
        registries: &Registries,
        credentials: Option<&Credentials>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, Cause> {
        let endpoints = registries.endpoints(reference)?;
        let mut sources = Sources::new(
            self,
            reference,
            endpoints,
            credentials,
            Arc::clone(progress),
        );
        let resolved = self.resolve(&mut sources).await?;
        fault::point("pull.resolved").map_err(StoreError::from)?;
        let limit = self.config.limits.config;
        let config = &resolved.manifest.config;
        check_size("the image configuration", config.size, limit)?;
        let digest = config.digest;
        let config = sources.fetch(Wanted::Config(&digest, limit)).await?;
        let layers = &resolved.manifest.layers;
        let diff_ids = self.check_config(&config, layers.len())?;
        progress.event(ProgressEvent::Resolved {
            reference: reference.to_string(),
            layers: layers
                .iter()
                .map(|layer| (layer.digest, layer.size))
                .collect(),
        });
        let blobs = layers.iter().map(|layer| layer.digest);
        let _lease = self
            .store()
            .lease(diff_ids.iter().copied().chain(blobs).collect());
        self.pull_layers(&sources, layers, &diff_ids, progress)
            .await?;
        fault::point("pull.layers").map_err(StoreError::from)?;
        let tag = match reference.digest() {
            Some(_) => None,
            None => Some(reference.to_string()),
        };
        let new = NewImage {
            config,
            manifest: Some(resolved.bytes),
            tags: tag.into_iter().collect(),
            digests: vec![reference.with_digest(resolved.digest)],
        };
        self.commit(new, progress).await
    }

    /// Finds the manifest for this machine.
    async fn resolve(&self, sources: &mut Sources<'_>) -> Result<Resolved, Cause> {
        let limit = self.config.limits.manifest;
        let bytes = sources.first_manifest(limit).await?;
        let digest = Digest::of(&bytes);
        let entries = match parse(digest, &bytes)? {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    manifest,
                    bytes,
                    digest,
                });
            }
            Document::Index(entries) => entries,
        };
        let chosen =
            manifest::choose(&entries, &self.platform).ok_or_else(|| Cause::NoPlatform {
                wanted: self.platform.clone(),
                offered: manifest::offers(&entries),
            })?;
        check_size("the manifest", chosen.size, limit)?;
        let bytes = sources
            .fetch(Wanted::Manifest(&chosen.digest, limit))
            .await?;
        match parse(chosen.digest, &bytes)? {
            Document::Manifest(manifest) => Ok(Resolved {
                manifest,
                bytes,
                digest,
            }),
            Document::Index(_) => Err(Cause::Manifest {
                digest: chosen.digest,
                source: manifest::ManifestError::Both,
            }),
        }
    }

    async fn pull_layers(
        &self,
        sources: &Sources<'_>,
        layers: &[Descriptor],
        diff_ids: &[Digest],
        progress: &Arc<dyn Progress>,
    ) -> Result<(), Cause> {
        let (budget, crew) = (Budget::new(self.config.limits.total), Crew::new());
        let running = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            let job = LayerJob {
                name: layer.digest,
                diff_id: *diff_id,
                limits: self.config.limits.unpack(),
                budget: Arc::clone(&budget),
                progress: Arc::clone(progress),
                _crew: crew.join(),
            };
            self.pull_layer(sources, layer, job)
        });
        let pulled = try_join_all(running).await.map(drop);
        crew.wait().await;
        pulled
    }

    async fn pull_layer(
        &self,
        sources: &Sources<'_>,
        layer: &Descriptor,
        job: LayerJob,
    ) -> Result<(), Cause> {
        check_size(
            &format!("layer {}", layer.digest),
            layer.size,
            self.config.limits.layer_compressed,
        )?;
        let Some(turn) = self.workers.turn(&job).await? else {
            return Ok(());
        };
        // Two layers of a hostile image can name one blob: they must not write one file together.
        let blob = self.workers.blob(layer.digest).await;
        let path = self.store().dirs.partial(&layer.digest);
        let report = |phase: LayerPhase, done, total| job.report(phase, done, total);
        let download = Download {
            digest: layer.digest,
            size: layer.size,
            path: path.clone(),
            report: &report,
        };
        let fetched = sources.fetch(Wanted::Layer(&download)).await;
        if let Err(cause) = fetched {
            if cause.kind() == ErrorKind::NoSpace {
                // A full disk needs the space more than the next attempt needs the beginning.
                let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
            }
            return Err(cause);
        }
        fault::point("pull.layer.fetched").map_err(StoreError::from)?;
        let (store, size) = (Arc::clone(self.store()), layer.size);
        blocking(move || {
            let file = std::fs::File::open(&path)
                .map_err(crate::kind::FileError::new("opening", &path))?;
            let stored = Workers::unpack(&store, &job, (Box::new(file), size));
            // Whether unpacked or found useless, the download has served its purpose.
            let removed =
                std::fs::remove_file(&path).map_err(crate::kind::FileError::new("removing", &path));
            drop((turn, blob));
            stored?;
            Ok(removed.map_err(StoreError::from)?)
        })
        .await
    }
}

fn parse(digest: Digest, bytes: &[u8]) -> Result<Document, Cause> {
    Document::parse(bytes).map_err(|source| Cause::Manifest { digest, source })
}

fn check_size(what: &str, size: u64, limit: u64) -> Result<(), Cause> {
    if size <= limit {
        return Ok(());
    }
    Err(Cause::TooLarge {
        what: what.to_owned(),
        size,
        limit,
    })
}
