//! The HTTP client for one server, with the certificates that the host's administrator gave it.
//!
//! `certs.d` is that of Docker and the containers project (`containers-certs.d(5)`): a directory named
//! `host[:port]` with `*.crt` for authorities and `*.cert` with `*.key` for the client's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity};

const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
const REDIRECT_LIMIT: usize = 10;

/// How to connect to a server.
#[derive(Debug, Clone)]
pub(super) struct Options<'a> {
    /// `host[:port]`.
    pub(super) host: &'a str,
    /// Certificates are not verified, plain HTTP is accepted.
    pub(super) insecure: bool,
    pub(super) certs_dirs: &'a [PathBuf],
    /// The longest silence within an answer.
    pub(super) patience: Duration,
}

/// Makes a client. Reads files and loads the system's certificates: it belongs on a blocking thread.
pub(super) fn client(options: &Options<'_>) -> Result<Client, String> {
    let insecure = options.insecure;
    let mut builder = Client::builder()
        .user_agent(concat!("husk/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_PATIENCE.min(options.patience))
        .tls_danger_accept_invalid_certs(insecure)
        .redirect(Policy::custom(move |attempt| {
            let from_tls = attempt
                .previous()
                .last()
                .is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECT_LIMIT {
                attempt.error("too many redirects")
            } else if from_tls && attempt.url().scheme() != "https" && !insecure {
                attempt.error("a redirect from https to http")
            } else {
                attempt.follow()
            }
        }));
    if let Some(directory) = directory(options) {
        let found = Certificates::read(&directory)?;
        builder = builder.tls_certs_merge(found.authorities);
        if let Some(identity) = found.identity {
            builder = builder.identity(identity);
        }
    }
    builder.build().map_err(|error| chain(&error))
}

fn directory(options: &Options<'_>) -> Option<PathBuf> {
    let directories = options.certs_dirs.iter();
    directories
        .map(|parent| parent.join(options.host))
        .find(|path| path.is_dir())
}

#[derive(Default)]
struct Certificates {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

impl Certificates {
    fn read(directory: &Path) -> Result<Self, String> {
        let wrong =
            |path: &Path, error: &dyn std::error::Error| format!("{}: {error}", path.display());
        let entries = fs::read_dir(directory).map_err(|error| wrong(directory, &error))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        let mut found = Self::default();
        for path in paths {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension == Some("crt") {
                let pem = fs::read(&path).map_err(|error| wrong(&path, &error))?;
                let bundle =
                    Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&path, &error))?;
                found.authorities.extend(bundle);
            } else if extension == Some("cert") {
                let key = path.with_extension("key");
                let mut pem = fs::read(&path).map_err(|error| wrong(&path, &error))?;
                pem.push(b'\n');
                pem.extend(fs::read(&key).map_err(|error| wrong(&key, &error))?);
                let identity = Identity::from_pem(&pem).map_err(|error| wrong(&path, &error))?;
                found.identity = Some(identity);
            }
        }
        Ok(found)
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
