//! What systemd is to a service, as far as it listens to it and keeps descriptors: a socket for notifications, and a
//! store that is given back at the next start (sd_pid_notify_with_fds(3), sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::command::command;

/// Where descriptors wait that the service is to inherit: above all that it has itself.
const WAITING_ROOM: i32 = 1000;
/// The first that a service gets from its store.
const FIRST: usize = 3;

/// What the service has left and said.
#[derive(Debug, Default)]
struct Kept {
    store: BTreeMap<String, OwnedFd>,
    said: Vec<String>,
}

type Store = Arc<Mutex<Kept>>;

/// A service manager with one service.
#[derive(Debug)]
pub struct ServiceManager {
    socket: PathBuf,
    store: Store,
    thread: Option<JoinHandle<()>>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Listens in the directory.
    pub fn start(directory: &Path) -> Result<Self> {
        let socket = directory.join("notify");
        let listener = UnixDatagram::bind(&socket)?;
        let store = Store::default();
        let kept = store.clone();
        let thread = std::thread::spawn(move || serve(&listener, &kept));
        Ok(Self {
            socket,
            store,
            thread: Some(thread),
            watchdog: None,
        })
    }

    /// Has the service say that it lives, at least that often (sd_watchdog_enabled(3)).
    pub fn with_watchdog(mut self, interval: Duration) -> Self {
        self.watchdog = Some(interval);
        self
    }

    /// The names of what is stored.
    pub fn stored(&self) -> Vec<String> {
        lock(&self.store).store.keys().cloned().collect()
    }

    /// How often the service has said this, such as `READY=1`.
    pub fn heard(&self, line: &str) -> usize {
        let kept = lock(&self.store);
        kept.said.iter().filter(|said| *said == line).count()
    }

    /// A command that becomes `program` as the service manager would start it, with what is stored. What is answered
    /// besides has to live until it was started.
    pub fn starts(&self, program: &Command) -> Result<(Command, Vec<OwnedFd>)> {
        let mut inherited = Vec::new();
        let mut names = Vec::new();
        let mut script = String::new();
        for (target, (name, fd)) in (FIRST..).zip(lock(&self.store).store.iter()) {
            let copy = rustix::io::fcntl_dupfd_cloexec(fd, WAITING_ROOM)?;
            // For a moment, until the program was started.
            rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
            let number = copy.as_raw_fd();
            script.push_str(&format!("exec {target}<&{number} {number}<&-\n"));
            inherited.push(copy);
            names.push(name.clone());
        }
        script.push_str("export LISTEN_PID=$$ WATCHDOG_PID=$$\nexec \"$@\"");
        let mut start = command("bash");
        start
            .args(["-c", &script, "bash"])
            .arg(program.get_program())
            .args(program.get_args())
            .env("NOTIFY_SOCKET", &self.socket)
            .env("FDSTORE", "1000")
            .env("LISTEN_FDS", inherited.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        if let Some(interval) = self.watchdog {
            start.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        Ok((start, inherited))
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let told = UnixDatagram::unbound().and_then(|end| end.send_to(b"END", &self.socket));
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            let _panicked = thread.join();
        }
    }
}

fn lock(store: &Store) -> MutexGuard<'_, Kept> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &UnixDatagram, store: &Store) {
    loop {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let Ok(message) = recvmsg(listener, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        else {
            return;
        };
        let mut fd = None;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut rights) = part {
                fd = rights.next();
            }
        }
        let text = String::from_utf8_lossy(&text[..message.bytes]).into_owned();
        if text == "END" {
            return;
        }
        keep(store, &text, fd);
    }
}

fn keep(store: &Store, text: &str, fd: Option<OwnedFd>) {
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = lock(store);
    kept.said.extend(lines.iter().map(|&line| line.to_owned()));
    let Some(name) = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")) else {
        return;
    };
    let store = &mut kept.store;
    if lines.contains(&"FDSTOREREMOVE=1") {
        store.remove(name);
    } else if let Some(fd) = fd.filter(|_| lines.contains(&"FDSTORE=1")) {
        // Without this systemd drops what hangs up, and with it what is left to be read.
        assert!(lines.contains(&"FDPOLL=0"), "{text}");
        store.insert(name.to_owned(), fd);
    }
}
