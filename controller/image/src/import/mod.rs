//! Images from files: OCI image layouts and `docker save` archives.
//!
//! Formats: OCI image specification, `image-layout.md`; for docker-archives the `manifest.json` that
//! `docker save` and skopeo write. Both may be a tar file, also compressed; a layout may be a
//! directory. This module finds out what an archive holds ([`read`]); unpacking and storing are the
//! same as for a pull.

mod archive;
mod run;

use std::path::Path;

use serde::Deserialize;

use crate::digest::{Digest, HashingReader};
use crate::failure::Cause;
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use archive::Archive;

/// Sizes of what is read into memory, and of an archive's uncompressed copy, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadLimits {
    pub(crate) manifest: u64,
    pub(crate) config: u64,
    pub(crate) total: u64,
}

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct Contents {
    archive: Archive,
    pub(crate) images: Vec<Found>,
}

/// One image of an archive; its layers are still in the archive.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Option<Vec<u8>>,
    /// Complete references with tags.
    pub(crate) tags: Vec<String>,
    /// Lowest first.
    pub(crate) layers: Vec<FoundLayer>,
}

/// A layer in an archive.
#[derive(Debug, Clone)]
pub(crate) struct FoundLayer {
    member: String,
    /// Of the member, where the format says it.
    pub(crate) digest: Option<Digest>,
}

/// Finds out what a file or directory holds.
pub(crate) fn read(
    path: &Path,
    copy: &Path,
    limits: ReadLimits,
    platform: &Platform,
) -> Result<Contents, Cause> {
    let archive = Archive::open(path, copy, limits.total)?;
    let reader = Reader {
        archive: &archive,
        limits,
        platform,
    };
    let images = if archive.member("oci-layout")?.is_some() {
        reader.layout()?
    } else if archive.member("manifest.json")?.is_some() {
        reader.docker()?
    } else {
        let text = "it is neither an OCI layout (oci-layout) nor a docker-archive (manifest.json)";
        return Err(Cause::Archive(text.to_owned()));
    };
    if images.is_empty() {
        return Err(Cause::Archive(
            "it holds no image for this platform".to_owned(),
        ));
    }
    Ok(Contents { archive, images })
}

impl Contents {
    /// Opens a layer, with its size in the archive in bytes.
    pub(crate) fn open(
        &self,
        layer: &FoundLayer,
    ) -> Result<(Box<dyn std::io::Read + Send>, u64), Cause> {
        let opened = self.archive.expect(&layer.member)?;
        Ok((opened.reader, opened.size))
    }

    /// Checks a layer's digest where the archive gives one.
    pub(crate) fn verify(&self, layer: &FoundLayer) -> Result<(), Cause> {
        let Some(expected) = layer.digest else {
            return Ok(());
        };
        let (reader, _) = self.open(layer)?;
        let actual = HashingReader::new(reader).finish();
        let actual = actual.map_err(crate::kind::FileError::new("reading", &layer.member))?;
        check_digest(&layer.member, expected, actual)
    }
}

fn check_digest(what: &str, expected: Digest, actual: Digest) -> Result<(), Cause> {
    if actual == expected {
        return Ok(());
    }
    Err(Cause::Digest {
        what: what.to_owned(),
        expected,
        actual,
    })
}

/// One element of a docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

struct Reader<'a> {
    archive: &'a Archive,
    limits: ReadLimits,
    platform: &'a Platform,
}

impl Reader<'_> {
    fn docker(&self) -> Result<Vec<Found>, Cause> {
        let bytes = self.archive.read("manifest.json", self.limits.manifest)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&bytes)
            .map_err(|error| Cause::Archive(format!("manifest.json: {error}")))?;
        let found = images.into_iter().map(|image| self.docker_image(image));
        found.collect()
    }

    fn docker_image(&self, image: DockerImage) -> Result<Found, Cause> {
        let names = image.repo_tags.unwrap_or_default();
        let tags: Result<Vec<String>, Cause> = names.iter().map(|name| complete(name)).collect();
        let layers = image.layers.unwrap_or_default().into_iter();
        Ok(Found {
            config: self.archive.read(&image.config, self.limits.config)?,
            manifest: None,
            tags: tags?,
            layers: layers
                .map(|member| FoundLayer {
                    member,
                    digest: None,
                })
                .collect(),
        })
    }

    fn layout(&self) -> Result<Vec<Found>, Cause> {
        let bytes = self.archive.read("index.json", self.limits.manifest)?;
        let digest = Digest::of(&bytes);
        let document = Document::parse(&bytes);
        let entries = match document.map_err(|source| Cause::Manifest { digest, source })? {
            Document::Index(entries) => entries,
            Document::Manifest(_) => {
                return Err(Cause::Archive("index.json is not an index".to_owned()));
            }
        };
        let mut images = Vec::new();
        for entry in entries {
            // Other platforms' images and build records may lie beside the one for this machine.
            let other = entry
                .platform
                .as_ref()
                .is_some_and(|offer| self.platform.fit(offer).is_none());
            if !other {
                images.push(self.layout_image(&entry)?);
            }
        }
        Ok(images)
    }

    fn layout_image(&self, entry: &Descriptor) -> Result<Found, Cause> {
        let (manifest, bytes) = self.manifest(entry, true)?;
        let config = self.blob(&manifest.config, self.limits.config)?;
        let layers = manifest.layers.iter().map(|layer| FoundLayer {
            member: blob_name(&layer.digest),
            digest: Some(layer.digest),
        });
        Ok(Found {
            config,
            manifest: Some(bytes),
            tags: name_of(entry)?.into_iter().collect(),
            layers: layers.collect(),
        })
    }

    /// The manifest behind an entry; an index within the index is looked into once.
    fn manifest(&self, entry: &Descriptor, nested: bool) -> Result<(Manifest, Vec<u8>), Cause> {
        let bytes = self.blob(entry, self.limits.manifest)?;
        let digest = entry.digest;
        let document =
            Document::parse(&bytes).map_err(|source| Cause::Manifest { digest, source })?;
        match document {
            Document::Manifest(manifest) => Ok((manifest, bytes)),
            Document::Index(entries) if nested => {
                let chosen = manifest::choose(&entries, self.platform);
                let chosen = chosen.ok_or_else(|| Cause::NoPlatform {
                    wanted: self.platform.clone(),
                    offered: manifest::offers(&entries),
                })?;
                self.manifest(chosen, false)
            }
            Document::Index(_) => Err(Cause::Archive("indexes are nested too deep".to_owned())),
        }
    }

    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, Cause> {
        let name = blob_name(&descriptor.digest);
        let bytes = self.archive.read(&name, limit)?;
        check_digest(&name, descriptor.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name that the tools put beside a layout's manifest. A bare tag is no name.
fn name_of(entry: &Descriptor) -> Result<Option<String>, Cause> {
    let Some(annotations) = &entry.annotations else {
        return Ok(None);
    };
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return complete(name).map(Some);
    }
    match annotations.get("org.opencontainers.image.ref.name") {
        Some(name) if name.contains(['/', ':']) => complete(name).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// Completes a name to a reference with a tag.
pub(crate) fn complete(name: &str) -> Result<String, Cause> {
    let reference = Reference::parse(name).map_err(|source| Cause::Reference {
        text: name.to_owned(),
        source,
    })?;
    Ok(format!(
        "{}:{}",
        reference.name(),
        reference.tag().unwrap_or("latest")
    ))
}
