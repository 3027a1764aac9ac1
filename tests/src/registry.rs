//! Debian's `docker-registry` on loopback, started for one test: plain, with a password, with tokens, or
//! with TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::Image;
use crate::command::{command, output};
use crate::netns;
use crate::token::TokenServer;
use crate::wait::{DEADLINE, wait_blocking};

/// The one account of a registry with a password.
pub const USER: &str = "reader";
/// Its password; an empty one and a wrong one are for tests to invent.
pub const PASSWORD: &str = "open sesame";

/// How the registry is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    #[default]
    Plain,
    Password,
    /// By a token of a server, which wants the password.
    Token,
    Tls,
}

/// A registry process, stopped on drop.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
    access: Access,
    network: Option<u32>,
    tokens: Option<TokenServer>,
}

impl Registry {
    /// Starts a registry inside the network namespace of the process `network`.
    pub fn start(network: Option<u32>, access: Access) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("hr-").tempdir()?;
        let address = netns::listen(network)?.local_addr()?;
        let tokens = match access {
            Access::Token => Some(TokenServer::start(network, directory.path())?),
            Access::Plain | Access::Password | Access::Tls => None,
        };
        let extra = match access {
            Access::Plain => String::new(),
            Access::Token => tokens.iter().map(TokenServer::section).collect(),
            Access::Password => password_section(directory.path())?,
            Access::Tls => tls_section(directory.path())?,
        };
        let configuration = directory.path().join("config.yml");
        let root = directory.path().join("data");
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
                 enabled: true\nhttp:\n  addr: {address}\n{extra}",
                root.display()
            ),
        )?;
        let log = fs::File::create(directory.path().join("log"))?;
        let process = inside(network, "docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry")?;
        let registry = Self {
            process,
            directory,
            address,
            access,
            network,
            tokens,
        };
        ensure!(
            wait_blocking(DEADLINE, || netns::connect(network, address).is_ok()),
            "docker-registry does not listen: {}",
            fs::read_to_string(registry.directory.path().join("log")).unwrap_or_default()
        );
        Ok(registry)
    }

    /// `host:port`, as an image reference begins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A token to pull from the repository with, where tokens are what opens it.
    pub fn token(&self, repository: &str) -> Result<String> {
        let server = self.tokens.as_ref();
        server.context("it takes no tokens")?.token(repository)
    }

    /// Pushes `images` as `name` (`repository:tag`), as one index if they are several.
    pub fn push(&self, name: &str, images: &[Image]) -> Result<String> {
        self.push_as(name, images, &[])
    }

    /// As [`Registry::push`], with more options for `skopeo copy`, such as `--format v2s2`.
    pub fn push_as(&self, name: &str, images: &[Image], options: &[&str]) -> Result<String> {
        let layout = tempfile::tempdir_in(self.directory.path())?;
        Image::write_layout(layout.path(), images)?;
        let reference = format!("{}/{name}", self.host());
        let mut push = inside(self.network, "skopeo");
        push.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            "--all",
            "--dest-tls-verify=false",
        ]);
        if options.contains(&"--format") {
            push = inside(self.network, "skopeo");
            push.args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ]);
        }
        if matches!(self.access, Access::Password | Access::Token) {
            push.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        push.args(options);
        output(
            push.arg(format!("oci:{}", layout.path().display()))
                .arg(format!("docker://{reference}")),
        )?;
        Ok(reference)
    }

    /// The file that holds a blob in the registry's store, for a test that damages it.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hash = digest.trim_start_matches("sha256:");
        let blobs = self
            .directory
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hash[..2]).join(hash).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

/// A command that runs in the network namespace of `network`.
pub fn inside(network: Option<u32>, program: &str) -> std::process::Command {
    let Some(pid) = network else {
        return command(program);
    };
    let mut enter = command("nsenter");
    enter
        .arg(format!("--target={pid}"))
        .args(["--net", "--", program]);
    enter
}

fn password_section(directory: &Path) -> Result<String> {
    let file = directory.join("htpasswd");
    fs::write(
        &file,
        output(command("htpasswd").args(["-Bbn", USER, PASSWORD]))?,
    )?;
    Ok(format!(
        "auth:\n  htpasswd:\n    realm: husk\n    path: {}\n",
        file.display()
    ))
}

/// A certificate authority of the test's own, and a server certificate that it signed.
fn tls_section(directory: &Path) -> Result<String> {
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let openssl = |words: &str| {
        output(
            command("openssl")
                .args(words.split_whitespace())
                .current_dir(directory),
        )
    };
    openssl(&format!(
        "req -x509 {new_key} -days 2 -subj /CN=husk-test-ca -keyout ca.key -out ca.pem"
    ))?;
    openssl(&format!(
        "req {new_key} -subj /CN=registry -keyout key.pem -out request.pem"
    ))?;
    fs::write(
        directory.join("extensions"),
        "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n",
    )?;
    let signing = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions";
    openssl(&format!(
        "x509 -req -days 2 -in request.pem -out cert.pem {signing}"
    ))?;
    let place = directory.display();
    Ok(format!(
        "  tls:\n    certificate: {place}/cert.pem\n    key: {place}/key.pem\n"
    ))
}
