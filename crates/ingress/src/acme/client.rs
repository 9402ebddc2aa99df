//! HTTP to the authority: what it answers is bounded in time and length.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Limited;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// The longest answer: a chain of certificates is a few kilobytes.
const ANSWER_LEN_MAX: usize = 256 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// It cannot be told who an authority's server is.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{} holds no certificate as PEM", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("a certificate is none to trust")]
    Certificate(#[source] rustls::Error),
    #[error("this machine trusts no authority; install the package ca-certificates")]
    Nobody,
    #[error("TLS cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Whom the authority's server is known by: the file, or whom this machine trusts.
pub(super) fn trust(file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        let read = CertificateDer::from_pem_file(path);
        let certificate = read.map_err(|source| TrustError::File {
            path: path.to_owned(),
            source,
        })?;
        roots.add(certificate).map_err(TrustError::Certificate)?;
    } else {
        let found = rustls_native_certs::load_native_certs();
        // One that cannot be used takes nothing from the others.
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        return Err(TrustError::Nobody);
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Whether there was no connection to the authority.
pub(super) fn is_unreached(error: &Error) -> bool {
    match error {
        Error::Other(cause) => cause
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect),
        _ => false,
    }
}

/// Speaks HTTPS alone.
pub(super) struct Client(HyperClient<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl Client {
    pub(super) fn new(trust: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(trust)
            .https_only()
            .enable_http1()
            .build();
        Self(HyperClient::builder(TokioExecutor::new()).build(connector))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = timeout(ANSWER_TIMEOUT, self.0.request(request));
        Box::pin(async move {
            let answered = asked.await.map_err(|_elapsed| {
                Error::Other(io::Error::from(io::ErrorKind::TimedOut).into())
            })?;
            let response = answered.map_err(|error| Error::Other(error.into()))?;
            Ok(response
                .map(|body| Limited::new(body, ANSWER_LEN_MAX))
                .into())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn ask(port: u16) -> Error {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root.pem");
        fs_err::write(&root, made.cert.pem()).unwrap();
        let client = Client::new(trust(Some(&root)).unwrap());
        let request = Request::get(format!("https://localhost:{port}/"));
        let request = request.body(BodyWrapper::from(Vec::new())).unwrap();
        match client.request(request).await {
            Ok(_) => panic!("nobody answers there"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn who_is_not_reached_is_told_from_who_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let unreached = ask(port).await;
        assert!(is_unreached(&unreached), "{unreached:?}");
        let refused = Error::Str("the authority says no");
        assert!(!is_unreached(&refused));
        let late = Error::Other(io::Error::from(io::ErrorKind::TimedOut).into());
        assert!(!is_unreached(&late));
    }
}
