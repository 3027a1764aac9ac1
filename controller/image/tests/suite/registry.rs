//! Pulls from docker-registry, filled by skopeo: plain, with passwords, with TLS.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use husk_image::{Credentials, ErrorKind, PullError, RootfsOptions, Silent};

use crate::common::{Directory, Node, TestImage, layer, write_tree, zstd};

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of these tests that starts programs"
)]
fn command(program: &str) -> Command {
    Command::new(program)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// docker-registry on a free port of loopback; it ends with the value.
struct Registry {
    child: Child,
    host: String,
    directory: Directory,
}

impl Registry {
    /// Starts it with more lines of configuration. `DIR` in them is its directory.
    fn start(prepare: impl FnOnce(&Path), http: &str, rest: &str) -> Self {
        let directory = Directory::new();
        prepare(directory.path());
        let path = directory.path().to_str().unwrap();
        let text = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\nstorage:\n  filesystem:\n    rootdirectory: DIR/data\n\
             http:\n  addr: 127.0.0.1:0\n{http}{rest}"
        );
        let file = directory.path().join("config.yml");
        std::fs::write(&file, text.replace("DIR", path)).unwrap();
        let mut child = command("docker-registry")
            .arg("serve")
            .arg(&file)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let host = listening(&mut child);
        Self {
            child,
            host,
            directory,
        }
    }

    fn plain() -> Self {
        Self::start(|_| {}, "", "")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Uploads an image in the given format (`oci` or `v2s2`).
    fn push(&self, image: &TestImage, name: &str, format: &str, options: &[&str]) {
        let layout = self.path("layout");
        let _ = std::fs::remove_dir_all(&layout);
        write_tree(&layout, &image.layout("1"));
        let source = format!("oci:{}:1", layout.display());
        let target = format!("docker://{}/{name}", self.host);
        let mut arguments = vec!["--insecure-policy", "copy", "-q", "--format", format];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&[&source, &target]);
        run("skopeo", &arguments);
    }
}

/// The address in the line that says so. The rest of the log is read so that it never blocks.
fn listening(child: &mut Child) -> String {
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).unwrap() > 0,
            "docker-registry ended: {seen}"
        );
        if let Some((_, rest)) = line.split_once("listening on ") {
            let host = rest
                .split([',', '"', ' '])
                .next()
                .unwrap()
                .trim()
                .to_owned();
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return host;
        }
        seen.push_str(&line);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image() -> TestImage {
    TestImage::new(vec![
        layer(&[("hello", b"lower"), ("etc/gone", b"x")]),
        layer(&[("hello", b"upper"), ("etc/.wh.gone", b"")]),
    ])
}

/// A store with the certificates in `certs` and, when told so, an insecure rule for the server.
async fn node(registry: &Registry, insecure: bool) -> Node {
    Node::with(|config, directory| {
        let path = directory.join("registries.conf");
        let text = format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = {insecure}\n",
            registry.host
        );
        std::fs::write(&path, text).unwrap();
        config.registries = vec![path];
        config.certs_dirs = vec![directory.join("certs")];
        config.pull_progress_timeout = Duration::from_secs(10);
    })
    .await
}

async fn pull(node: &Node, reference: &str) -> Result<husk_image::Image, PullError> {
    node.images.pull(reference, None, Arc::new(Silent)).await
}

#[tokio::test]
async fn oci_and_docker_images_are_pulled() {
    let registry = Registry::plain();
    let node = node(&registry, true).await;
    for format in ["oci", "v2s2"] {
        let name = format!("team/app-{format}:1");
        registry.push(&image(), &name, format, &["--dest-tls-verify=false"]);
        let pulled = pull(&node, &format!("{}/{name}", registry.host))
            .await
            .unwrap();
        assert_eq!(pulled.config.cmd, ["/hello"], "{format}");
        let root = node
            .images
            .rootfs(&pulled.id, format, RootfsOptions::default())
            .await
            .unwrap();
        assert_eq!(std::fs::read(root.path.join("hello")).unwrap(), b"upper");
        assert!(!root.path.join("etc/gone").exists());
        node.images.release(format).await.unwrap();
        let digest = pulled.repo_digests[0].clone();
        node.images.remove(&digest).await.unwrap();
        assert_eq!(pull(&node, &digest).await.unwrap().id, pulled.id);
    }
    let missing = pull(&node, &format!("{}/team/none:1", registry.host))
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn every_compression_is_pulled() {
    let registry = Registry::plain();
    let node = node(&registry, true).await;
    let mut mixed = image();
    mixed.blobs = vec![
        (zstd(&mixed.layers[0]), "+zstd"),
        (mixed.layers[1].clone(), ""),
    ];
    registry.push(
        &mixed,
        "mixed:1",
        "oci",
        &["--dest-tls-verify=false", "--preserve-digests"],
    );
    let pulled = pull(&node, &format!("{}/mixed:1", registry.host))
        .await
        .unwrap();
    assert_eq!(pulled.id, mixed.id());
    let root = node
        .images
        .rootfs(&pulled.id, "c", RootfsOptions::default())
        .await
        .unwrap();
    assert_eq!(std::fs::read(root.path.join("hello")).unwrap(), b"upper");
    node.images.release("c").await.unwrap();
}

#[tokio::test]
async fn passwords_open_the_registry() {
    let prepare = |directory: &Path| {
        let users = run("htpasswd", &["-Bbn", "user", "pass:word"]);
        std::fs::write(directory.join("htpasswd"), users).unwrap();
    };
    let auth = "auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n";
    let registry = Registry::start(prepare, "", auth);
    registry.push(
        &image(),
        "app:1",
        "oci",
        &["--dest-tls-verify=false", "--dest-creds", "user:pass:word"],
    );
    let node = node(&registry, true).await;
    let reference = format!("{}/app:1", registry.host);
    let basic = |password: &str| Credentials::Basic {
        username: "user".to_owned(),
        password: password.to_owned(),
    };
    for credentials in [None, Some(basic("wrong"))] {
        let error = node
            .images
            .pull(&reference, credentials, Arc::new(Silent))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
        assert!(format!("{:?}", error.cause).contains(&registry.host));
    }
    let pulled = node
        .images
        .pull(&reference, Some(basic("pass:word")), Arc::new(Silent))
        .await;
    assert_eq!(pulled.unwrap().id, image().id());
}

/// An authority, a server certificate for 127.0.0.1 and a client certificate.
fn make_certificates(directory: &Path) {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let key = ["-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let authority = [
        "req",
        "-x509",
        "-subj",
        "/CN=test authority",
        "-keyout",
        &path("ca.key"),
        "-out",
        &path("ca.crt"),
    ];
    run(
        "openssl",
        &[&authority[..1], &key[..], &authority[1..]].concat(),
    );
    for (name, alternative) in [
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        let (secret, certificate) = (path(&format!("{name}.key")), path(&format!("{name}.cert")));
        let (subject, ca, ca_key) = (format!("/CN={name}"), path("ca.crt"), path("ca.key"));
        let arguments = [
            "req",
            "-x509",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-subj",
            &subject,
            "-addext",
            alternative,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &secret,
            "-out",
            &certificate,
        ];
        run(
            "openssl",
            &[&arguments[..2], &key[..], &arguments[2..]].concat(),
        );
    }
}

#[tokio::test]
async fn tls_needs_the_right_authority_and_client_certificate() {
    let tls = "  tls:\n    certificate: DIR/server.cert\n    key: DIR/server.key\n    clientcas: [DIR/ca.crt]\n";
    let registry = Registry::start(make_certificates, tls, "");
    let for_skopeo = registry.path("skopeo");
    std::fs::create_dir(&for_skopeo).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        std::fs::copy(registry.path(name), for_skopeo.join(name)).unwrap();
    }
    let option = for_skopeo.to_str().unwrap();
    registry.push(&image(), "app:1", "oci", &["--dest-cert-dir", option]);
    let reference = format!("{}/app:1", registry.host);
    let node = node(&registry, false).await;
    let unknown = pull(&node, &reference).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Unreachable, "{unknown:?}");

    let certs = node.directory.path().join("certs").join(&registry.host);
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(registry.path("ca.crt"), certs.join("ca.crt")).unwrap();
    let stranger = pull(&node, &reference).await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Unreachable, "{stranger:?}");

    std::fs::copy(registry.path("client.cert"), certs.join("client.cert")).unwrap();
    let no_key = pull(&node, &reference).await.unwrap_err();
    assert_eq!(no_key.kind(), ErrorKind::Configuration, "{no_key:?}");
    std::fs::copy(registry.path("client.key"), certs.join("client.key")).unwrap();
    assert_eq!(pull(&node, &reference).await.unwrap().id, image().id());
}

#[tokio::test]
async fn an_insecure_registry_may_have_any_certificate() {
    let tls = "  tls:\n    certificate: DIR/server.cert\n    key: DIR/server.key\n";
    let registry = Registry::start(make_certificates, tls, "");
    registry.push(&image(), "app:1", "oci", &["--dest-tls-verify=false"]);
    let node = node(&registry, true).await;
    let pulled = pull(&node, &format!("{}/app:1", registry.host))
        .await
        .unwrap();
    assert_eq!(pulled.id, image().id());
}
