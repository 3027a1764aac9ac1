//! The store's files, version 1. Bytes written by one release are read by the next, so a change here
//! needs a new version and a conversion; the golden tests hold the form.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::idmap::Owner;

const VERSION: u32 = 1;

/// `images.json`: what exists and what it is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageList {
    pub(crate) images: Vec<ImageRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    /// Digest of the manifest it was made from; absent for archives that have none.
    pub(crate) manifest: Option<Digest>,
    /// Layers by diffID, lowest first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
    /// When it was first stored here, in seconds since the epoch.
    pub(crate) stored_at: i64,
}

/// `layers/<diffID>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// `containers/<id>/root.json` and `views/<id>/root.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootRecord {
    pub(crate) image: Digest,
    /// Layers by diffID, lowest first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) mount_label: Option<String>,
    /// Who root is on the host, where the mount is for a user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mapped_root: Option<Owner>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

pub(crate) fn encode<T: Serialize>(content: &T) -> Vec<u8> {
    let versioned = Versioned {
        version: VERSION,
        content,
    };
    // These records hold text and numbers only, which always have a JSON form.
    serde_json::to_vec_pretty(&versioned).unwrap_or_default()
}

pub(crate) fn decode<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let wrong = |reason: String| StoreError::State {
        path: path.to_owned(),
        reason,
    };
    let Version { version } = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    if version != VERSION {
        return Err(wrong(format!(
            "its version is {version}, this program knows {VERSION}"
        )));
    }
    let versioned: Versioned<T> =
        serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    Ok(versioned.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: &str = r#"{
  "version": 1,
  "images": [
    {
      "id": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
      "manifest": null,
      "layers": [
        "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
      ],
      "tags": [
        "docker.io/library/a:latest"
      ],
      "digests": [],
      "stored_at": 7
    }
  ]
}"#;

    fn list() -> ImageList {
        let x = Digest::of(b"x");
        ImageList {
            images: vec![ImageRecord {
                id: x,
                manifest: None,
                layers: vec![x],
                tags: vec!["docker.io/library/a:latest".to_owned()],
                digests: Vec::new(),
                stored_at: 7,
            }],
        }
    }

    #[test]
    fn the_form_on_disk_does_not_change() {
        assert_eq!(String::from_utf8(encode(&list())).unwrap(), IMAGES);
        let read: ImageList = decode(Path::new("f"), IMAGES.as_bytes()).unwrap();
        assert_eq!(read, list());
    }

    #[test]
    fn damaged_and_newer_files_are_refused_by_name() {
        for text in ["", "{}", "[]", &IMAGES.replace("1,", "2,"), &IMAGES[..90]] {
            let read = decode::<ImageList>(Path::new("the-file"), text.as_bytes());
            assert!(read.unwrap_err().to_string().contains("the-file"));
        }
    }
}
