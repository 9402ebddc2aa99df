//! The way to a server: TCP, and TLS above it where the address begins with
//! `https`. One connection serves one request or one WebSocket.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either as OneOf, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::either::Either;

use crate::Endpoint;

/// What a request may carry.
pub(crate) type RequestBody = OneOf<Full<Bytes>, Empty<Bytes>>;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody answers there.
    #[error("no connection")]
    Tcp(#[source] io::Error),
    /// The certificate is not believed, or what listens speaks no TLS.
    #[error("no TLS connection")]
    Tls(#[source] io::Error),
    /// The name in the address is none that a certificate can have.
    #[error("the address has no name for TLS")]
    Name(#[source] rustls_pki_types::InvalidDnsNameError),
    /// What the machine trusts could not be read.
    #[error("no TLS here")]
    Setup(#[source] tokio_rustls::rustls::Error),
    /// What listens speaks no HTTP.
    #[error("no HTTP connection")]
    Http(#[source] hyper::Error),
}

/// Why certificates cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The text has none in the form PEM (RFC 7468).
    #[error("there is no certificate in what is to be trusted")]
    Empty,
    /// One is not written as it should be.
    #[error("a certificate to trust is not in the form PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
}

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    trusted: Vec<CertificateDer<'static>>,
    /// Made when it is first needed: it reads what the machine trusts.
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Dialer {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            trusted: Vec::new(),
            tls: Arc::default(),
        }
    }

    /// The same, trusting these certificates instead of the machine's.
    pub(crate) fn trusting(self, pem: &[u8]) -> Result<Self, TrustError> {
        let trusted = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(TrustError::Pem)?;
        if trusted.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(Self {
            endpoint: self.endpoint,
            trusted,
            tls: Arc::default(),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection for one exchange, which ends when both halves of what
    /// comes of it are dropped.
    pub(crate) async fn dial(&self) -> Result<SendRequest<RequestBody>, DialError> {
        let tcp = TcpStream::connect(self.endpoint.socket())
            .await
            .map_err(DialError::Tcp)?;
        tcp.set_nodelay(true).map_err(DialError::Tcp)?;
        let stream = if self.endpoint.is_secure() {
            Either::Left(self.secure(tcp).await?)
        } else {
            Either::Right(tcp)
        };
        let (sender, exchange) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(DialError::Http)?;
        // Its error is the one that `send_request` reports.
        tokio::spawn(exchange.with_upgrades());
        Ok(sender)
    }

    async fn secure(
        &self,
        tcp: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialError> {
        let config = self.tls.get_or_try_init(|| self.configure()).await?;
        let (host, _) = self.endpoint.socket();
        let name = ServerName::try_from(host.to_owned()).map_err(DialError::Name)?;
        TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await
            .map_err(DialError::Tls)
    }

    async fn configure(&self) -> Result<Arc<ClientConfig>, DialError> {
        let roots = if self.trusted.is_empty() {
            // Reads files. Should the thread die there is nothing to trust,
            // and the connection is refused.
            tokio::task::spawn_blocking(|| rustls_native_certs::load_native_certs().certs)
                .await
                .unwrap_or_default()
        } else {
            self.trusted.clone()
        };
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(DialError::Setup)?;
        Ok(Arc::new(
            config.with_root_certificates(store).with_no_client_auth(),
        ))
    }
}

/// A body, or none.
pub(crate) fn body(bytes: Bytes) -> RequestBody {
    if bytes.is_empty() {
        OneOf::Right(Empty::new())
    } else {
        OneOf::Left(Full::new(bytes))
    }
}

/// Reads a body whole, up to a length.
pub(crate) async fn read_body(
    body: hyper::body::Incoming,
    len_max: usize,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let body = http_body_util::Limited::new(body, len_max)
        .collect()
        .await?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;

    use super::*;
    use crate::{Client, RequestError, Token};

    /// Answers every request with an empty object, over TLS.
    async fn serve(made: &CertifiedKey<rcgen::KeyPair>) -> Endpoint {
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                // A client that does not believe the certificate goes away.
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut request = [0; 4096];
                let len = stream.read(&mut request).await.unwrap();
                assert!(request[..len].starts_with(b"GET /x HTTP/1.1\r\n"));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                stream.write_all(answer).await.unwrap();
            }
        });
        Endpoint::parse(&format!("https://localhost:{port}")).unwrap()
    }

    #[tokio::test]
    async fn https_is_spoken_with_those_who_are_trusted() {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let stranger = Client::new(serve(&made).await, Token::new("t"));
        let error = stranger.get::<Value>("/x").await.unwrap_err();
        let RequestError::Unreachable { source, .. } = error else {
            panic!("{error:?}")
        };
        assert!(matches!(source, DialError::Tls(_)), "{source:?}");
        let friend = stranger.trusting(made.cert.pem().as_bytes()).unwrap();
        assert_eq!(friend.get::<Value>("/x").await.unwrap(), json!({}));
    }

    #[test]
    fn only_certificates_can_be_trusted() {
        let dialer = || Dialer::new(Endpoint::parse("https://localhost").unwrap());
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let error = dialer().trusting(text.as_bytes()).unwrap_err();
            assert!(matches!(error, TrustError::Empty), "{error:?}");
        }
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(dialer().trusting(cut).is_err());
    }
}
