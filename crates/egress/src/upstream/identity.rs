//! The operator's certificates for hosts that ask who is calling (TLS-11). The keys are in
//! this process alone: a guest's requests are sent under them, and it never has one.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    sign::CertifiedKey,
};
use tombolo_policy::{HostName, OperatorRulesError, parse_certified_host};

use crate::config::ClientCertificate;

/// A host and its port.
pub(super) type Host = (HostName, u16);

/// Certificates by host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities(BTreeMap<Host, Arc<CertifiedKey>>);

/// A client certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentitiesError {
    /// The host is none.
    #[error(transparent)]
    Host(#[from] OperatorRulesError),
    /// A part of the file is not there.
    #[error("{path} holds no {part} in PEM; put the certificates, and the key behind them")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What of it.
        part: &'static str,
        /// Why.
        #[source]
        source: Option<pem::Error>,
    },
    /// The certificate and the key do not go together, or the key is of an unknown kind.
    #[error("the certificate and the key in {path} cannot be used")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl Identities {
    pub(crate) fn read(certificates: &[ClientCertificate]) -> Result<Self, IdentitiesError> {
        let read = certificates.iter().map(|certificate| {
            let host = parse_certified_host(&certificate.host)?;
            Ok((host, Arc::new(key(certificate)?)))
        });
        read.collect::<Result<_, IdentitiesError>>().map(Self)
    }

    /// Each once for all that is made of it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Host, &Arc<CertifiedKey>)> {
        self.0.iter()
    }
}

fn key(certificate: &ClientCertificate) -> Result<CertifiedKey, IdentitiesError> {
    let refuse = |part, source| IdentitiesError::Pem {
        path: certificate.path.clone(),
        part,
        source,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.pem).collect();
    let chain = chain.map_err(|error| refuse("certificate", Some(error)))?;
    if chain.is_empty() {
        return Err(refuse("certificate", None));
    }
    let key = PrivateKeyDer::from_pem_slice(&certificate.pem)
        .map_err(|error| refuse("key", Some(error)))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
        IdentitiesError::Key {
            path: certificate.path.clone(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use zeroize::Zeroizing;

    use super::*;

    fn read(host: &str, pem: &str) -> Result<Identities, String> {
        let certificate = ClientCertificate {
            host: host.to_owned(),
            path: "/c.pem".into(),
            pem: Zeroizing::new(pem.as_bytes().to_vec()),
        };
        Identities::read(&[certificate]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_needs_its_own_key_and_a_host() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let (certificate, key, other) = (
            certificate.pem(),
            key.serialize_pem(),
            other.serialize_pem(),
        );
        let whole = format!("{certificate}{key}");
        for (host, pem, expected) in [
            ("a.test", &whole, None),
            ("a.test:8443", &whole, None),
            ("*.a.test", &whole, Some("is not a host name")),
            ("192.0.2.1", &whole, Some("is not a host name")),
            ("", &whole, Some("is not a host name")),
            ("a.test", &certificate, Some("holds no key")),
            ("a.test", &key, Some("holds no certificate")),
            (
                "a.test",
                &format!("{certificate}{other}"),
                Some("cannot be used"),
            ),
        ] {
            let found = read(host, pem).err();
            let is_expected = match (&found, expected) {
                (Some(words), Some(expected)) => words.contains(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{host}: {found:?}");
        }
    }
}
