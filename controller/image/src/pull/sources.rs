//! The servers of one pull: tried in order, the one that had the manifest first.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::credentials::{self, AuthFile, Credentials, Found};
use crate::digest::Digest;
use crate::failure::Cause;
use crate::images::Inner;
use crate::kind::ErrorKind;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registries::Endpoint;
use crate::registry::{Download, Registry, RegistryError, Settings};

/// The servers and what is needed to talk to them.
pub(super) struct Sources<'a> {
    inner: &'a Inner,
    servers: Vec<Server>,
    progress: Arc<dyn Progress>,
}

struct Server {
    endpoint: Endpoint,
    /// What the caller supplied, if it is meant for this server.
    credentials: Option<Credentials>,
    connection: OnceCell<Registry>,
}

/// Something that any of the servers may have.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// A manifest by digest, up to so many bytes.
    Manifest(&'a Digest, u64),
    /// A configuration, up to so many bytes.
    Config(&'a Digest, u64),
    /// A layer, to a file.
    Layer(&'a Download<'a>),
}

impl Wanted<'_> {
    async fn from(self, registry: &Registry) -> Result<Vec<u8>, RegistryError> {
        match self {
            Self::Manifest(digest, limit) => registry.manifest(&digest.to_string(), limit).await,
            Self::Config(digest, limit) => registry.blob(digest, limit).await,
            Self::Layer(download) => registry.download(download).await.map(|()| Vec::new()),
        }
    }
}

/// What was tried without success.
#[derive(Default)]
struct Failures {
    earlier: Vec<String>,
    last: Option<(String, RegistryError)>,
}

impl Failures {
    fn add(&mut self, endpoint: &Endpoint, error: RegistryError) {
        tracing::debug!(endpoint = %endpoint.reference, error = &error as &dyn std::error::Error, "a source failed");
        if let Some((before, failed)) = self.last.replace((endpoint.reference.to_string(), error)) {
            self.earlier.push(format!("{before}: {failed}"));
        }
    }

    fn into_cause(self) -> Cause {
        match self.last {
            Some((endpoint, source)) => Cause::Registry {
                endpoint,
                earlier: self.earlier,
                source: Box::new(source),
            },
            None => Cause::Archive("there is no server to ask".to_owned()),
        }
    }
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        reference: &Reference,
        endpoints: Vec<Endpoint>,
        supplied: Option<&Credentials>,
        progress: Arc<dyn Progress>,
    ) -> Self {
        let servers = endpoints.into_iter().map(|endpoint| {
            let own = !endpoint.mirror || endpoint.reference.registry() == reference.registry();
            Server {
                credentials: supplied.filter(|_| own).cloned(),
                endpoint,
                connection: OnceCell::new(),
            }
        });
        Self {
            inner,
            servers: servers.collect(),
            progress,
        }
    }

    /// Asks one server after the other for the manifest of the reference. Who has it is asked first
    /// from then on.
    pub(super) async fn first_manifest(&mut self, limit: u64) -> Result<Vec<u8>, Cause> {
        let mut failures = Failures::default();
        let mut found = None;
        for (at, server) in self.servers.iter().enumerate() {
            let selector = server.endpoint.reference.selector();
            let answer = match self.connect(server).await {
                Ok(registry) => registry.manifest(&selector, limit).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(bytes) => {
                    found = Some((at, bytes));
                    break;
                }
                Err(error) => failures.add(&server.endpoint, error),
            }
        }
        let Some((at, bytes)) = found else {
            return Err(failures.into_cause());
        };
        self.servers[..=at].rotate_right(1);
        Ok(bytes)
    }

    /// Fetches from the first server that can. A download's bytes go to its file, not to the result.
    pub(super) async fn fetch(&self, wanted: Wanted<'_>) -> Result<Vec<u8>, Cause> {
        let mut failures = Failures::default();
        for server in &self.servers {
            let answer = match self.connect(server).await {
                Ok(registry) => wanted.from(registry).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let hopeless = error.kind() == ErrorKind::NoSpace;
                    failures.add(&server.endpoint, error);
                    if hopeless {
                        break;
                    }
                }
            }
        }
        Err(failures.into_cause())
    }

    async fn connect<'s>(&self, server: &'s Server) -> Result<&'s Registry, RegistryError> {
        server
            .connection
            .get_or_try_init(|| self.open(server))
            .await
    }

    async fn open(&self, server: &Server) -> Result<Registry, RegistryError> {
        let reference = &server.endpoint.reference;
        let credentials = match &server.credentials {
            Some(supplied) => Some(supplied.clone()),
            None => self.stored_credentials(reference).await?,
        };
        let settings = Settings {
            host: reference.registry().to_owned(),
            insecure: server.endpoint.insecure,
            certs_dirs: self.inner.config.certs_dirs.clone(),
            patience: self.inner.config.pull_progress_timeout,
            credentials,
        };
        Registry::connect(settings, reference.repository(), Arc::clone(&self.progress)).await
    }

    async fn stored_credentials(
        &self,
        reference: &Reference,
    ) -> Result<Option<Credentials>, RegistryError> {
        let Some(path) = self.inner.config.auth_file.clone() else {
            return Ok(None);
        };
        let failed = |reason: String| RegistryError::Credentials {
            host: reference.registry().to_owned(),
            reason,
        };
        let loaded = tokio::task::spawn_blocking(move || AuthFile::load(&path)).await;
        let file = loaded
            .map_err(|_| RegistryError::Stopped)?
            .map_err(failed)?;
        match file.find(reference).map_err(failed)? {
            Found::Here(credentials) => Ok(Some(credentials)),
            Found::Helper { name, server } => {
                credentials::ask(&name, &server).await.map_err(failed)
            }
            Found::Nothing => Ok(None),
        }
    }
}
