//! A checkpoint of a running container: what it was made from, its processes as CRIU writes them, and
//! what it changed in its files, in one archive.
//!
//! The archive has the names that the field agreed on: `config.dump`, `spec.dump`, `checkpoint/`,
//! `rootfs-diff.tar`, `dump.log`. It appears under its name when it is whole, or not at all. Processes
//! are written first; then the container is paused while its files are read, and runs on.
//!
//! Deliberately absent: restoring (`restore.rs`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pod_monitor_client::Monitor;
use serde_json::json;

use super::limited;
use crate::bundle;
use crate::clock::now;
use crate::directories::Directories;
use crate::error::PodError;
use crate::host::find_program;
use crate::id::new_id;
use crate::monitors::{self, Trace};
use crate::services::Services;
use crate::view::Found;

/// What is asked for.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// The archive to make.
    pub location: &'a Path,
    /// How long it may take; `None` leaves that to the OCI runtime's usual time.
    pub limit: Option<Duration>,
}

/// The parts of an archive, by the names that the field's tools know.
pub(super) const CONFIG: &str = "config.dump";
pub(super) const SPEC: &str = "spec.dump";
pub(super) const CHANGES: &str = "rootfs-diff.tar";
pub(super) const IMAGES: &str = "checkpoint";
const LOG: &str = "dump.log";

/// The part of CRIU's log that says what went wrong, in lines.
const CAUSES: usize = 3;

/// Where drafts of checkpoints are. They can be as large as the memory of what they show, so they are
/// on a disk.
pub fn drafts(directories: &Directories) -> PathBuf {
    directories.root.join("checkpoints")
}

/// Writes a checkpoint; the container runs on. What was begun is carried to its end, whoever waits.
///
/// # Errors
/// The location cannot be written, the OCI runtime or CRIU refuse, or the time is over. Nothing is
/// left then.
pub async fn checkpoint(
    services: &Arc<Services>,
    monitor: Monitor,
    found: Found,
    asked: Checkpoint<'_>,
    trace: &Trace,
) -> Result<(), PodError> {
    let draft = Draft::make(&drafts(&services.directories), asked.location)?;
    let id = found.container.id.clone();
    let (handler, subject) = (&found.pod.record.handler, format!("container {id}"));
    can(services, "checkpoint", handler, &subject)?;
    let making = Making {
        services: services.clone(),
        monitor,
        found,
        draft,
        limit: asked.limit,
        trace: trace.clone(),
    };
    let stopping = PodError::Stopping { id: id.clone() };
    let making = tokio::spawn(making.run());
    let Some(limit) = asked.limit else {
        return making.await.unwrap_or(Err(stopping));
    };
    match tokio::time::timeout(limit, making).await {
        Ok(made) => made.unwrap_or(Err(stopping)),
        Err(_) => Err(PodError::CheckpointTimeout { id, limit }),
    }
}

/// Whether the OCI runtime of a handler was built for checkpoints; CRIU itself may still be missing.
pub(super) fn can(
    services: &Services,
    operation: &'static str,
    handler: &str,
    subject: &str,
) -> Result<(), PodError> {
    match services.monitors.handlers.find(handler) {
        Ok(found) if !found.features.checkpoints => Err(PodError::NoCriu {
            operation,
            subject: subject.to_owned(),
            handler: found.name.clone(),
        }),
        // A handler that is gone from the configuration is told of by what needs it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A checkpoint in the making.
struct Making {
    services: Arc<Services>,
    monitor: Monitor,
    found: Found,
    draft: Draft,
    limit: Option<Duration>,
    trace: Trace,
}

impl Making {
    async fn run(self) -> Result<(), PodError> {
        let (id, pod) = (&self.found.container.id, &self.found.pod.record);
        let begun = Instant::now();
        self.write_processes(id).await?;
        self.write_changes(id).await?;
        let bundle = self.services.directories.bundle(&pod.id, id);
        let runtime = self.services.monitors.handlers.find(&pod.handler);
        let config = config(&self.found, runtime.map_or("", |handler| &handler.name));
        let parts = self.draft.parts(&config, &bundle.join(bundle::SPEC))?;
        let draft = self.draft;
        let limit = self.limit;
        let packing = move || {
            pack(&parts, &draft.partial)?;
            if limit.is_some_and(|limit| begun.elapsed() >= limit) {
                // Whoever asked was told that there will be none.
                return Ok(());
            }
            let target = &draft.target;
            fs::rename(&draft.partial, target).map_err(PodError::io("renaming to", target))
        };
        let packed = tokio::task::spawn_blocking(packing).await;
        packed.unwrap_or_else(|_| Err(PodError::Stopping { id: id.clone() }))
    }

    async fn write_processes(&self, id: &str) -> Result<(), PodError> {
        let directories = (&*self.draft.images(), &*self.draft.work());
        let call = self
            .monitor
            .checkpoint(&self.trace, id, directories, self.limit);
        call.await.map_err(|source| {
            refused(
                ("checkpoint", id),
                &self.draft.work().join(LOG),
                source.into(),
            )
        })
    }

    async fn write_changes(&self, id: &str) -> Result<(), PodError> {
        let path = self.draft.directory.join(CHANGES);
        let file = File::create_new(&path).map_err(PodError::io("making", &path))?;
        let (services, monitor) = (&self.services, &self.monitor);
        let paused = limited(services, "pause", id, monitor.pause(&self.trace, id)).await;
        let written = match paused {
            Ok(()) => services.images.write_changes(id, file).await,
            Err(error) => {
                // Too late an answer is no reason to leave it standing.
                let _ = monitor.resume(&self.trace, id).await;
                return Err(error);
            }
        };
        limited(services, "resumption", id, monitor.resume(&self.trace, id)).await?;
        written.map_err(|source| PodError::Rootfs {
            id: id.to_owned(),
            source: Box::new(source),
        })
    }
}

/// What the field's tools read first.
fn config(found: &Found, runtime: &str) -> serde_json::Value {
    let record = &found.container;
    let config = record.config();
    let metadata = config.metadata.unwrap_or_default();
    let image = config.image.unwrap_or_default();
    let time = |nanoseconds: i64| {
        let time = jiff::Timestamp::from_nanosecond(nanoseconds.into());
        time.map(|time| time.to_string()).unwrap_or_default()
    };
    json!({
        "id": record.id,
        "name": metadata.name,
        "rootfsImage": record.image_id,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": image.user_specified_image,
        "runtime": runtime,
        "createdTime": time(record.created_at),
        "checkpointedTime": time(now()),
        "restored": false,
    })
}

/// Says what CRIU said, which the OCI runtime only points to.
pub(super) fn refused(
    (operation, id): (&'static str, &str),
    log: &Path,
    source: Box<monitors::Error>,
) -> PodError {
    let log = fs::read_to_string(log).unwrap_or_default();
    let installed = find_program(Path::new("criu")).is_some();
    PodError::Criu {
        operation,
        id: id.to_owned(),
        cause: cause(&log, installed),
        able: installed,
        source,
    }
}

fn cause(log: &str, installed: bool) -> String {
    if !installed {
        return "CRIU is not installed on this node".into();
    }
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
    let first = &errors[..errors.len().min(CAUSES)];
    if first.is_empty() {
        return "CRIU or the OCI runtime cannot do it here".into();
    }
    format!("CRIU says: {}", first.join("; "))
}

/// The files of a checkpoint in the making, which go with the value.
#[derive(Debug)]
struct Draft {
    directory: PathBuf,
    partial: PathBuf,
    target: PathBuf,
}

/// A name in the archive, and what is there.
type Parts = Vec<(&'static str, PathBuf)>;

impl Draft {
    fn make(drafts: &Path, location: &Path) -> Result<Self, PodError> {
        check(location)?;
        let id = new_id()?;
        let directory = drafts.join(&id);
        make_private(drafts, &directory)?;
        let draft = Self {
            directory,
            partial: location.with_file_name(format!(".{}.partial", &id[..16])),
            target: location.to_owned(),
        };
        for directory in [draft.images(), draft.work()] {
            fs::create_dir(&directory).map_err(PodError::io("making", &directory))?;
        }
        Ok(draft)
    }

    fn images(&self) -> PathBuf {
        self.directory.join(IMAGES)
    }

    fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    fn parts(&self, config: &serde_json::Value, spec: &Path) -> Result<Parts, PodError> {
        let path = self.directory.join(CONFIG);
        let text = bundle::to_json(config, &path)?;
        fs::write(&path, text).map_err(PodError::io("writing", &path))?;
        let mut parts = vec![
            (CONFIG, path),
            (SPEC, spec.to_owned()),
            (CHANGES, self.directory.join(CHANGES)),
            (IMAGES, self.images()),
        ];
        let log = self.work().join(LOG);
        if log.exists() {
            parts.push((LOG, log));
        }
        Ok(parts)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed goes when the daemon starts.
        let _ = fs::remove_dir_all(&self.directory);
        let _ = fs::remove_file(&self.partial);
    }
}

/// A directory for root alone, below one that is made where it is missing.
pub(super) fn make_private(drafts: &Path, directory: &Path) -> Result<(), PodError> {
    for path in [drafts, directory] {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(path == drafts).mode(0o700).create(path);
        made.map_err(PodError::io("making", path))?;
    }
    Ok(())
}

/// Whether a file can be made there.
fn check(location: &Path) -> Result<(), PodError> {
    let invalid = |cause: &str| PodError::Invalid {
        subject: format!("location {:?}", location.display().to_string()),
        cause: cause.into(),
    };
    let parent = location.parent().filter(|_| location.is_absolute());
    let parent = parent.ok_or_else(|| invalid("is not an absolute path"))?;
    if !parent.is_dir() {
        return Err(invalid("is in a directory that does not exist"));
    }
    if location.is_dir() {
        return Err(invalid("is a directory"));
    }
    match location.file_name() {
        Some(_) => Ok(()),
        None => Err(invalid("has no file name")),
    }
}

/// Readable for root alone: memory has secrets.
fn pack(parts: &Parts, partial: &Path) -> Result<(), PodError> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600);
    let file = file
        .open(partial)
        .map_err(PodError::io("making", partial))?;
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    archive.follow_symlinks(false);
    for (name, path) in parts {
        let added = if path.is_dir() {
            archive.append_dir_all(name, path)
        } else {
            archive.append_path_with_name(path, name)
        };
        added.map_err(PodError::io("packing", path))?;
    }
    let packed = archive.into_inner().and_then(|mut file| file.flush());
    packed.map_err(PodError::io("writing", partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_absolute_files_in_directories_that_exist() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        check(&at("c.tar")).unwrap();
        for wrong in [
            at("absent/c.tar"),
            place.path().to_owned(),
            "c.tar".into(),
            "/".into(),
        ] {
            assert!(check(&wrong).is_err(), "{}", wrong.display());
        }
    }

    #[test]
    fn a_draft_leaves_nothing_and_an_archive_has_its_parts() {
        let place = tempfile::tempdir().unwrap();
        let (drafts, target) = (place.path().join("drafts"), place.path().join("c.tar"));
        let spec = place.path().join("config.json");
        fs::write(&spec, "{}").unwrap();
        let draft = Draft::make(&drafts, &target).unwrap();
        fs::write(draft.images().join("pages-1.img"), "memory").unwrap();
        fs::write(draft.work().join("dump.log"), "ok").unwrap();
        fs::write(draft.directory.join("rootfs-diff.tar"), "").unwrap();
        let parts = draft.parts(&json!({"id": "c1"}), &spec).unwrap();
        pack(&parts, &draft.partial).unwrap();
        fs::rename(&draft.partial, &target).unwrap();
        drop(draft);
        assert_eq!(fs::read_dir(&drafts).unwrap().count(), 0);
        let mut archive = tar::Archive::new(File::open(&target).unwrap());
        let entries = archive.entries().unwrap();
        let names: Vec<_> = entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        for name in [
            "config.dump",
            "spec.dump",
            "rootfs-diff.tar",
            "checkpoint/pages-1.img",
            "dump.log",
        ] {
            assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
        }
    }

    #[test]
    fn causes_come_from_crius_log() {
        let log = "(0.1) fine\n(0.2) Error (criu/x.c:1): first\n(0.3) Error (criu/y.c:2): then\n";
        assert!(cause(log, true).contains("x.c:1): first; (0.3)"));
        assert!(cause("", false).contains("not installed"));
        assert!(cause("", true).contains("cannot do it here"));
    }
}
