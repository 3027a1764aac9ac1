//! Images made on the spot, and a store in a temporary directory.

pub(crate) mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use husk_image::{Config, Digest, Images, Progress, ProgressEvent};
use serde_json::{Value, json};

/// Remembers all events.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<ProgressEvent>>);

impl Progress for Recorder {
    fn event(&self, event: ProgressEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&ProgressEvent) -> bool) -> usize {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|event| wanted(event))
            .count()
    }
}

/// A temporary directory that is unmounted everywhere before it is removed, also after a panic.
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A store in a directory of its own.
pub(crate) struct Node {
    pub(crate) directory: Directory,
    pub(crate) config: Config,
    pub(crate) images: Images,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    /// `change` gets the configuration and the directory to put files in.
    pub(crate) async fn with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let directory = Directory::new();
        let mut config = Config::new(directory.path().join("root"), directory.path().join("run"));
        change(&mut config, directory.path());
        let images = Images::open(config.clone()).await.unwrap();
        Self {
            directory,
            config,
            images,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn count(&self, below: &str) -> usize {
        std::fs::read_dir(self.root().join(below)).unwrap().count()
    }

    /// Closes the store and opens it again, as another process would.
    pub(crate) async fn reopen(self) -> Self {
        let Self {
            directory,
            config,
            images,
        } = self;
        drop(images);
        let images = Images::open(config.clone()).await.unwrap();
        Self {
            directory,
            config,
            images,
        }
    }
}

/// Unmounts whatever a failed test left below a directory.
pub(crate) fn unmount_below(directory: &Path) {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for line in table.lines() {
        let target = Path::new(line.split(' ').nth(1).unwrap());
        if target.starts_with(directory) {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A layer of regular files.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image: uncompressed layers, and each as it is sent.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) blobs: Vec<(Vec<u8>, &'static str)>,
}

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";

impl TestImage {
    pub(crate) fn new(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        Self::with_config(
            layers,
            &json!({"os": "linux", "architecture": architecture(), "config": {"Cmd": ["/hello"], "Env": ["A=b"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
        )
    }

    pub(crate) fn with_config(layers: Vec<Vec<u8>>, config: &Value) -> Self {
        let blobs = layers.iter().map(|layer| (gzip(layer), "+gzip")).collect();
        Self {
            config: serde_json::to_vec(config).unwrap(),
            layers,
            blobs,
        }
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let layers: Vec<Value> = self.blobs.iter().map(|(blob, suffix)| {
            json!({"mediaType": format!("{OCI}{suffix}"), "digest": Digest::of(blob), "size": blob.len()})
        }).collect();
        serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&self.config), "size": self.config.len()},
            "layers": layers,
        }))
        .unwrap()
    }

    /// A `docker save` archive.
    pub(crate) fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let names: Vec<String> = (0..self.layers.len())
            .map(|at| format!("{at}/layer.tar"))
            .collect();
        let list = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
        let list = serde_json::to_vec(&list).unwrap();
        let mut files: Vec<(&str, &[u8])> = vec![("config.json", &self.config)];
        files.extend(
            names
                .iter()
                .map(String::as_str)
                .zip(self.layers.iter().map(Vec::as_slice)),
        );
        files.push(("manifest.json", &list));
        layer(&files)
    }

    /// The files of an OCI layout.
    pub(crate) fn layout(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&manifest), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name}}]});
        let blob = |bytes: &[u8]| {
            (
                format!("blobs/sha256/{}", Digest::of(bytes).hex()),
                bytes.to_vec(),
            )
        };
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
            blob(&manifest),
            blob(&self.config),
        ];
        files.extend(self.blobs.iter().map(|(bytes, _)| blob(bytes)));
        files
    }
}

pub(crate) fn architecture() -> String {
    husk_image::Platform::host().architecture
}

pub(crate) fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(n, c)| (n.as_str(), c.as_slice()))
        .collect();
    layer(&files)
}

pub(crate) fn write_tree(directory: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}
