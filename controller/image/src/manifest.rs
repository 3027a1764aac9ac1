//! Manifests and indexes: bytes in, checked values out.
//!
//! Formats: OCI image specification 1.1 (`manifest.md`, `image-index.md`) and Docker image manifest
//! version 2, schema 2. The older schema 1 is refused: it has no configuration, hence no image id.
//! A document that has both `manifests` and `layers` means different things to different readers
//! (GHSA-5j5w-g665-5m35), so it means nothing here.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// Media types that a registry is asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// More layers than overlayfs can stack (`OVL_MAX_STACK` in the kernel) can never be mounted.
const LAYER_LIMIT: usize = 500;
const INDEX_LIMIT: usize = 1000;

/// Why a document is no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected shape.
    #[error("the document is not a manifest")]
    Json(#[source] serde_json::Error),
    /// It has `manifests` and `layers`.
    #[error("the document is both an index and a manifest")]
    Both,
    /// It has neither `manifests` nor `config` and `layers`.
    #[error("the document is neither an index nor a manifest")]
    Neither,
    /// Docker's schema 1, or a version yet unknown.
    #[error("manifest schema version {0} is not supported")]
    Schema(u64),
    /// The configuration is that of an artifact which is no container image.
    #[error("the manifest describes {0:?}, not a container image")]
    NotAnImage(String),
    /// A layer that the registry does not hold, or that is encrypted.
    #[error("layer {digest} has media type {media_type:?}, which cannot be unpacked here")]
    Layer {
        /// The layer.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// More entries than an image can have.
    #[error("the document has {count} entries, more than {limit}")]
    TooMany {
        /// How many it has.
        count: usize,
        /// How many are accepted.
        limit: usize,
    },
}

/// What a manifest says about one blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// The blob's media type.
    #[serde(default)]
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// In an index: what the manifest is for.
    pub platform: Option<Platform>,
    /// Free-form facts; the names that image tools give an image are found here.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The configuration; its digest is the image's id.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A document of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// A choice of manifests.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// The annotations of a manifest; none where it cannot be read.
pub(crate) fn annotations(bytes: &[u8]) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<BTreeMap<String, String>>,
    }
    let read = serde_json::from_slice::<Annotated>(bytes);
    read.ok().and_then(|it| it.annotations).unwrap_or_default()
}

impl Document {
    /// Parses and checks a document.
    ///
    /// # Errors
    /// [`ManifestError`] says which rule it breaks.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_version(bytes)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let says_index = raw
            .media_type
            .as_deref()
            .map(|kind| kind == OCI_INDEX || kind == DOCKER_INDEX);
        match (raw.manifests, raw.config, raw.layers) {
            (Some(_), config, layers) if config.is_some() || layers.is_some() => {
                Err(ManifestError::Both)
            }
            (Some(_), _, _) if says_index == Some(false) => Err(ManifestError::Both),
            (Some(manifests), _, _) => {
                check_count(manifests.len(), INDEX_LIMIT)?;
                Ok(Self::Index(manifests))
            }
            (None, Some(_), Some(_)) if says_index == Some(true) => Err(ManifestError::Both),
            (None, Some(config), Some(layers)) => checked_manifest(config, layers),
            (None, _, _) => Err(ManifestError::Neither),
        }
    }
}

fn check_version(bytes: &[u8]) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "schemaVersion")]
        version: u64,
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    if version == 2 {
        Ok(())
    } else {
        Err(ManifestError::Schema(version))
    }
}

fn check_count(count: usize, limit: usize) -> Result<(), ManifestError> {
    if count > limit {
        return Err(ManifestError::TooMany { count, limit });
    }
    Ok(())
}

fn checked_manifest(
    config: Descriptor,
    layers: Vec<Descriptor>,
) -> Result<Document, ManifestError> {
    if config.media_type != OCI_CONFIG && config.media_type != DOCKER_CONFIG {
        return Err(ManifestError::NotAnImage(config.media_type));
    }
    check_count(layers.len(), LAYER_LIMIT)?;
    for layer in &layers {
        if !is_layer(&layer.media_type) {
            return Err(ManifestError::Layer {
                digest: layer.digest,
                media_type: layer.media_type.clone(),
            });
        }
    }
    Ok(Document::Manifest(Manifest { config, layers }))
}

/// Compression is found by looking at the data, so any of the tar types will do. Foreign and
/// non-distributable layers are elsewhere by definition, and encrypted ones need a key.
fn is_layer(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
    )
}

/// Which manifest of an index fits a platform, with the index's order deciding among equals.
///
/// Entries without a platform fit only where no other does, as Docker and containerd have it.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], platform: &Platform) -> Option<&'a Descriptor> {
    let labelled = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref().map(|offer| (offer, entry)));
    platform
        .choose(labelled)
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
}

/// What an index offers, for the error message of a machine that finds nothing in it.
pub(crate) fn offers(entries: &[Descriptor]) -> String {
    let names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref().map(ToString::to_string))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
    }

    fn manifest(layer: &str) -> Value {
        json!({"schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor(layer)]})
    }

    fn parse(value: &Value) -> Result<Document, ManifestError> {
        Document::parse(&serde_json::to_vec(value).unwrap())
    }

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        assert!(matches!(parse(&manifest(TAR)), Ok(Document::Manifest(_))));
        let index = json!({"schemaVersion": 2, "manifests": [descriptor("x")]});
        assert!(matches!(parse(&index), Ok(Document::Index(list)) if list.len() == 1));
    }

    #[test]
    fn annotations_are_read_where_there_are_some() {
        let mut annotated = manifest(TAR);
        annotated["annotations"] = json!({"a": "b"});
        let rows = [
            (annotated, Some("b")),
            (manifest(TAR), None),
            (json!([]), None),
        ];
        for (document, expect) in rows {
            let found = annotations(&serde_json::to_vec(&document).unwrap());
            assert_eq!(found.get("a").map(String::as_str), expect, "{document}");
        }
    }

    #[test]
    fn a_document_of_both_kinds_is_refused() {
        let mut both = manifest(TAR);
        both["manifests"] = json!([]);
        assert!(matches!(parse(&both), Err(ManifestError::Both)));
        let mut lies = manifest(TAR);
        lies["mediaType"] = json!(OCI_INDEX);
        assert!(matches!(parse(&lies), Err(ManifestError::Both)));
        let lies = json!({"schemaVersion": 2, "manifests": [],
            "mediaType": "application/vnd.oci.image.manifest.v1+json"});
        assert!(matches!(parse(&lies), Err(ManifestError::Both)));
    }

    #[test]
    fn what_cannot_be_unpacked_is_refused() {
        for kind in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        ] {
            assert!(
                matches!(parse(&manifest(kind)), Err(ManifestError::Layer { .. })),
                "{kind}"
            );
        }
        let mut artifact = manifest(TAR);
        artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
        assert!(matches!(
            parse(&artifact),
            Err(ManifestError::NotAnImage(_))
        ));
        let old = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(parse(&old), Err(ManifestError::Schema(1))));
        assert!(matches!(
            parse(&json!({"schemaVersion": 2})),
            Err(ManifestError::Neither)
        ));
        assert!(matches!(
            Document::parse(b"<html>"),
            Err(ManifestError::Json(_))
        ));
        let mut many = manifest(TAR);
        many["layers"] = Value::Array(vec![descriptor(TAR); 501]);
        assert!(matches!(
            parse(&many),
            Err(ManifestError::TooMany { count: 501, .. })
        ));
    }

    #[test]
    fn an_entry_without_platform_is_the_last_choice() {
        let entry = |platform: Option<&str>, size| Descriptor {
            media_type: String::new(),
            digest: Digest::of(b"x"),
            size,
            platform: platform.map(|text| text.parse().unwrap()),
            annotations: None,
        };
        let host = "linux/amd64".parse().unwrap();
        let list = [entry(None, 1), entry(Some("linux/amd64"), 2)];
        assert_eq!(choose(&list, &host).map(|found| found.size), Some(2));
        let list = [entry(Some("linux/arm64"), 1), entry(None, 2)];
        assert_eq!(choose(&list, &host).map(|found| found.size), Some(2));
        assert!(choose(&list[..1], &host).is_none());
    }
}
