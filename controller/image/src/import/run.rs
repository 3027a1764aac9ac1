//! Storing what an archive holds: the same work on layers as for a pull, without the network.

use std::path::Path;
use std::sync::Arc;

use futures::future::try_join_all;

use super::{Contents, Found, FoundLayer, ReadLimits};
use crate::digest::Digest;
use crate::failure::Cause;
use crate::image::Image;
use crate::images::Inner;
use crate::layer::Budget;
use crate::progress::{Progress, ProgressEvent};
use crate::store::NewImage;
use crate::store::files::random_name;
use crate::workers::{Crew, LayerJob, Workers, blocking};

impl Inner {
    /// Stores all images of an archive.
    pub(crate) async fn import(
        &self,
        path: &Path,
        tag: Option<&str>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Image>, Cause> {
        let tag = tag.map(super::complete).transpose()?;
        let limits = ReadLimits {
            manifest: self.config.limits.manifest,
            config: self.config.limits.config,
            total: self.config.limits.total,
        };
        let copy = self.config.root.join("temp").join(random_name());
        let (path, platform) = (path.to_owned(), self.platform.clone());
        let store = Arc::clone(self.store());
        let contents = blocking(move || {
            let _lease = store.lease_path(&copy);
            super::read(&path, &copy, limits, &platform)
        });
        let mut contents = contents.await?;
        let images = std::mem::take(&mut contents.images);
        if tag.is_some() && images.len() > 1 {
            let text = format!(
                "it holds {} images, so they cannot all be given one name",
                images.len()
            );
            return Err(Cause::Archive(text));
        }
        let contents = Arc::new(contents);
        let mut stored = Vec::new();
        for mut found in images {
            if let Some(tag) = &tag {
                found.tags = vec![tag.clone()];
            }
            stored.push(self.store_found(&contents, found, &progress).await?);
        }
        Ok(stored)
    }

    async fn store_found(
        &self,
        contents: &Arc<Contents>,
        found: Found,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, Cause> {
        let diff_ids = self.check_config(&found.config, found.layers.len())?;
        let _lease = self.store().lease(diff_ids.clone());
        let (budget, crew) = (Budget::new(self.config.limits.total), Crew::new());
        let name = found.tags.first().cloned();
        let jobs: Vec<(LayerJob, FoundLayer)> = diff_ids
            .iter()
            .zip(&found.layers)
            .map(|(diff_id, layer)| {
                let job = LayerJob {
                    name: layer.digest.unwrap_or(*diff_id),
                    diff_id: *diff_id,
                    limits: self.config.limits.unpack(),
                    budget: Arc::clone(&budget),
                    progress: Arc::clone(progress),
                    _crew: crew.join(),
                };
                (job, layer.clone())
            })
            .collect();
        progress.event(ProgressEvent::Resolved {
            reference: name.unwrap_or_else(|| Digest::of(&found.config).to_string()),
            layers: jobs.iter().map(|(job, _)| (job.name, 0)).collect(),
        });
        let running = jobs
            .into_iter()
            .map(|(job, layer)| self.store_layer(contents, job, layer));
        let stored = try_join_all(running).await;
        crew.wait().await;
        stored?;
        let new = NewImage {
            config: found.config,
            manifest: found.manifest,
            tags: found.tags,
            digests: Vec::new(),
        };
        self.commit(new, progress).await
    }

    async fn store_layer(
        &self,
        contents: &Arc<Contents>,
        job: LayerJob,
        layer: FoundLayer,
    ) -> Result<(), Cause> {
        let Some(turn) = self.workers.turn(&job).await? else {
            return Ok(());
        };
        let (store, contents) = (Arc::clone(self.store()), Arc::clone(contents));
        blocking(move || {
            contents.verify(&layer)?;
            let stored = Workers::unpack(&store, &job, contents.open(&layer)?);
            drop(turn);
            stored
        })
        .await
    }
}
