//! Attachments on disk, one file per pod: what DEL needs after a restart of the controller, and
//! after the configuration changed. The format is a contract between versions of the controller.
//!
//! A file appears whole or not at all, and is readable by root only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::NetworkList;
use super::request::{INTERFACE, PodNetwork, is_identifier};
use super::result::{Attachment, NetworkResult};

const VERSION: u32 = 1;
/// Most bytes of a file: a configuration and an answer, each of at most 1 MiB, and the pod.
const LIMIT: u64 = 4 << 20;
const SUFFIX: &str = ".json";

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("make the directory of attachments {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("list the attachments in {}", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the attachment {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the attachment {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove the attachment {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use the attachment {}", path.display())]
    Corrupt {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An attachment, or one that was begun when there is no result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) pod: PodNetwork,
    pub(super) network: Arc<NetworkList>,
    pub(super) result: Option<Value>,
}

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    pod: PodNetwork,
    network: Value,
    result: Option<Value>,
}

/// The directory of attachments.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Makes the directory, and removes what interrupted writes left in it.
    pub(super) fn open(dir: PathBuf) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        let clean = || {
            for file in fs::read_dir(&dir)?.flatten() {
                if file.file_name().to_string_lossy().ends_with(".tmp") {
                    fs::remove_file(file.path())?;
                }
            }
            Ok(())
        };
        match made.and_then(|()| clean()) {
            Ok(()) => Ok(Cache { dir }),
            Err(source) => Err(CacheError::Open { path: dir, source }),
        }
    }

    pub(super) async fn read(&self, pod_id: &str) -> Result<Option<Entry>, CacheError> {
        let (cache, pod_id) = (self.clone(), pod_id.to_owned());
        blocking(move || cache.read_now(&pod_id)).await
    }

    /// None when there is no file. Blocks for the reading of one small file.
    pub(super) fn read_now(&self, pod_id: &str) -> Result<Option<Entry>, CacheError> {
        if !is_identifier(pod_id) {
            return Ok(None);
        }
        let path = self.path(pod_id);
        match read_file(&path) {
            Ok(text) => match decode(&text) {
                Ok(entry) => Ok(Some(entry)),
                Err(source) => Err(CacheError::Corrupt { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CacheError::Read { path, source }),
        }
    }

    pub(super) async fn write(&self, entry: &Entry) -> Result<(), CacheError> {
        let path = self.path(&entry.pod.pod_id);
        let encoded = encode(entry);
        blocking(
            move || match encoded.and_then(|text| replace(&path, &text)) {
                Ok(()) => Ok(()),
                Err(source) => Err(CacheError::Write { path, source }),
            },
        )
        .await
    }

    pub(super) async fn remove(&self, pod_id: &str) -> Result<(), CacheError> {
        let path = self.path(pod_id);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::Remove {
                path,
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        })
        .await
    }

    /// The ids of all pods that have a file.
    pub(super) async fn pods(&self) -> Result<Vec<String>, CacheError> {
        let dir = self.dir.clone();
        blocking(move || match list(&dir) {
            Ok(pods) => Ok(pods),
            Err(source) => Err(CacheError::List { path: dir, source }),
        })
        .await
    }

    fn path(&self, pod_id: &str) -> PathBuf {
        self.dir.join(format!("{pod_id}{SUFFIX}"))
    }
}

impl Entry {
    /// What the plugins gave the pod.
    pub(super) fn attachment(&self) -> Result<Attachment, CacheError> {
        let raw = self.result.clone().unwrap_or_default();
        match NetworkResult::from_value(raw.clone()) {
            Ok(result) => Ok(result.attachment(INTERFACE, raw)),
            Err(error) => Err(CacheError::Corrupt {
                path: self.pod.pod_id.clone().into(),
                source: Box::new(error),
            }),
        }
    }
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let record = Record {
        version: VERSION,
        pod: entry.pod.clone(),
        network: entry.network.source.clone(),
        result: entry.result.clone(),
    };
    Ok(serde_json::to_vec(&record)?)
}

pub(super) fn decode(text: &[u8]) -> Result<Entry, Box<dyn std::error::Error + Send + Sync>> {
    let record: Record = serde_json::from_slice(text)?;
    if record.version != VERSION {
        return Err(format!("version {} of the file is not known", record.version).into());
    }
    let network = Arc::new(NetworkList::from_value(record.network)?);
    Ok(Entry {
        pod: record.pod,
        network,
        result: record.result,
    })
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    let written = file.write_all(text).and_then(|()| file.sync_data());
    let done = written.and_then(|()| fs::rename(&draft, path));
    if done.is_err() {
        // The draft is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    done
}

fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut pods = Vec::new();
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        let pod = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        pods.extend(pod.filter(|pod| is_identifier(pod)).map(str::to_owned));
    }
    pods.sort();
    Ok(pods)
}

/// File operations do not belong on the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(source) => Err(CacheError::Write {
                path: PathBuf::new(),
                source: io::Error::other(source),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    /// A file as version 1 writes it. It must stay readable for ever.
    fn golden() -> Value {
        json!({
            "version": 1,
            "pod": {
                "pod_id": "p1", "name": "web", "namespace": "shop", "uid": "u-1",
                "netns": "/run/netns/p1",
                "port_mappings": [{
                    "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::1",
                }],
                "bandwidth": {
                    "ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4,
                },
                "dns": {"servers": ["a"], "domain": "b", "searches": ["c"], "options": ["d"]},
                "ips": ["10.0.0.7/24"], "mac": "02:00:00:00:00:07", "aliases": ["w"],
                "cgroup_path": "/p1",
            },
            "network": {"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]},
            "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]},
        })
    }

    #[test]
    fn version_one_reads_and_writes_the_golden_file() {
        let entry = decode(golden().to_string().as_bytes()).unwrap();
        assert_eq!(entry.pod.port_mappings[0].host_port, 8080);
        let written: Value = serde_json::from_slice(&encode(&entry).unwrap()).unwrap();
        assert_eq!(written, golden());
    }

    #[tokio::test]
    async fn entries_are_private_whole_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let cache = Cache::open(path.clone()).unwrap();
        let entry = decode(golden().to_string().as_bytes()).unwrap();
        cache.write(&entry).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("p1.json"))), (0o700, 0o600));
        fs::write(path.join("p2.tmp"), "half").unwrap();
        let cache = Cache::open(path.clone()).unwrap();
        assert!(!path.join("p2.tmp").exists());
        assert_eq!(cache.pods().await.unwrap(), ["p1"]);
        assert_eq!(cache.read("p1").await.unwrap(), Some(entry));
        cache.remove("p1").await.unwrap();
        cache.remove("p1").await.unwrap();
        assert_eq!(cache.read("p1").await.unwrap(), None);
    }

    #[tokio::test]
    async fn damaged_and_foreign_files_are_told_from_absent_ones() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let mut future = golden();
        future["version"] = 2.into();
        for text in ["", "{", "[]", &future.to_string()] {
            fs::write(dir.path().join("p1.json"), text).unwrap();
            let error = cache.read("p1").await.unwrap_err();
            assert!(
                matches!(error, CacheError::Corrupt { .. }),
                "{text}: {error}"
            );
        }
        assert!(cache.read("../p1").await.unwrap().is_none());
    }
}
