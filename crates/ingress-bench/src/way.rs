//! A way to a program: where to connect to, and whether with TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One way, as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    name: &'static str,
    address: SocketAddr,
    host: String,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tls({:?})", self.name)
    }
}

/// A connection that takes one request after another.
pub(crate) type Sender = SendRequest<Empty<Bytes>>;

impl Way {
    /// Without TLS.
    pub(crate) fn plain(name: &'static str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            host: address.to_string(),
            tls: None,
        }
    }

    /// With TLS, to a host whose certificate this one signed.
    pub(crate) fn tls(
        name: &'static str,
        address: SocketAddr,
        host: &str,
        root: CertificateDer<'static>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = host.split(':').next().unwrap_or(host).to_owned();
        Ok(Self {
            name,
            address,
            host: host.to_owned(),
            tls: Some(Tls {
                name: ServerName::try_from(server)?,
                config: Arc::new(config),
            }),
        })
    }

    /// The address of an exposed port of this machine.
    pub(crate) fn to(name: &'static str, url: &Uri, root: &Path) -> anyhow::Result<Self> {
        let authority = url.authority().context("the address names no host")?;
        let port = authority.port_u16().unwrap_or(443);
        let root = CertificateDer::from_pem_file(root)?;
        Self::tls(
            name,
            SocketAddr::from(([127, 0, 0, 1], port)),
            authority.as_str(),
            root,
        )
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Sender> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(sender);
        };
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let stream = connector.connect(tls.name.clone(), stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Asks once and takes the whole answer.
    pub(crate) async fn ask(&self, sender: &mut Sender) -> anyhow::Result<()> {
        sender.ready().await?;
        let request = Request::get("/")
            .header(HOST, &self.host)
            .body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{}: {status}: {body:?}", self.name);
        Ok(())
    }
}
