//! Whom clients of exposed ports meet: certificates by an authority of this machine's
//! own, or the operator's. Root makes and reads them, and puts what the server needs,
//! a certificate with its key, into a file that the server alone can read.
//!
//! The file is the seam to whatever else may get certificates: who replaces it whole is
//! followed by the server within seconds.

mod authority;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use tombolo_diag::{ExitCode, Report};

use crate::config::{IngressSettings, RunAs, Settings, keys};
use crate::failure::{Failure, Outcome};
use crate::state::{self, StateDir};
use authority::{Authority, AuthorityError};

/// How often the operator's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often our own certificate is made anew, long before it ends.
const RENEW_EVERY_S: i64 = 10 * 24 * 3600;

/// What the server reads.
pub(crate) fn identity_file(state: &StateDir, settings: &IngressSettings) -> PathBuf {
    state.ingress_dir(&settings.base).join("identity.pem")
}

/// What clients have to trust where the authority is our own.
pub(crate) fn root_file(state: &StateDir, settings: &IngressSettings) -> PathBuf {
    state.ingress_dir(&settings.base).join("authority.pem")
}

fn key_file(state: &StateDir, settings: &IngressSettings) -> PathBuf {
    state.ingress_dir(&settings.base).join("authority.key")
}

/// The certificate of the ingress cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the certificate of the ingress cannot be kept")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{} cannot be read", path.display())]
    Operator {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl CertificateError {
    fn into_failure(self) -> Failure {
        let (code, hint) = match &self {
            Self::Operator { .. } => (
                ExitCode::Config,
                format!(
                    "check {} and {}",
                    keys::INGRESS_CERTIFICATE_FILE.name,
                    keys::INGRESS_KEY_FILE.name
                ),
            ),
            Self::Io(_) => (
                ExitCode::System,
                "make room, or choose another place with --state-dir".to_owned(),
            ),
            Self::Authority(_) => (
                ExitCode::Failure,
                "remove the directory \"ingress\" in the state directory: another authority is \
                 made, which its clients have to trust anew"
                    .to_owned(),
            ),
        };
        Failure::new(code, self).hint(hint)
    }
}

/// Keeps the file that the server reads.
#[derive(Debug)]
pub(crate) struct Certificates {
    source: Source,
    identity: PathBuf,
    owner: RunAs,
    /// What the file holds, so that it is written only when that changes.
    written: String,
}

#[derive(Debug)]
enum Source {
    Own {
        authority: Box<Authority>,
        /// In seconds of the Unix clock: this machine may sleep.
        due: i64,
    },
    Operator {
        certificate: PathBuf,
        key: PathBuf,
    },
}

impl Certificates {
    /// Makes or reads what the server needs before it starts.
    pub(crate) fn prepare(state: &StateDir, settings: &Settings) -> Outcome<Self> {
        Self::try_prepare(state, settings).map_err(CertificateError::into_failure)
    }

    fn try_prepare(state: &StateDir, settings: &Settings) -> Result<Self, CertificateError> {
        let ingress = &settings.ingress;
        let source = match (&ingress.certificate_file, &ingress.key_file) {
            (Some(certificate), Some(key)) => Source::Operator {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            _ => Source::Own {
                authority: Box::new(kept_authority(state, ingress)?),
                due: now(),
            },
        };
        let mut certificates = Self {
            source,
            identity: identity_file(state, ingress),
            owner: settings.run_as,
            written: String::new(),
        };
        certificates.refresh()?;
        Ok(certificates)
    }

    /// Follows what changes, for ever. It may be dropped at any point and called again.
    pub(crate) async fn keep(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.refresh() {
                let report = Report::new(&error).to_string();
                tracing::warn!(
                    report,
                    "the ingress goes on with its certificate from before"
                );
            }
        }
    }

    fn refresh(&mut self) -> Result<(), CertificateError> {
        let identity = match &mut self.source {
            Source::Own { due, .. } if now() < *due => return Ok(()),
            Source::Own { authority, due } => {
                let identity = authority.identity(now())?;
                *due = now() + RENEW_EVERY_S;
                identity
            }
            Source::Operator { certificate, key } => {
                // A line end between them, whichever the files end with.
                format!("{}\n{}", operator_file(certificate)?, operator_file(key)?)
            }
        };
        if identity != self.written {
            state::write_for(&self.identity, &identity, self.owner)?;
            self.written = identity;
        }
        Ok(())
    }
}

fn operator_file(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::Operator {
        path: path.to_owned(),
        source,
    })
}

/// The authority of an earlier run, or a new one.
fn kept_authority(
    state: &StateDir,
    settings: &IngressSettings,
) -> Result<Authority, CertificateError> {
    let (root, key) = (root_file(state, settings), key_file(state, settings));
    let kept = (state::read_if_there(&root)?, state::read_if_there(&key)?);
    if let (Some(root), Some(key)) = kept {
        return Ok(Authority::restore(&settings.base, &root, &key, now())?);
    }
    let made = Authority::generate(&settings.base, now())?;
    // The key first: a certificate without it would be taken for a whole authority by
    // people, and is none.
    state::write_private(&key, &made.key_pem())?;
    state::write_public(&root, made.root_pem())?;
    Ok(made)
}

/// Seconds of the Unix clock.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings(directory: &Path) -> (StateDir, Settings) {
        let flags = crate::config::Flags::new();
        let environment = crate::environment::Environment::of(&[]);
        let nowhere = directory.join("config.toml");
        let machine = crate::config::Machine { memory_mib: 4096 };
        let file = crate::config::ConfigFile::Usual(&nowhere);
        let mut settings = Settings::resolve(&flags, &environment, file, machine).unwrap();
        settings.run_as = RunAs {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let state = StateDir::new(directory.to_owned());
        fs::create_dir_all(state.ingress_dir(&settings.ingress.base)).unwrap();
        (state, settings)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_authority_is_kept_and_its_key_stays_with_root() {
        let directory = tempfile::tempdir().unwrap();
        let (state, settings) = settings(directory.path());
        let identity = identity_file(&state, &settings.ingress);
        let root = root_file(&state, &settings.ingress);
        drop(Certificates::prepare(&state, &settings).unwrap());
        let first = fs::read_to_string(&root).unwrap();
        let shown = fs::read_to_string(&identity).unwrap();
        assert_eq!((mode(&root), mode(&identity)), (0o644, 0o400));
        assert_eq!(mode(&key_file(&state, &settings.ingress)), 0o600);
        let key = fs::read_to_string(key_file(&state, &settings.ingress)).unwrap();
        assert!(!shown.contains(key.lines().nth(1).unwrap()));
        drop(Certificates::prepare(&state, &settings).unwrap());
        assert_eq!(fs::read_to_string(&root).unwrap(), first);
        assert_ne!(fs::read_to_string(&identity).unwrap(), shown);
    }

    #[tokio::test]
    async fn the_operators_files_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (state, mut settings) = settings(directory.path());
        let (certificate, key) = (directory.path().join("c"), directory.path().join("k"));
        settings.ingress.certificate_file = Some(certificate.clone());
        settings.ingress.key_file = Some(key.clone());
        Certificates::prepare(&state, &settings).unwrap_err();
        fs::write(&certificate, "C1").unwrap();
        fs::write(&key, "K1").unwrap();
        let mut certificates = Certificates::prepare(&state, &settings).unwrap();
        let identity = identity_file(&state, &settings.ingress);
        assert_eq!(fs::read_to_string(&identity).unwrap(), "C1\nK1");
        fs::write(&certificate, "C2").unwrap();
        certificates.refresh().unwrap();
        assert_eq!(fs::read_to_string(&identity).unwrap(), "C2\nK1");
        fs::remove_file(&key).unwrap();
        assert!(matches!(
            certificates.refresh(),
            Err(CertificateError::Operator { .. })
        ));
        assert_eq!(fs::read_to_string(&identity).unwrap(), "C2\nK1");
    }
}
