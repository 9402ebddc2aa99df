//! TLS to the hosts themselves. Certificates are verified for the name that the policy
//! allowed, without exception (TLS-08).

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::identity::{Host, Identities};
use crate::{
    config::RootFile,
    identity::{Peer, Place},
};

/// Sessions that a sandbox may resume; none is shared with another sandbox.
const SESSIONS_MAX: usize = 64;

/// The authorities that upstream certificates are checked against cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It is not PEM.
    #[error("{path} holds no certificates in PEM")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Option<rustls::pki_types::pem::Error>,
    },
    /// A certificate in it is not one.
    #[error("{path} holds a certificate that cannot be used")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// There is no authority at all.
    #[error("this host trusts no certificate authority; install the package ca-certificates")]
    None,
    /// The TLS library refused its configuration.
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
}

/// What may be offered inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    /// HTTP/2 preferred.
    Any,
    /// For `WebSocket`s.
    Http1,
}

/// The TLS client of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamTls {
    usual: Offers,
    /// Where a client certificate is shown if it is asked for.
    certified: BTreeMap<Host, Offers>,
}

/// By what may be offered.
#[derive(Clone, Debug)]
struct Offers {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

/// TLS with a host did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the name cannot be verified")]
    Name(#[from] InvalidDnsNameError),
    #[error("the TLS handshake failed")]
    Handshake(#[from] io::Error),
}

/// The host's own authorities, and those in further files.
pub(crate) fn read_roots(files: &[RootFile]) -> Result<Arc<RootCertStore>, RootsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::warn!(%error, "cannot read some of the host's certificate authorities");
    }
    let (_, ignored) = roots.add_parsable_certificates(native.certs);
    if ignored > 0 {
        tracing::warn!(
            ignored,
            "some of the host's certificate authorities cannot be used"
        );
    }
    for file in files {
        add_file(&mut roots, file)?;
    }
    if roots.is_empty() {
        return Err(RootsError::None);
    }
    Ok(Arc::new(roots))
}

fn add_file(roots: &mut RootCertStore, file: &RootFile) -> Result<(), RootsError> {
    let path_of = || file.path.clone();
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&file.pem) {
        let certificate = certificate.map_err(|source| RootsError::Pem {
            path: path_of(),
            source: Some(source),
        })?;
        roots
            .add(certificate)
            .map_err(|source| RootsError::Certificate {
                path: path_of(),
                source,
            })?;
    }
    if roots.len() == before {
        return Err(RootsError::Pem {
            path: path_of(),
            source: None,
        });
    }
    Ok(())
}

impl UpstreamTls {
    /// A client with these authorities and a memory of sessions of its own.
    pub(crate) fn new(
        roots: &Arc<RootCertStore>,
        identities: &Identities,
    ) -> Result<Self, rustls::Error> {
        let certified = identities
            .iter()
            .map(|(host, key)| Ok((host.clone(), Offers::new(roots, Some(key))?)));
        Ok(Self {
            usual: Offers::new(roots, None)?,
            certified: certified.collect::<Result<_, rustls::Error>>()?,
        })
    }

    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        place: &Place,
        alpn: Alpn,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let (name, certified) = match &place.peer {
            Peer::Name(name) => (
                ServerName::try_from(name.as_str().to_owned())?,
                self.certified.get(&(name.clone(), place.port)),
            ),
            Peer::Address(address) => (ServerName::from(*address), None),
        };
        let offers = certified.unwrap_or(&self.usual);
        let config = match alpn {
            Alpn::Any => &offers.any,
            Alpn::Http1 => &offers.http1,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        Ok(connector.connect(name, stream).await?)
    }
}

impl Offers {
    fn new(
        roots: &Arc<RootCertStore>,
        key: Option<&Arc<CertifiedKey>>,
    ) -> Result<Self, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(roots));
        let mut config = match key {
            Some(key) => {
                let shown = SingleCertAndKey::from(Arc::clone(key));
                builder.with_client_cert_resolver(Arc::new(shown))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let mut http1 = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            any: Arc::new(config),
            http1: Arc::new(http1),
        })
    }
}
