//! What the proxy is told at its start, and what it is given by whoever starts it.

use std::{
    collections::BTreeMap,
    fmt, io,
    num::{NonZeroU32, NonZeroU64},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::control::open_descriptors;

/// Everything that an egress process needs to know.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Holds its keys, what it keeps of sandboxes, and its records. Nobody else reads it.
    pub state_dir: PathBuf,
    /// Addresses of the operator for names: `name` or `name:port` to `address` or
    /// `address:port`.
    pub hosts: BTreeMap<String, String>,
    /// Private ranges that policies may open.
    pub private_networks: Vec<String>,
    /// Further certificate authorities.
    pub root_files: Vec<RootFile>,
    /// Certificates for hosts that ask for one.
    pub client_certificates: Vec<ClientCertificate>,
    /// How much of the records is kept.
    pub audit: AuditBounds,
}

/// How much disk the records take at most: one file that is written and those put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditBounds {
    /// A file that grew to this is put aside.
    pub file_bytes_max: NonZeroU64,
    /// Files that are put aside; older ones are removed.
    pub files_kept: NonZeroU32,
}

/// Certificate authorities of the operator, read before this process gives its rights up:
/// the proxy's user need not be let into the directories of the operator.
#[derive(Clone, Debug)]
pub struct RootFile {
    pub(crate) path: PathBuf,
    pub(crate) pem: Vec<u8>,
}

impl RootFile {
    /// Reads a file of certificates in PEM. They are understood when the proxy starts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            pem: fs_err::read(path)?,
        })
    }
}

/// What the operator shows to a host that asks who is calling: certificates, and their key.
/// Read before this process gives its rights up, as [`RootFile`].
#[derive(Clone)]
pub struct ClientCertificate {
    pub(crate) host: String,
    pub(crate) path: PathBuf,
    pub(crate) pem: Zeroizing<Vec<u8>>,
}

impl ClientCertificate {
    /// Reads a file in PEM: the certificate, those that vouch for it, and its key. `host` is
    /// `name` or `name:port`. They are understood when the proxy starts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(host: &str, path: &Path) -> io::Result<Self> {
        Ok(Self {
            host: host.to_owned(),
            path: path.to_owned(),
            pem: Zeroizing::new(fs_err::read(path)?),
        })
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("ClientCertificate");
        text.field("host", &self.host).field("path", &self.path);
        text.finish_non_exhaustive()
    }
}

/// The two sockets that the proxy answers on, bound already.
///
/// Root binds them before the process becomes its own user, in a directory of root's: so
/// the proxy cannot replace them, and each lets in exactly whom it is for.
#[derive(Debug)]
pub struct EgressListeners {
    /// For policies, secrets and records.
    pub(crate) control: UnixListener,
    /// For the sockets of sandboxes.
    pub(crate) descriptors: UnixListener,
}

impl EgressListeners {
    /// Binds both, in place of what an earlier process left. Root can connect to both, the
    /// user `control_uid` to the first and the caller to both.
    ///
    /// # Errors
    /// A socket cannot be made or given away.
    pub fn bind(control: &Path, descriptors: &Path, control_uid: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            control: bind(control, control_uid, |path| UnixListener::bind(path))?,
            descriptors: bind(descriptors, None, open_descriptors)?,
        })
    }
}

/// A socket that only one user, and root, may connect to. Nobody finds it before it is
/// theirs alone.
fn bind(
    path: &Path,
    uid: Option<u32>,
    open: impl FnOnce(&Path) -> io::Result<UnixListener>,
) -> io::Result<UnixListener> {
    let temporary = path.with_extension("new");
    match fs_err::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = open(&temporary)?;
    listener.set_nonblocking(true)?;
    fs_err::set_permissions(&temporary, PermissionsExt::from_mode(0o600))?;
    if uid.is_some() {
        fs_err::os::unix::fs::chown(&temporary, uid, None)?;
    }
    fs_err::rename(&temporary, path)?;
    Ok(listener)
}
