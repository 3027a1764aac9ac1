//! Images made on the spot: a docker-archive for imports, an OCI layout for pushes.
//!
//! Both are written deterministically (no clock in any layer), so that the same image has the same digests each time.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::command::{command, output};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    Plain,
    #[default]
    Gzip,
    Zstd,
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn pack(self, tar: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(tar.to_vec()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar)?;
                Ok(encoder.finish()?)
            }
            Self::Zstd => Ok(zstd::encode_all(tar, 1)?),
        }
    }
}

/// One entry of a layer, of any kind.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub path: &'a str,
    pub kind: EntryType,
    pub mode: u32,
    /// Where a link points.
    pub target: &'a str,
    pub content: &'a [u8],
}

/// A layer under construction. Names are written as given, hostile ones too.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    tar: Vec<u8>,
    packing: Packing,
}

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn packed(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(Entry {
            path,
            kind: EntryType::Directory,
            mode,
            target: "",
            content: &[],
        })
    }

    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(Entry {
            path,
            kind: EntryType::Regular,
            mode,
            target: "",
            content,
        })
    }

    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(Entry {
            path,
            kind: EntryType::Symlink,
            mode: 0o777,
            target,
            content: &[],
        })
    }

    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(Entry {
            path,
            kind: EntryType::Link,
            mode: 0o644,
            target,
            content: &[],
        })
    }

    /// One entry with the names written raw into the header; they must fit into its 100 bytes.
    #[must_use]
    pub fn entry(mut self, entry: Entry<'_>) -> Self {
        let Entry {
            path,
            kind,
            mode,
            target,
            content,
        } = entry;
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        write_name(&mut header.as_old_mut().name, path);
        write_name(&mut header.as_old_mut().linkname, target);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        let rest = content.len().next_multiple_of(512) - content.len();
        self.tar.extend(std::iter::repeat_n(0, rest));
        self
    }

    /// The host's static busybox with a link for each applet, and the files that user lookups need.
    pub fn busybox() -> Result<Self> {
        let program = fs::read("/bin/busybox")
            .context("read /bin/busybox (Debian package busybox-static)")?;
        let applets = output(command("/bin/busybox").arg("--list"))?;
        let mut layer = Self::new()
            .directory("bin", 0o755)
            .file("bin/busybox", 0o755, &program)
            .directory("etc", 0o755)
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n",
            )
            .file(
                "etc/group",
                0o644,
                b"root:x:0:\nalice:x:1001:\nextra:x:2001:alice\nother:x:2002:\n",
            )
            .directory("root", 0o700)
            .directory("home", 0o755)
            .directory("tmp", 0o1777);
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        Ok(layer)
    }

    /// The archive, not packed.
    pub fn finished(&self) -> Vec<u8> {
        let mut tar = self.tar.clone();
        tar.extend([0; 1024]);
        tar
    }
}

fn write_name(field: &mut [u8; 100], name: &str) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
}

/// An image under construction.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    layers: Vec<Layer>,
    config: Value,
    annotations: Value,
    architecture: String,
}

impl Image {
    /// An image without layers and without a command.
    pub fn empty(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            layers: Vec::new(),
            config: json!({"Env": ["PATH=/bin"]}),
            annotations: json!({}),
            architecture: architecture().to_owned(),
        }
    }

    /// A busybox image whose command is a shell.
    pub fn busybox(reference: &str) -> Result<Self> {
        Ok(Self::empty(reference)
            .layer(Layer::busybox()?)
            .with("Cmd", json!(["/bin/sh"])))
    }

    /// Sets a field of the image's configuration, such as `User`, `Entrypoint`, `Volumes` or `StopSignal`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Annotates the image's manifest, which only an OCI layout has.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations[name] = json!(value);
        self
    }

    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Packs every layer in the same way.
    #[must_use]
    pub fn packed(mut self, packing: Packing) -> Self {
        for layer in &mut self.layers {
            layer.packing = packing;
        }
        self
    }

    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes the image as `docker save` would, for `husk image import`.
    pub fn write_archive(&self, path: &Path) -> Result<()> {
        let config = self.config_document()?;
        let config_name = format!("{}.json", hash(&config));
        let mut layers = Vec::new();
        let mut archive = Layer::new().file(&config_name, 0o644, &config);
        for layer in &self.layers {
            let tar = layer.finished();
            let name = format!("{}.tar", hash(&tar));
            archive = archive.file(&name, 0o644, &tar);
            layers.push(name);
        }
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": layers}]);
        let archive = archive.file("manifest.json", 0o644, &serde_json::to_vec(&manifest)?);
        fs::write(path, archive.finished()).with_context(|| format!("write {}", path.display()))
    }

    /// Writes an OCI layout with `images` in one index at `directory`; one image alone gets no index of its own.
    pub fn write_layout(directory: &Path, images: &[Self]) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let mut manifests = images
            .iter()
            .map(|image| image.write_blobs(&blobs))
            .collect::<Result<Vec<_>>>()?;
        if manifests.len() > 1 {
            let media_type = "application/vnd.oci.image.index.v1+json";
            let index =
                json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
            manifests = vec![write_blob(
                &blobs,
                &serde_json::to_vec(&index)?,
                media_type,
            )?];
        }
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(())
    }

    fn write_blobs(&self, blobs: &Path) -> Result<Value> {
        let mut layers = Vec::new();
        for layer in &self.layers {
            let packed = layer.packing.pack(&layer.finished())?;
            layers.push(write_blob(blobs, &packed, layer.packing.media_type())?);
        }
        let config = write_blob(
            blobs,
            &self.config_document()?,
            "application/vnd.oci.image.config.v1+json",
        )?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": layers,
            "annotations": self.annotations,
        });
        let mut descriptor = write_blob(blobs, &serde_json::to_vec(&manifest)?, media_type)?;
        descriptor["platform"] = json!({"os": "linux", "architecture": self.architecture});
        Ok(descriptor)
    }

    fn config_document(&self) -> Result<Vec<u8>> {
        let diff_ids: Vec<_> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", hash(&layer.finished())))
            .collect();
        Ok(serde_json::to_vec(&json!({
            "os": "linux",
            "architecture": self.architecture,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?)
    }
}

/// This machine's architecture in the words of images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The SHA-256 of `bytes` in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn write_blob(blobs: &Path, content: &[u8], media_type: &str) -> Result<Value> {
    let name = hash(content);
    fs::write(blobs.join(&name), content)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{name}"), "size": content.len()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_a_tar_that_the_tar_crate_reads_back() {
        let layer = Layer::new()
            .directory("d", 0o755)
            .file("d/f", 0o600, b"text")
            .symlink("../up", "/etc");
        let bytes = layer.finished();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path_bytes().into_owned())
            .collect();
        assert_eq!(paths, [b"d".to_vec(), b"d/f".to_vec(), b"../up".to_vec()]);
    }

    #[test]
    fn two_builds_have_the_same_digests() {
        let build = || {
            Image::empty("x:1")
                .layer(Layer::new().file("a", 0o644, b"b"))
                .config_document()
                .unwrap()
        };
        assert_eq!(build(), build());
    }
}
