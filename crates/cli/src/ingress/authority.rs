//! The authority of one machine for the names of its exposures. It can sign for names
//! below its base and for no other (RFC 5280, 4.2.1.10), so that trusting it means
//! trusting this machine with these names alone.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use zeroize::Zeroizing;

/// How long before now certificates are valid: clients' clocks may be behind.
const BACKDATED_HOURS: i64 = 48;
const AUTHORITY_DAYS: i64 = 3650;
/// Browsers refuse more than 398 days.
const LEAF_DAYS: i64 = 60;
const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;

/// An authority or a certificate of it could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("a certificate of the ingress cannot be made")]
    Make(#[source] rcgen::Error),
    #[error("the key of the ingress's authority cannot be read")]
    Key(#[source] rcgen::Error),
}

/// Signs for the names below one base.
pub(super) struct Authority {
    base: String,
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, valid from `now`, in seconds of the Unix clock.
    pub(super) fn generate(base: &str, now: i64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
        let params = authority_params(base, now);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?;
        let root_pem = certificate.pem();
        Ok(Self {
            base: base.to_owned(),
            issuer: Issuer::new(params, key),
            root_pem,
        })
    }

    /// The one that an earlier run kept.
    pub(super) fn restore(
        base: &str,
        root_pem: &str,
        key_pem: &str,
        now: i64,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Key)?;
        // What leaves say of their issuer follows from its name and its key.
        let issuer = Issuer::new(authority_params(base, now), key);
        Ok(Self {
            base: base.to_owned(),
            issuer,
            root_pem: root_pem.to_owned(),
        })
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// A new certificate for all names below the base, and its key, as one PEM.
    pub(super) fn identity(&self, now: i64) -> Result<String, AuthorityError> {
        let make = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = params(now, LEAF_DAYS);
            params.is_ca = IsCa::ExplicitNoCa;
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.distinguished_name = distinguished_name("Tombolo ingress");
            params.subject_alt_names = vec![
                SanType::DnsName(format!("*.{}", self.base).try_into()?),
                SanType::DnsName(self.base.clone().try_into()?),
            ];
            let leaf = params.signed_by(&key, &self.issuer)?;
            Ok(format!("{}{}", leaf.pem(), key.serialize_pem()))
        };
        make().map_err(AuthorityError::Make)
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

fn authority_params(base: &str, now: i64) -> CertificateParams {
    let mut params = params(now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = distinguished_name(&format!("Tombolo {base}"));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(base.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const NAME: &str = "0123456789abcdef0123456789abcdef";

    /// Whether who trusts the authority believes that this certificate is of that name.
    fn believes(authority: &Authority, identity: &str, name: &str, now: i64) -> bool {
        let root = CertificateDer::from_pem_slice(authority.root_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let leaf = CertificateDer::from_pem_slice(identity.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let verified = verifier
            .unwrap()
            .verify_server_cert(&leaf, &[], &name, &[], now);
        verified.is_ok()
    }

    #[test]
    fn it_is_believed_for_names_below_its_base_and_for_no_others() {
        let mut authority = Authority::generate("a.localhost", NOW).unwrap();
        let identity = authority.identity(NOW).unwrap();
        let days = |days| NOW + days * DAY_SECONDS;
        let cases = [
            (format!("{NAME}.a.localhost"), NOW, true),
            ("a.localhost".to_owned(), NOW, true),
            (format!("{NAME}.a.localhost"), days(59), true),
            (format!("{NAME}.a.localhost"), days(61), false),
            (format!("{NAME}.b.localhost"), NOW, false),
            (format!("x.{NAME}.a.localhost"), NOW, false),
        ];
        for (name, now, expected) in cases {
            let believed = believes(&authority, &identity, &name, now);
            assert_eq!(believed, expected, "{name} {now}");
        }
        let (root, key) = (authority.root_pem().to_owned(), authority.key_pem());
        let restored = Authority::restore("a.localhost", &root, &key, days(30)).unwrap();
        let renewed = restored.identity(days(30)).unwrap();
        let name = format!("{NAME}.a.localhost");
        assert!(believes(&authority, &renewed, &name, days(61)));
        // Whoever has its key signs for nothing else.
        authority.base = "b.localhost".to_owned();
        let stolen = authority.identity(NOW).unwrap();
        assert!(!believes(
            &authority,
            &stolen,
            &format!("{NAME}.b.localhost"),
            NOW
        ));
    }
}
