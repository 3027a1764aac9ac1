//! ImageService.

use std::collections::HashMap;
use std::sync::Arc;

use husk_cri_api::v1;
use husk_cri_api::v1::image_service_server::ImageService;
use husk_image::{AuthFields, Credentials, Image, Images, Silent};
use serde_json::json;
use tonic::{Request, Response, Status, async_trait};

use super::stream::{Messages, pieces};
use super::{serve, serve_list, status, views};
use crate::clock::now;
use crate::container::WritableUsage;
use crate::pod::Pods;

/// Serves the images' half of the CRI.
#[derive(Debug, Clone)]
pub struct ImageServer {
    pods: Pods,
    written: Arc<WritableUsage>,
}

impl ImageServer {
    /// A server for the node's images; the table of pods tells which runtime handlers there are.
    pub fn new(pods: Pods) -> Self {
        Self {
            pods,
            written: Arc::default(),
        }
    }

    fn images(&self) -> &Images {
        &self.pods.services().images
    }

    fn find(&self, spec: Option<&v1::ImageSpec>) -> Result<Option<Arc<Image>>, Status> {
        let found = self.images().find(reference(spec)?);
        found.map_err(|error| status::of_image(error.kind(), &error))
    }

    fn list(&self, filter: Option<&v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image.as_ref());
        let images = match wanted.filter(|spec| !spec.image.is_empty()) {
            Some(spec) => self.find(Some(spec))?.into_iter().collect(),
            None => self.images().list(),
        };
        Ok(images.iter().map(|image| views::image(image)).collect())
    }
}

fn reference(spec: Option<&v1::ImageSpec>) -> Result<&str, Status> {
    match spec.map(|spec| spec.image.as_str()) {
        Some(reference) if !reference.is_empty() => Ok(reference),
        Some(_) | None => Err(status::missing("image.image")),
    }
}

/// What the kubelet knows of the registry; nothing when it knows nothing.
fn credentials(auth: Option<v1::AuthConfig>) -> Result<Option<Credentials>, Status> {
    let auth = auth.unwrap_or_default();
    Credentials::from_fields(AuthFields {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    })
    .map_err(|error| status::invalid(&error))
}

fn info(image: &Image) -> HashMap<String, String> {
    let config = &image.config;
    let info = json!({
        "imageSpec": {
            "created": config.created,
            "config": {
                "User": config.user,
                "Env": config.env,
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "WorkingDir": config.working_dir,
                "StopSignal": config.stop_signal,
                "Volumes": config.volumes,
                "Labels": config.labels,
                "ExposedPorts": config.exposed_ports,
            },
        },
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

#[async_trait]
impl ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        serve_list("ListImages", &self.pods, request, async |asked| {
            Ok(v1::ListImagesResponse {
                images: self.list(asked.filter.as_ref())?,
            })
        })
        .await
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Messages<v1::StreamImagesResponse>>, Status> {
        serve("StreamImages", request, async |asked, _| {
            let images = self.list(asked.filter.as_ref())?;
            Ok(pieces(images, |images| v1::StreamImagesResponse { images }))
        })
        .await
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        serve("ImageStatus", request, async |asked, _| {
            let found = self.find(asked.image.as_ref())?;
            let verbose = found.as_ref().filter(|_| asked.verbose);
            Ok(v1::ImageStatusResponse {
                info: verbose.map(|image| info(image)).unwrap_or_default(),
                image: found.map(|image| views::image(&image)),
            })
        })
        .await
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        serve("PullImage", request, async |asked, _| {
            let reference = reference(asked.image.as_ref())?;
            let handler = asked.image.as_ref().map_or("", |i| &i.runtime_handler);
            let known = self.pods.services().monitors.handlers.find(handler);
            known.map_err(|error| status::invalid(&error))?;
            let credentials = credentials(asked.auth)?;
            let progress = Arc::new(Silent);
            let pulled = self.images().pull(reference, credentials, progress).await;
            let image = pulled.map_err(|error| status::of_image(error.kind(), &error))?;
            Ok(v1::PullImageResponse {
                image_ref: image.id,
            })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        serve("RemoveImage", request, async |asked, _| {
            let removed = self.images().remove(reference(asked.image.as_ref())?).await;
            removed.map_err(|error| status::of_image(error.kind(), &error))?;
            Ok(v1::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(
        &self,
        request: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        serve("ImageFsInfo", request, async |_, _| {
            let usage = self.images().usage().await;
            let usage = usage.map_err(|error| status::of_image(error.kind(), &error))?;
            let containers = self.written.measure(self.images()).await;
            Ok(views::image_fs_info(&usage, &containers, now()))
        })
        .await
    }
}
