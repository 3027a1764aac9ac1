//! TLS for a listener that is not on loopback.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file is not PEM, or holds none.
    #[error("certificate chain in PEM")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    /// The key file is not PEM, or holds none.
    #[error("private key in PEM")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("certificate with its key")]
    Pair(#[source] rustls::Error),
}

/// A server configuration from the contents of a certificate and a key file.
///
/// # Errors
/// [`TlsError`] names the part that cannot be used.
pub fn server_tls(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    // An upgrade exists in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
