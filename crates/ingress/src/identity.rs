//! Whom clients meet: one file with a certificate chain and its key, as PEM. Whoever
//! keeps the file, our own authority or an operator's, replaces it whole; it is read
//! again when it has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tombolo_diag::log_limited;

use crate::validity::{Validity, now};

/// What clients may speak inside TLS, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate of the ingress cannot be read")]
    Read(#[source] std::io::Error),
    #[error("{} holds no certificate and key as PEM", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificate and the key in {} cannot be used for TLS", path.display())]
    Tls {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

/// A certificate with its key, as new as its file. Clones are one.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The better first.
    paths: Arc<[PathBuf]>,
    current: Arc<RwLock<Current>>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamp: Stamp,
}

/// What tells a file from the one that it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Identity {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        Self::of(Arc::new([path.to_owned()]))
    }

    /// Reads the first file while its certificate holds, and otherwise the other.
    pub fn preferring(first: PathBuf, otherwise: PathBuf) -> Result<Self, IdentityError> {
        Self::of(Arc::new([first, otherwise]))
    }

    fn of(paths: Arc<[PathBuf]>) -> Result<Self, IdentityError> {
        let current = Current::read(best(&paths))?;
        Ok(Self {
            paths,
            current: Arc::new(RwLock::new(current)),
        })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().config)
    }

    /// Reads the file again whenever it has changed, for ever. One that cannot be used
    /// changes nothing.
    pub(crate) async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.refresh()).await;
            if let Ok(Err(error)) = looked {
                let report = tombolo_diag::Report::new(&error).to_string();
                log_limited!(warn, report, "going on with the certificate from before");
            }
        }
    }

    fn refresh(&self) -> Result<(), IdentityError> {
        let path = best(&self.paths);
        let stamp = Stamp::of(path).map_err(IdentityError::Read)?;
        if stamp == self.current.read().stamp {
            return Ok(());
        }
        let renewed = Current::read(path)?;
        *self.current.write() = renewed;
        tracing::info!("the ingress has another certificate now");
        Ok(())
    }
}

/// The first file whose certificate clients believe now; the last, if none is. That one is
/// not looked into.
fn best(paths: &[PathBuf]) -> &Path {
    let Some((last, better)) = paths.split_last() else {
        return Path::new("");
    };
    let holds = |path: &&PathBuf| Validity::of_file(path).is_some_and(|it| it.holds(now()));
    better.iter().find(holds).unwrap_or(last)
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;

        let metadata = fs_err::metadata(path)?;
        Ok(Self {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

impl Current {
    fn read(path: &Path) -> Result<Self, IdentityError> {
        // Before the content: a file that is replaced in between is read again.
        let stamp = Stamp::of(path).map_err(IdentityError::Read)?;
        let pem = fs_err::read(path).map_err(IdentityError::Read)?;
        let not_pem = |source| IdentityError::Pem {
            path: path.to_owned(),
            source,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(not_pem)?;
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate {
                path: path.to_owned(),
            });
        }
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(not_pem)?;
        let config = server_config(chain, key).map_err(|source| IdentityError::Tls {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            config: Arc::new(config),
            stamp,
        })
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let certified = CertifiedKey::from_der(chain, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    // What may be sent twice by whoever recorded it is not taken.
    config.max_early_data_size = 0;
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_file_that_changes_is_read_again_if_it_is_good() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.pem");
        fs_err::write(&path, pem("a")).unwrap();
        let identity = Identity::read(&path).unwrap();
        let first = identity.config();
        identity.refresh().unwrap();
        assert!(Arc::ptr_eq(&first, &identity.config()));
        fs_err::write(&path, "no certificate at all").unwrap();
        assert!(matches!(
            identity.refresh(),
            Err(IdentityError::NoCertificate { .. })
        ));
        assert!(Arc::ptr_eq(&first, &identity.config()));
        let replaced = directory.path().join("new");
        fs_err::write(&replaced, pem("b")).unwrap();
        fs_err::rename(&replaced, &path).unwrap();
        identity.refresh().unwrap();
        assert!(!Arc::ptr_eq(&first, &identity.config()));
        fs_err::remove_file(&path).unwrap();
        assert!(matches!(identity.refresh(), Err(IdentityError::Read(_))));
    }

    #[test]
    fn the_better_file_is_read_once_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        fs_err::write(file("own"), pem("a")).unwrap();
        let identity = Identity::preferring(file("better"), file("own")).unwrap();
        let first = identity.config();
        fs_err::write(file("better"), "not whole").unwrap();
        identity.refresh().unwrap();
        assert!(Arc::ptr_eq(&first, &identity.config()));
        fs_err::write(file("better"), pem("b")).unwrap();
        identity.refresh().unwrap();
        let better = identity.config();
        assert!(!Arc::ptr_eq(&first, &better));
        fs_err::write(file("own"), pem("c")).unwrap();
        identity.refresh().unwrap();
        assert!(Arc::ptr_eq(&better, &identity.config()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.pem");
        let (one, other) = (pem("a"), pem("b"));
        let key = other.find("-----BEGIN PRIVATE").unwrap();
        let certificate = one.find("-----BEGIN PRIVATE").unwrap();
        let cases = [
            one[..certificate].to_owned(),
            format!("{}{}", &one[..certificate], &other[key..]),
        ];
        for (at, case) in cases.into_iter().enumerate() {
            fs_err::write(&path, case).unwrap();
            let refused = Identity::read(&path).unwrap_err();
            let is_expected = match at {
                0 => matches!(refused, IdentityError::Pem { .. }),
                _ => matches!(refused, IdentityError::Tls { .. }),
            };
            assert!(is_expected, "{refused:?}");
        }
    }
}
