//! The configuration directory: what it holds, and a task that notices when that changes.
//!
//! The directory may appear late, vanish and come back: while it is absent it is looked for every
//! second, else nothing is polled but plugins that said that they are not ready.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};

use super::Inner;
use super::config::{ConfigError, NetworkList};
use super::readiness::{Fault, Loaded, Readiness, State};

/// How often an absent directory is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How often plugins that are missing or not ready are asked again.
const ASK: Duration = Duration::from_secs(5);
/// An installer writes several files: they are read once it pauses.
const SETTLE: Duration = Duration::from_millis(50);
/// A file that is written for ever must not keep the others from being read.
const SETTLE_LIMIT: u32 = 20;
/// Most bytes of a configuration.
const LIMIT: u64 = 1 << 20;

/// One inotify instance on the directory.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    inotify: EventStream<[u8; 4096]>,
    dir: PathBuf,
    /// None while there is no directory.
    watched: Option<WatchDescriptor>,
    /// Whether something happened that has not been reported yet.
    changed: bool,
}

/// Reads the directory: the first usable file by name wins, as with every CNI runtime.
pub(super) fn load(dir: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    let mut fault = |path: PathBuf, cause| loaded.faults.push(Fault { path, cause });
    let paths = match candidates(dir) {
        Ok(paths) => paths,
        Err(error) => {
            fault(dir.to_owned(), error.to_string());
            return loaded;
        }
    };
    if paths.is_empty() {
        fault(
            dir.to_owned(),
            "no .conflist, .conf or .json file in it".to_owned(),
        );
    }
    for path in paths {
        match read(&path) {
            Ok(list) => {
                loaded.list = Some(Arc::new(list));
                break;
            }
            Err(cause) => fault(path, cause),
        }
    }
    loaded
}

fn candidates(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if matches!(kind, Some("conf" | "conflist" | "json")) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<NetworkList, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    NetworkList::parse(&text).map_err(|error| match &error {
        ConfigError::Json(cause) => format!("{error}: {cause}"),
        ConfigError::NoObject(_)
        | ConfigError::Key { .. }
        | ConfigError::Name(_)
        | ConfigError::Version(_)
        | ConfigError::NoPlugins
        | ConfigError::Kind(_) => error.to_string(),
    })
}

/// Keeps the state up to date until the network is dropped.
pub(super) async fn run(network: Weak<Inner>, mut watch: DirectoryWatch) {
    loop {
        let Some(inner) = network.upgrade() else {
            return;
        };
        let ready = |inner: &Inner| inner.read_state(State::readiness) == Readiness::Ready;
        if !ready(&inner) {
            inner.refresh_status().await;
        }
        let pause = if ready(&inner) { Duration::MAX } else { ASK };
        drop(inner);
        // The network must be free to go while nothing happens.
        if tokio::time::timeout(pause, watch.changed()).await.is_ok() {
            let Some(inner) = network.upgrade() else {
                return;
            };
            inner.reload();
        }
    }
}

impl Inner {
    fn reload(&self) {
        let loaded = load(&self.conf_dir);
        if self.read_state(|state| state.loaded == loaded) {
            return;
        }
        for fault in &loaded.faults {
            tracing::warn!(%fault, "skip a CNI configuration");
        }
        let network = loaded.list.as_ref().map(|list| list.name.as_str());
        tracing::info!(network, "CNI configuration loaded");
        let state = State::new(loaded, &self.invoker);
        self.write_state(|current| *current = state);
    }
}

impl DirectoryWatch {
    /// # Errors
    /// When the kernel gives no inotify instance. A directory that is not there is no error.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?.into_event_stream([0; 4096])?;
        let mut watch = DirectoryWatch {
            inotify,
            dir: dir.to_owned(),
            watched: None,
            changed: false,
        };
        watch.begin();
        Ok(watch)
    }

    /// Returns when the directory may hold something else than before. Nothing is lost when this
    /// is cancelled.
    async fn changed(&mut self) {
        if self.watched.is_none() {
            tokio::time::sleep(LOOK).await;
            self.begin();
            return;
        }
        while !self.changed {
            self.event().await;
        }
        for _ in 0..SETTLE_LIMIT {
            if tokio::time::timeout(SETTLE, self.event()).await.is_err() {
                break;
            }
        }
        self.changed = false;
        if self.watched.is_none() {
            // The watch is begun before the directory is read: no change falls in between.
            self.begin();
        }
    }

    fn begin(&mut self) {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        self.watched = self.inotify.watches().add(&self.dir, mask).ok();
    }

    /// Waits for one event. A watch that has ended is noted.
    async fn event(&mut self) {
        let event = self.inotify.next().await;
        self.changed = true;
        let over = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        match event {
            Some(Ok(event)) if Some(&event.wd) != self.watched.as_ref() => {}
            Some(Ok(event)) if !event.mask.intersects(over) => {}
            // Reading does not fail in practice; then, too, the watch is made anew.
            Some(_) | None => {
                if let Some(watched) = self.watched.take() {
                    // Of a directory that was removed the kernel has ended the watch already.
                    let _ = self.inotify.watches().remove(watched);
                }
            }
        }
    }
}
