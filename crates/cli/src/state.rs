//! The state directory: which file is where, who may read it, and how it is
//! written. Set-up and the node have their own directories beside these.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::{RunAs, Settings};

/// The longest path of a unix socket that Linux takes.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Where everything that Tombolo keeps is.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// What `tombolo up` tells other commands, in `run/server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) url: String,
    /// Of `tombolo up` itself.
    pub(crate) pid: u32,
    pub(crate) server_pid: u32,
    pub(crate) node_pid: u32,
    /// Absent in what a version without one wrote.
    #[serde(default)]
    pub(crate) egress_pid: Option<u32>,
    pub(crate) version: String,
    /// What it runs with. Absent if another version wrote it, with other settings.
    #[serde(default, deserialize_with = "settings_of_this_version")]
    pub(crate) settings: Option<Settings>,
}

fn settings_of_this_version<'de, D>(deserializer: D) -> Result<Option<Settings>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("the state directory cannot be used")]
    Io(#[from] std::io::Error),
    #[error("{} is not understood", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the path {} is {len} bytes long, and a socket's may be {SOCKET_PATH_LEN_MAX}", path.display())]
    SocketPath { path: PathBuf, len: usize },
    #[error("{} lets no other user pass, and the server and the egress proxy run as others", directory.display())]
    Closed { directory: PathBuf },
}

impl StateDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The token of the default organisation, for `tombolo run` and the like.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    /// What lives only as long as `tombolo up`.
    fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn running_file(&self) -> PathBuf {
        self.run_dir().join("server.json")
    }

    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.run_dir().join("admin-token")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.run_dir().join("up.lock")
    }

    fn prepare_lock_file(&self) -> PathBuf {
        self.run_dir().join("prepare.lock")
    }

    /// What a `tombolo up` without a terminal says.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.run_dir().join("up.log")
    }

    pub(crate) fn node_socket(&self) -> PathBuf {
        self.run_dir().join("node.sock")
    }

    /// The server's own directory; the only one it can write to.
    pub(crate) fn server_dir(&self) -> PathBuf {
        self.root.join("server")
    }

    pub(crate) fn database_file(&self) -> PathBuf {
        self.server_dir().join("tombolo.db")
    }

    /// By which clients know the SSH gateway again.
    pub(crate) fn ssh_host_key_file(&self) -> PathBuf {
        self.server_dir().join("ssh_host_ed25519_key")
    }

    /// Accounts and certificates of authorities.
    pub(crate) fn acme_dir(&self) -> PathBuf {
        self.server_dir().join("acme")
    }

    /// The egress proxy's own directory, where it keeps keys and records.
    pub(crate) fn egress_dir(&self) -> PathBuf {
        self.root.join("egress")
    }

    /// The egress proxy's sockets. The directory is root's, so that the proxy
    /// cannot put others in their place.
    fn egress_run_dir(&self) -> PathBuf {
        self.run_dir().join("egress")
    }

    /// For the server and root.
    pub(crate) fn egress_control_socket(&self) -> PathBuf {
        self.egress_run_dir().join("control.sock")
    }

    /// For root alone.
    pub(crate) fn egress_descriptor_socket(&self) -> PathBuf {
        self.egress_run_dir().join("slots.sock")
    }

    /// What the ingress shows of itself for names below `base`: root's directory, in
    /// which the server may read one file.
    pub(crate) fn ingress_dir(&self, base: &str) -> PathBuf {
        self.root.join("ingress").join(base)
    }

    /// Makes the directories that `up` needs. The server and the egress proxy
    /// pass through here, read nothing, and own a directory each.
    pub(crate) fn prepare(&self, settings: &Settings) -> Result<(), StateError> {
        let ingress = self.ingress_dir(&settings.ingress.base);
        let ingress_parent = self.root.join("ingress");
        for directory in [
            self.root.clone(),
            self.run_dir(),
            self.egress_run_dir(),
            ingress_parent,
            ingress,
        ] {
            fs::create_dir_all(&directory)?;
            fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        }
        for (directory, owner) in [
            (self.server_dir(), settings.run_as),
            (self.egress_dir(), settings.egress.run_as),
        ] {
            fs::create_dir_all(&directory)?;
            fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
            give_to(&directory, owner)?;
        }
        self.check_sockets()?;
        self.check_passage()
    }

    fn check_sockets(&self) -> Result<(), StateError> {
        for path in [
            self.node_socket(),
            self.egress_control_socket(),
            self.egress_descriptor_socket(),
        ] {
            let len = path.as_os_str().len();
            if len > SOCKET_PATH_LEN_MAX {
                return Err(StateError::SocketPath { path, len });
            }
        }
        Ok(())
    }

    /// The server reaches its files by path, so every directory above has to
    /// let it pass.
    fn check_passage(&self) -> Result<(), StateError> {
        let root = fs::canonicalize(&self.root)?;
        for directory in root.ancestors() {
            if fs::metadata(directory)?.permissions().mode() & 0o001 == 0 {
                return Err(StateError::Closed {
                    directory: directory.to_owned(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn running(&self) -> Result<Option<Running>, StateError> {
        let path = self.running_file();
        let Some(text) = read_if_there(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| StateError::Content { path, source })
    }

    pub(crate) fn write_running(&self, running: &Running) -> Result<(), StateError> {
        let path = self.running_file();
        let text = serde_json::to_string(running).map_err(|source| StateError::Content {
            path: path.clone(),
            source,
        })?;
        Ok(write(&path, &text, 0o644)?)
    }

    /// Forgets the running server.
    pub(crate) fn remove_running(&self) -> Result<(), StateError> {
        for path in [self.running_file(), self.admin_token_file()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Gives a directory to the user of a process, with all that is in it. Nothing
/// is done where it is that user's already, so only after a change of the
/// configuration does root walk where another user can write.
fn give_to(directory: &Path, owner: RunAs) -> Result<(), StateError> {
    let metadata = fs::symlink_metadata(directory)?;
    if (metadata.uid(), metadata.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    let (uid, gid) = (Some(owner.uid), Some(owner.gid));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_to(&entry.path(), owner)?;
        } else {
            fs::os::unix::fs::lchown(entry.path(), uid, gid)?;
        }
    }
    // Last, so that what was interrupted is done again.
    Ok(fs::os::unix::fs::lchown(directory, uid, gid)?)
}

/// The text of a file, or nothing if there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, std::io::Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole or not at all, readable by its owner only.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), std::io::Error> {
    write(path, text, 0o600)
}

/// Writes a file whole or not at all, readable by whoever passes.
pub(crate) fn write_public(path: &Path, text: &str) -> Result<(), std::io::Error> {
    write(path, text, 0o644)
}

/// Writes a file whole or not at all, readable by this user alone, in a directory
/// that is not theirs.
pub(crate) fn write_for(path: &Path, text: &str, owner: RunAs) -> Result<(), std::io::Error> {
    write_then(path, text, 0o400, |temporary| {
        fs::os::unix::fs::lchown(temporary, Some(owner.uid), Some(owner.gid))
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), std::io::Error> {
    write_then(path, text, mode, |_| Ok(()))
}

fn write_then(
    path: &Path,
    text: &str,
    mode: u32,
    before_it_appears: impl FnOnce(&Path) -> Result<(), std::io::Error>,
) -> Result<(), std::io::Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    before_it_appears(&temporary)?;
    fs::rename(temporary, path)
}

/// How long a server means to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tenure {
    /// Until whoever started it ends it.
    Stays,
    /// As long as it has sandboxes: one that `tombolo run` started.
    Passes,
}

/// Who has the place of the server of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) tenure: Tenure,
}

/// The right to be the one `tombolo up` of a state directory. It ends with
/// the process, however that ends.
#[derive(Debug)]
pub(crate) struct UpLock {
    _file: fs::File,
}

impl UpLock {
    /// Takes the lock, and says in it who has it; nothing if another holds it.
    pub(crate) fn take(state: &StateDir, tenure: Tenure) -> Result<Option<Self>, StateError> {
        let path = state.lock_file();
        let mut file = open_lock(&path)?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        let holder = Holder {
            pid: std::process::id(),
            tenure,
        };
        let text =
            serde_json::to_vec(&holder).map_err(|source| StateError::Content { path, source })?;
        file.set_len(0)?;
        file.write_all(&text)?;
        Ok(Some(Self { _file: file }))
    }

    /// Who wrote itself into the lock last. Nobody if another version has it, and
    /// while that is being written.
    pub(crate) fn holder(state: &StateDir) -> Option<Holder> {
        serde_json::from_slice(&fs::read(state.lock_file()).ok()?).ok()
    }
}

/// The right to prepare machines or to start the node that prepares them,
/// which only one at a time can.
#[derive(Debug)]
pub(crate) struct PrepareLock {
    _file: fs::File,
}

impl PrepareLock {
    /// Waits for the lock; `on_wait` is called if that takes any time.
    pub(crate) fn wait(state: &StateDir, on_wait: impl FnOnce()) -> Result<Self, StateError> {
        fs::create_dir_all(state.run_dir())?;
        let file = open_lock(&state.prepare_lock_file())?;
        if !try_lock(&file)? {
            on_wait();
            flock(&file, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
        }
        Ok(Self { _file: file })
    }
}

fn open_lock(path: &Path) -> Result<fs::File, std::io::Error> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn try_lock(file: &fs::File) -> Result<bool, StateError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(StateError::Io(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_up_per_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().to_owned());
        fs::create_dir_all(state.run_dir()).unwrap();
        assert_eq!(UpLock::holder(&state), None);
        let mut held = None;
        for tenure in [Tenure::Passes, Tenure::Stays] {
            drop(held.take());
            held = UpLock::take(&state, tenure).unwrap();
            assert!(held.is_some());
            let pid = std::process::id();
            for other in [Tenure::Stays, Tenure::Passes] {
                assert!(UpLock::take(&state, other).unwrap().is_none());
                assert_eq!(UpLock::holder(&state), Some(Holder { pid, tenure }));
            }
        }
    }

    #[test]
    fn what_another_version_wrote_is_read_without_its_settings() {
        let other = r#"{"url":"http://h","pid":1,"server_pid":2,"node_pid":3,
            "version":"0","settings":{"listen":7}}"#;
        let running: Running = serde_json::from_str(other).unwrap();
        assert_eq!((running.pid, running.settings), (1, None));
    }

    #[test]
    fn who_prepares_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().to_owned());
        let first = PrepareLock::wait(&state, || panic!("nobody else is there")).unwrap();
        let (waits, is_waiting) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let state = state.clone();
            move || PrepareLock::wait(&state, || waits.send(()).unwrap()).map(drop)
        });
        is_waiting.recv().unwrap();
        assert!(!other.is_finished());
        drop(first);
        other.join().unwrap().unwrap();
    }

    #[test]
    fn the_running_server_is_written_read_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().to_owned());
        fs::create_dir_all(state.run_dir()).unwrap();
        assert_eq!(state.running().unwrap(), None);
        let running = Running {
            url: "http://127.0.0.1:1".to_owned(),
            pid: 1,
            server_pid: 2,
            node_pid: 3,
            egress_pid: Some(4),
            version: "0".to_owned(),
            settings: None,
        };
        state.write_running(&running).unwrap();
        assert_eq!(state.running().unwrap(), Some(running));
        state.remove_running().unwrap();
        state.remove_running().unwrap();
        assert_eq!(state.running().unwrap(), None);
        fs::write(state.running_file(), "{").unwrap();
        assert!(matches!(state.running(), Err(StateError::Content { .. })));
    }

    #[test]
    fn private_files_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        write_private(&path, "secret").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_the_server_cannot_reach_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        let state = StateDir::new(closed.join("state"));
        fs::create_dir_all(state.root()).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open.clone()).unwrap();
        fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = state.check_passage().unwrap_err();
        assert!(
            matches!(&error, StateError::Closed { directory } if directory.ends_with("closed"))
        );
        fs::set_permissions(&closed, open).unwrap();
        state.check_passage().unwrap();
    }
}
