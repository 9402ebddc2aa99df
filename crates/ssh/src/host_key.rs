//! The key by which clients know the gateway again: Ed25519, in a file of its own.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// The gateway's key.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

/// There is no host key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error("the host key could not be read or written")]
    File(#[from] io::Error),
    #[error(
        "the host key in {path} is broken; put it back from a copy, or remove it: another \
         is made, and clients will warn that the server has changed"
    )]
    Broken {
        path: PathBuf,
        #[source]
        source: russh::keys::ssh_key::Error,
    },
    #[error("no host key could be made")]
    Make(#[source] russh::keys::ssh_key::Error),
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "HostKey({})", self.public_line())
    }
}

impl HostKey {
    /// The key in a file, in OpenSSH's own form; made when there is none.
    pub fn load_or_make(path: &Path) -> Result<Self, HostKeyError> {
        match fs::read_to_string(path) {
            Ok(text) => {
                PrivateKey::from_openssh(text)
                    .map(Self)
                    .map_err(|source| HostKeyError::Broken {
                        path: path.to_owned(),
                        source,
                    })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error.into()),
        }
    }

    fn make(path: &Path) -> Result<Self, HostKeyError> {
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
            .map_err(HostKeyError::Make)?;
        let text = key.to_openssh(LineEnding::LF).map_err(HostKeyError::Make)?;
        // Under another name first, so that there is never half a key.
        let partial = path.with_extension("partial");
        let mut file = fs::OpenOptions::new();
        file.write(true).create(true).truncate(true);
        file.options_mut().mode(0o600);
        let mut file = file.open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        Ok(Self(key))
    }

    /// As a line of `known_hosts` has it after the name: type and key.
    pub fn public_line(&self) -> String {
        let mut bare = self.0.public_key().clone();
        bare.set_comment("");
        bare.to_openssh().unwrap_or_default().trim().to_owned()
    }

    pub(crate) fn private(&self) -> PrivateKey {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");
        let made = HostKey::load_or_make(&path).unwrap();
        let read = HostKey::load_or_make(&path).unwrap();
        assert_eq!(made.public_line(), read.public_line());
        assert!(made.public_line().starts_with("ssh-ed25519 AAAA"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_key_is_told_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");
        fs::write(&path, "nonsense").unwrap();
        let error = HostKey::load_or_make(&path).unwrap_err();
        assert!(matches!(error, HostKeyError::Broken { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }
}
