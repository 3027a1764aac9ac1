//! The same over TLS.

use std::sync::Arc;

use husk_streaming::{Config, Server, TlsError, server_tls};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::client::{Client, connect};
use crate::config;
use crate::programs::{command, piped, script};
use crate::websocket_client::WebSocket;

/// A certificate for `localhost` and its key, made on the spot.
async fn certificate() -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    let made = command("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .await
        .expect("openssl runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    (
        std::fs::read(certificate).unwrap(),
        std::fs::read(key).unwrap(),
    )
}

fn connector(certificate: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn sessions_run_over_tls() {
    let (certificate, key) = certificate().await;
    let tls = server_tls(&certificate, &key).expect("usable");
    let server = Server::start(Config {
        tls: Some(tls),
        ..config()
    })
    .await
    .unwrap();
    let connector = connector(&certificate);
    let name = ServerName::try_from("localhost").unwrap();
    let (session, _) = script("cat", piped(true, true, false));
    let url = server.exec_url(session).unwrap();
    assert!(url.starts_with("https://"), "{url}");
    let io = connector
        .connect(name.clone(), connect(&url).await)
        .await
        .unwrap();
    let mut client = Client::upgrade_on(io, &url, "v4.channel.k8s.io").await;
    let [error, stdin, stdout] = client.open(["error", "stdin", "stdout"]).await;
    client.data(stdin, b"secret").await;
    client.finish(stdin).await;
    let [out, _] = client.collect([stdout, error]).await;
    assert_eq!(out, b"secret");
    let (session, _) = script("echo hello", piped(false, true, false));
    let url = server.exec_url(session).unwrap();
    let io = connector.connect(name, connect(&url).await).await.unwrap();
    let mut client = WebSocket::upgrade_on(io, &url, "v4.channel.k8s.io").await;
    assert_eq!(client.collect().await[&1], b"hello\n");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let (certificate, key) = certificate().await;
    let (_, other) = self::certificate().await;
    assert!(matches!(server_tls(b"", &key), Err(TlsError::Pair(_))));
    assert!(matches!(
        server_tls(&certificate, b"none"),
        Err(TlsError::Key(_))
    ));
    assert!(matches!(
        server_tls(&certificate, &other),
        Err(TlsError::Pair(_))
    ));
}
