//! How plugins come in: launched at start, or by connecting.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::error::{Refusal, ServeError};
use crate::handshake::{self, Joined};
use crate::plugins::{Inner, Nri};
use crate::{Node, discover};

/// Plugins that may be registering at the same time.
const REGISTERING: usize = 32;

impl Nri {
    /// Launches the plugins there are, waits until each is synchronised or was refused, and listens
    /// for more.
    ///
    /// # Errors
    /// When the directory of plugins cannot be read, or the socket not be had. One plugin that fails
    /// is logged and left out.
    pub async fn serve(&self, node: Arc<dyn Node>) -> Result<(), ServeError> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let _ = inner.node.set(node.clone());
        let config = &inner.config;
        let programs = discover::programs(&config.plugin_dir, &config.plugin_config_dir)?;
        let launches = programs.into_iter().map(|program| async {
            let name = program.identity.full();
            (name, handshake::launched(program, config).await)
        });
        for (name, launched) in futures::future::join_all(launches).await {
            if let Some(admitted) = inner.take_in(&name, launched, &node) {
                // Its sender is dropped either way.
                let _ = admitted.await;
            }
        }
        if let Some(path) = &config.socket {
            let listener = listen(path)?;
            let accepting = accept(inner.clone(), listener, node);
            inner.spawn(accepting);
        }
        Ok(())
    }
}

impl Inner {
    /// Begins a plugin's life; the answer ends when it is synchronised, or refused.
    fn take_in(
        self: &Arc<Self>,
        name: &str,
        joined: Result<Joined, Refusal>,
        node: &Arc<dyn Node>,
    ) -> Option<oneshot::Receiver<()>> {
        match joined {
            Ok(joined) => {
                let (admitted, is_admitted) = oneshot::channel();
                self.spawn(self.clone().keep(joined, node.clone(), admitted));
                Some(is_admitted)
            }
            Err(error) => {
                tracing::warn!(
                    plugin = name,
                    error = &error as &dyn std::error::Error,
                    "an NRI plugin is not taken in"
                );
                None
            }
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // Left by one that was killed; two runtimes of one node are told apart by their state's lock.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever connects may change every container: nobody but root.
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions).map_err(failed)?;
    Ok(listener)
}

async fn accept(inner: Arc<Inner>, listener: UnixListener, node: Arc<dyn Node>) {
    let places = Arc::new(Semaphore::new(REGISTERING));
    let mut registering = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = registering.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an NRI plugin's connection is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!("too many NRI plugins register at the same time; one is turned away");
            continue;
        };
        let (inner, node) = (inner.clone(), node.clone());
        registering.spawn(async move {
            let joined = handshake::connected(stream, &inner.config).await;
            drop(place);
            inner.take_in("(connected)", joined, &node);
        });
    }
}

/// After a connection could not be accepted: most likely there are no descriptors left.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
