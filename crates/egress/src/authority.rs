//! The certificate authority of one sandbox: what makes its guest believe the proxy.
//!
//! Its key never leaves this process but encrypted, and no two sandboxes share one
//! (TLS-14). One key pair serves all leaves, one leaf is made for each name, and each
//! name has a configuration, and so tickets, of its own (TLS-09). The extensions are
//! those without which strict clients refuse (TLS-13).

use std::{fmt, num::NonZero, sync::Arc, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use crate::identity::Peer;

/// Names for which a leaf is kept.
const LEAVES_MAX: NonZero<usize> = NonZero::new(512).unwrap();
/// How long before now a certificate is valid: guests' clocks may be behind after they
/// were restored.
const BACKDATED_HOURS: i64 = 48;
/// How long an authority is valid; no sandbox lives longer.
const AUTHORITY_DAYS: i64 = 365;
/// How long a leaf is valid. Browsers refuse more than 398 days; a cached leaf is made
/// anew well before.
const LEAF_DAYS: i64 = 90;
/// After how long a cached leaf is made anew.
const LEAF_FRESH_DAYS: i64 = 30;
const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;

/// What clients may speak inside TLS.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// An authority or a certificate of it could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The certificate library refused.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused what was made.
    #[error("cannot use a certificate for TLS")]
    Tls(#[from] rustls::Error),
    /// A name cannot stand in a certificate.
    #[error("cannot write a name into a certificate")]
    Name(#[source] rcgen::Error),
}

/// The authority of one sandbox.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    leaf_key: KeyPair,
    leaves: Mutex<LruCache<Peer, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    config: Arc<ServerConfig>,
    /// Seconds of the Unix clock.
    made_at: i64,
}

/// What is kept of an authority, so that guests still believe the next process.
pub(crate) struct AuthorityRecord {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: Zeroizing<String>,
}

impl Authority {
    /// A new one, valid from `now` (seconds of the Unix clock).
    pub(crate) fn generate(sandbox: &str, now: i64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(sandbox, now);
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self::assemble(Issuer::new(params, key), der, pem)
    }

    /// The one that an earlier process kept.
    pub(crate) fn restore(
        sandbox: &str,
        record: &AuthorityRecord,
        now: i64,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(&record.key_pem)?;
        // What leaves say of their issuer follows from its name and its key.
        let issuer = Issuer::new(authority_params(sandbox, now), key);
        let der =
            rustls::pki_types::pem::PemObject::from_pem_slice(record.certificate_pem.as_bytes())
                .map_err(|_not_pem: rustls::pki_types::pem::Error| {
                    rcgen::Error::CouldNotParseCertificate
                })?;
        Self::assemble(issuer, der, record.certificate_pem.clone())
    }

    fn assemble(
        issuer: Issuer<'static, KeyPair>,
        certificate: CertificateDer<'static>,
        certificate_pem: String,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            issuer,
            certificate,
            certificate_pem,
            leaf_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            leaves: Mutex::new(LruCache::new(LEAVES_MAX)),
        })
    }

    /// What the guest is to trust, as PEM.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What to keep; encrypted, because it has the key.
    pub(crate) fn record(&self) -> AuthorityRecord {
        AuthorityRecord {
            certificate_pem: self.certificate_pem.clone(),
            key_pem: Zeroizing::new(self.issuer.key().serialize_pem()),
        }
    }

    /// How to be this peer towards the guest.
    pub(crate) fn server_config(
        &self,
        peer: &Peer,
        now: i64,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let fresh =
            |leaf: &Leaf| (0..LEAF_FRESH_DAYS * DAY_SECONDS).contains(&(now - leaf.made_at));
        if let Some(leaf) = self.leaves.lock().get(peer).filter(|leaf| fresh(leaf)) {
            return Ok(Arc::clone(&leaf.config));
        }
        let config = Arc::new(self.make_config(peer, now)?);
        let leaf = Leaf {
            config: Arc::clone(&config),
            made_at: now,
        };
        self.leaves.lock().put(peer.clone(), leaf);
        Ok(config)
    }

    /// A new leaf for a peer, and the authority's own certificate.
    pub(crate) fn chain(
        &self,
        peer: &Peer,
        now: i64,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let mut params = params(now, LEAF_DAYS);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // The name is in the SAN alone: a common name has at most 64 characters.
        params.distinguished_name = distinguished_name("Tombolo egress");
        params.subject_alt_names = vec![match peer {
            Peer::Name(name) => {
                SanType::DnsName(name.as_str().try_into().map_err(AuthorityError::Name)?)
            }
            Peer::Address(address) => SanType::IpAddress(*address),
        }];
        let leaf = params.signed_by(&self.leaf_key, &self.issuer)?;
        Ok(vec![leaf.der().clone(), self.certificate.clone()])
    }

    fn make_config(&self, peer: &Peer, now: i64) -> Result<ServerConfig, AuthorityError> {
        let chain = self.chain(peer, now)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        config.max_early_data_size = 0;
        config.ticketer = ring::Ticketer::new()?;
        Ok(config)
    }
}

fn params(now: i64, days: i64) -> CertificateParams {
    // The library's own way to a moment; far from the edges of what it can hold.
    let moment = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0).unsigned_abs())
    };
    let mut params = CertificateParams::default();
    params.not_before = moment(now - BACKDATED_HOURS * HOUR_SECONDS);
    params.not_after = moment(now + days * DAY_SECONDS);
    params
}

fn authority_params(sandbox: &str, now: i64) -> CertificateParams {
    let mut params = params(now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = distinguished_name(&format!("Tombolo sandbox {sandbox}"));
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

impl fmt::Debug for AuthorityRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AuthorityRecord(key hidden)")
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Authority(key hidden)")
    }
}
