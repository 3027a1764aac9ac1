//! A client of the OCI distribution protocol, for pulling only.
//!
//! Protocol: OCI distribution specification 1.1, "Pull". One [`Registry`] is one server for the length
//! of one pull: it remembers what it took to be let in. Every answer is bounded in size and in silence,
//! failures that may pass are retried, and content is verified by whoever asked for it by digest.
//! Deliberately absent: pushing, listing, and any choice between servers (see `pull`).

mod auth;
mod challenge;
mod connection;
mod download;
mod error;
mod http;
mod retry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::manifest;
use crate::progress::{Progress, ProgressEvent};
use retry::Verdict;

pub(crate) use download::Download;
pub use error::RegistryError;

/// A plain HTTP server that waits for the rest of a greeting it does not understand.
const TLS_PATIENCE: Duration = Duration::from_secs(10);

/// What a connection is made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `host[:port]` as references name it.
    pub(crate) host: String,
    pub(crate) insecure: bool,
    pub(crate) certs_dirs: Vec<PathBuf>,
    pub(crate) patience: Duration,
    pub(crate) credentials: Option<Credentials>,
}

/// A server, for one repository.
pub(crate) struct Registry {
    settings: Settings,
    repository: String,
    client: Client,
    /// `https://host` or `http://host`.
    base: String,
    /// The header that was last accepted, or is believed to be.
    authorization: Mutex<Option<String>>,
    progress: Arc<dyn Progress>,
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
struct Query<'a> {
    /// `manifests/<tag>` or `blobs/<digest>`.
    path: &'a str,
    accept: Option<&'a str>,
    /// Bytes that are here already.
    offset: u64,
}

impl Registry {
    /// Prepares a connection. An insecure server is asked which of https and http it speaks.
    pub(crate) async fn connect(
        settings: Settings,
        repository: &str,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, RegistryError> {
        let wanted = settings.clone();
        let made = tokio::task::spawn_blocking(move || {
            connection::client(&connection::Options {
                host: &wanted.host,
                insecure: wanted.insecure,
                certs_dirs: &wanted.certs_dirs,
                patience: wanted.patience,
            })
        });
        let client = made.await.map_err(|_| RegistryError::Stopped)?;
        let client = client.map_err(|reason| RegistryError::Setup {
            host: settings.host.clone(),
            reason,
        })?;
        // Docker Hub's name is not that of its server.
        let address = match settings.host.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let mut base = format!("https://{address}");
        if settings.insecure && !speaks_tls(&client, &base).await {
            base = format!("http://{address}");
        }
        Ok(Self {
            settings,
            repository: repository.to_owned(),
            client,
            base,
            authorization: Mutex::new(None),
            progress,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.settings.host
    }

    /// Fetches a manifest or index by tag or digest, up to `limit` bytes.
    pub(crate) async fn manifest(
        &self,
        selector: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let path = format!("manifests/{selector}");
        let query = Query {
            path: &path,
            accept: Some(manifest::ACCEPT),
            offset: 0,
        };
        let bytes = self.fetch(query, "a manifest", limit).await?;
        match selector.parse::<Digest>() {
            Ok(expected) => self.verify("a manifest", expected, bytes),
            Err(_) => Ok(bytes),
        }
    }

    /// Fetches a small blob, up to `limit` bytes.
    pub(crate) async fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{digest}");
        let query = Query {
            path: &path,
            accept: None,
            offset: 0,
        };
        let bytes = self.fetch(query, "a configuration", limit).await?;
        self.verify("a configuration", *digest, bytes)
    }

    fn verify(
        &self,
        what: &'static str,
        expected: Digest,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RegistryError> {
        let actual = Digest::of(&bytes);
        if actual == expected {
            return Ok(bytes);
        }
        Err(RegistryError::Digest {
            host: self.host().to_owned(),
            what,
            expected,
            actual,
        })
    }

    /// Asks and reads the whole answer; a connection that breaks in between is tried again.
    async fn fetch(
        &self,
        query: Query<'_>,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = self.ask(query).await?;
            let body = http::body(self.host(), response, what, limit);
            let body = tokio::time::timeout(self.settings.patience, body).await;
            match body.unwrap_or_else(|_| Err(self.stalled())) {
                Err(error @ RegistryError::Unreachable { .. }) if attempt < retry::ATTEMPTS => {
                    self.pause(attempt, None, &error).await;
                }
                other => return other,
            }
        }
    }

    /// Sends a request until it is answered with success, or for good with failure.
    async fn ask(&self, query: Query<'_>) -> Result<Response, RegistryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.ask_once(query).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status().as_u16();
                    let asked = header(&response, RETRY_AFTER)
                        .and_then(|text| retry::retry_after(&text, jiff::Timestamp::now()));
                    let error = self.failure(response, query).await;
                    if retry::verdict(status) == Verdict::Final || attempt >= retry::ATTEMPTS {
                        return Err(error);
                    }
                    self.pause(attempt, asked, &error).await;
                    continue;
                }
                Err(error) => error,
            };
            if attempt >= self.patience_with(&error) {
                return Err(error);
            }
            self.pause(attempt, None, &error).await;
        }
    }

    fn patience_with(&self, error: &RegistryError) -> u32 {
        let RegistryError::Unreachable { source, .. } = error else {
            return 1;
        };
        if source.is_redirect() {
            1
        } else if source.is_connect() {
            retry::CONNECT_ATTEMPTS
        } else {
            retry::ATTEMPTS
        }
    }

    /// Waits before the next attempt, and says why.
    async fn pause(&self, attempt: u32, asked: Option<Duration>, error: &RegistryError) {
        let reason = connection::chain(error);
        tracing::debug!(registry = %self.host(), attempt, reason, "a registry request is tried again");
        self.progress.event(ProgressEvent::Retrying {
            registry: self.host().to_owned(),
            reason,
        });
        tokio::time::sleep(retry::delay(attempt, asked, retry::random())).await;
    }

    /// One request, and a second one if the first is not let in.
    async fn ask_once(&self, query: Query<'_>) -> Result<Response, RegistryError> {
        let before = self.authorization.lock().await.clone();
        let response = self.send(query, before.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let header = {
            let mut current = self.authorization.lock().await;
            // Layers are fetched side by side: another one may have got a new token already.
            if *current == before || current.is_none() {
                *current = Some(self.authenticate(&challenges).await?);
            }
            current.clone()
        };
        self.send(query, header.as_deref()).await
    }

    async fn authenticate(&self, challenges: &[String]) -> Result<String, RegistryError> {
        let request = auth::Request {
            client: &self.client,
            host: self.host(),
            repository: &self.repository,
            credentials: self.settings.credentials.as_ref(),
            insecure: self.settings.insecure,
        };
        let answer = auth::answer(&request, challenges);
        let answer = tokio::time::timeout(self.settings.patience, answer).await;
        answer.unwrap_or_else(|_| Err(self.stalled()))
    }

    async fn send(
        &self,
        query: Query<'_>,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let url = format!("{}/v2/{}/{}", self.base, self.repository, query.path);
        let mut request = self.client.get(url);
        if let Some(accept) = query.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if query.offset > 0 {
            request = request.header(RANGE, format!("bytes={}-", query.offset));
        }
        let answer = tokio::time::timeout(self.settings.patience, request.send()).await;
        let answer = answer.map_err(|_| self.stalled())?;
        answer.map_err(|source| http::unreachable(self.host(), source))
    }

    fn stalled(&self) -> RegistryError {
        RegistryError::Stalled {
            host: self.host().to_owned(),
            seconds: self.settings.patience.as_secs(),
        }
    }

    async fn failure(&self, response: Response, query: Query<'_>) -> RegistryError {
        let host = self.host().to_owned();
        match response.status().as_u16() {
            404 => RegistryError::NotFound {
                host,
                what: format!("{}/{}", self.repository, query.path),
            },
            401 | 403 => RegistryError::Unauthorized {
                detail: http::detail(&host, response).await,
                host,
            },
            429 => RegistryError::Throttled { host },
            status => RegistryError::Status {
                detail: http::detail(&host, response).await,
                host,
                status,
            },
        }
    }
}

fn header(response: &Response, name: reqwest::header::HeaderName) -> Option<String> {
    response
        .headers()
        .get(name)?
        .to_str()
        .ok()
        .map(str::to_owned)
}

/// Whether a server answers https at all; a plain HTTP server does not understand the greeting.
async fn speaks_tls(client: &Client, base: &str) -> bool {
    let greeting = client
        .get(format!("{base}/v2/"))
        .timeout(TLS_PATIENCE)
        .send();
    greeting.await.is_ok()
}
