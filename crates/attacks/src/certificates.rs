//! Certificates of the hosts: an authority that the egress proxy is told to
//! trust, and those that it must refuse.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Writes `authority.pem`, and for each of `names` a chain with its key as
/// `NAME.pem`. Besides: `untrusted.test`, `expired.test` and `wrong.test`, which
/// are what they are called. Answers where the authority is.
pub fn write(directory: &Path, names: &[&str]) -> anyhow::Result<PathBuf> {
    let (good, other) = (authority("trusted")?, authority("untrusted")?);
    for name in names {
        leaf(directory, name, &leaf_params(name)?, &good)?;
    }
    leaf(
        directory,
        "untrusted.test",
        &leaf_params("untrusted.test")?,
        &other,
    )?;
    leaf(
        directory,
        "wrong.test",
        &leaf_params("another.test")?,
        &good,
    )?;
    let mut expired = leaf_params("expired.test")?;
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    leaf(directory, "expired.test", &expired, &good)?;
    let path = directory.join("authority.pem");
    fs_err::write(&path, good.pem())?;
    Ok(path)
}

fn authority(name: &str) -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn leaf_params(name: &str) -> anyhow::Result<CertificateParams> {
    Ok(CertificateParams::new(vec![name.to_owned()])?)
}

fn leaf(
    directory: &Path,
    name: &str,
    params: &CertificateParams,
    issuer: &CertifiedIssuer<'static, KeyPair>,
) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let text = format!("{}{}", certificate.pem(), key.serialize_pem());
    Ok(fs_err::write(directory.join(format!("{name}.pem")), text)?)
}
