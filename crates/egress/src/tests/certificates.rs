//! What guests are shown, as strict clients read it (TLS-13).

use std::{net::IpAddr, path::Path, process::Command};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tombolo_policy::HostName;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
    },
    prelude::FromDer as _,
};

use crate::{authority::Authority, clock::unix_seconds, identity::Peer};

const DAY_SECONDS: i64 = 24 * 3600;

fn peers() -> [Peer; 4] {
    let name = |text: &str| Peer::Name(HostName::parse(text).unwrap());
    let long = format!("{0}.{0}.{0}.test", "a".repeat(60));
    [
        name("good.test"),
        // Longer than a common name may be.
        name(&long),
        Peer::Address(IpAddr::from([192, 0, 2, 7])),
        Peer::Address("2001:db8::7".parse().unwrap()),
    ]
}

/// Authority and leaf, in DER.
fn chain(authority: &Authority, peer: &Peer) -> [CertificateDer<'static>; 2] {
    let chain = authority.chain(peer, unix_seconds()).unwrap();
    let [leaf, issuer] = <[_; 2]>::try_from(chain).unwrap();
    let pem = authority.certificate_pem();
    assert_eq!(
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(),
        issuer
    );
    [issuer, leaf]
}

fn extension<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &Oid<'static>,
) -> (bool, &'a ParsedExtension<'a>) {
    let found = certificate.get_extension_unique(oid).unwrap();
    let found = found.unwrap_or_else(|| panic!("no {oid}"));
    (found.critical, found.parsed_extension())
}

/// TLS-13: what RFC 5280 asks of an authority and of a leaf, which strict clients check.
#[test]
fn tls_13_certificates_have_all_that_strict_clients_ask_for() {
    let now = unix_seconds();
    let authority = Authority::generate("s1", now).unwrap();
    for peer in peers() {
        let [issuer, leaf] = chain(&authority, &peer);
        let (_, issuer) = X509Certificate::from_der(&issuer).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        check_authority(&issuer);
        check_leaf(&leaf, &issuer, &peer);
        for certificate in [&issuer, &leaf] {
            assert_eq!(certificate.version().0, 2, "X.509 version 3");
            assert!(!certificate.raw_serial().is_empty());
            assert!(certificate.raw_serial().len() <= 20);
            assert!(
                certificate.raw_serial()[0] & 0x80 == 0,
                "a negative serial number"
            );
            let validity = certificate.validity();
            let [from, to] = [validity.not_before, validity.not_after].map(|t| t.timestamp());
            assert_eq!(
                from,
                now - 2 * DAY_SECONDS,
                "clocks of guests may be behind"
            );
            assert!(to > now + 30 * DAY_SECONDS && to - from < 398 * DAY_SECONDS);
        }
        assert_ne!(issuer.raw_serial(), leaf.raw_serial());
    }
}

fn check_authority(issuer: &X509Certificate<'_>) {
    let constraints = extension(issuer, &OID_X509_EXT_BASIC_CONSTRAINTS);
    let (true, ParsedExtension::BasicConstraints(constraints)) = constraints else {
        panic!("{constraints:?}");
    };
    assert!(constraints.ca);
    assert_eq!(constraints.path_len_constraint, Some(0));
    let usage = extension(issuer, &OID_X509_EXT_KEY_USAGE);
    let (true, ParsedExtension::KeyUsage(usage)) = usage else {
        panic!("{usage:?}");
    };
    assert!(usage.key_cert_sign());
    assert!(!usage.digital_signature() && !usage.key_encipherment());
    let identifier = extension(issuer, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    assert!(matches!(
        identifier,
        (false, ParsedExtension::SubjectKeyIdentifier(_))
    ));
    assert!(issuer.subject().iter_common_name().next().is_some());
}

fn check_leaf(leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>, peer: &Peer) {
    assert_eq!(leaf.issuer(), issuer.subject());
    let own = extension(issuer, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    let (_, ParsedExtension::SubjectKeyIdentifier(own)) = own else {
        panic!("{own:?}");
    };
    let named = extension(leaf, &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER);
    let (false, ParsedExtension::AuthorityKeyIdentifier(named)) = named else {
        panic!("{named:?}");
    };
    assert_eq!(named.key_identifier.as_ref(), Some(own));
    let usage = extension(leaf, &OID_X509_EXT_EXTENDED_KEY_USAGE);
    let (_, ParsedExtension::ExtendedKeyUsage(usage)) = usage else {
        panic!("{usage:?}");
    };
    assert!(usage.server_auth && !usage.any && !usage.client_auth);
    let usage = extension(leaf, &OID_X509_EXT_KEY_USAGE);
    let (true, ParsedExtension::KeyUsage(usage)) = usage else {
        panic!("{usage:?}");
    };
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let [name] = names.value.general_names.as_slice() else {
        panic!("{names:?}");
    };
    match (name, peer) {
        (GeneralName::DNSName(found), Peer::Name(name)) => assert_eq!(*found, name.as_str()),
        (GeneralName::IPAddress(found), Peer::Address(IpAddr::V4(address))) => {
            assert_eq!(*found, address.octets());
        }
        (GeneralName::IPAddress(found), Peer::Address(IpAddr::V6(address))) => {
            assert_eq!(*found, address.octets());
        }
        other => panic!("{other:?}"),
    }
}

/// TLS-13: OpenSSL with all its strictness, which Python 3.13 has by default, believes the
/// chain, also one of an authority that was kept and restored.
#[test]
fn tls_13_openssl_believes_the_chain_when_it_is_strict() {
    let directory = tempfile::tempdir().unwrap();
    let now = unix_seconds();
    let first = Authority::generate("s1", now).unwrap();
    let restored = Authority::restore("s1", &first.record(), now + 3600).unwrap();
    for authority in [&first, &restored] {
        for peer in peers() {
            let [issuer, leaf] = chain(authority, &peer);
            let [issuer_file, leaf_file] =
                ["issuer.pem", "leaf.pem"].map(|n| directory.path().join(n));
            fs_err::write(&issuer_file, pem(&issuer)).unwrap();
            fs_err::write(&leaf_file, pem(&leaf)).unwrap();
            let check = match &peer {
                Peer::Name(name) => ["-verify_hostname".to_owned(), name.to_string()],
                Peer::Address(address) => ["-verify_ip".to_owned(), address.to_string()],
            };
            let said = verify(&issuer_file, &leaf_file, &check);
            assert!(said.ends_with(": OK\n"), "{peer:?}: {said}");
        }
    }
    // It is strict indeed: another name is refused.
    let wrong = ["-verify_hostname".to_owned(), "evil.test".to_owned()];
    let files = ["issuer.pem", "leaf.pem"].map(|name| directory.path().join(name));
    let said = verify(&files[0], &files[1], &wrong);
    assert!(said.contains("mismatch"), "{said}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of the machine that runs the tests, which nothing else here starts"
)]
fn verify(issuer: &Path, leaf: &Path, check: &[String; 2]) -> String {
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(issuer)
        .args(check)
        .arg(leaf)
        .output()
        .expect("install openssl, which ca-certificates needs as well");
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat()
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
