//! The state directory of one run of the tests: empty at first, gone afterwards,
//! and swept by a later run when this one was killed.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::TempDir;

const PREFIX: &str = "tombolo-test-";
/// Held for as long as the directory is used.
const LOCK_SUFFIX: &str = ".lock";
/// Images take gigabytes and sockets need short paths: neither `target` nor a
/// `/tmp` in memory will do where this is there.
const ROOMY: &str = "/var/tmp";

/// An empty state directory of our own.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    // Declared in the order of their end: nobody takes the lock of a directory
    // that still exists.
    directory: TempDir,
    _lock: Lock,
}

impl StateDirectory {
    pub(super) fn new() -> anyhow::Result<Self> {
        let roomy = Path::new(ROOMY);
        let parent = if roomy.is_dir() {
            roomy.to_owned()
        } else {
            std::env::temp_dir()
        };
        Self::below(&parent)
    }

    fn below(parent: &Path) -> anyhow::Result<Self> {
        sweep(parent)?;
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .context("cannot make an empty state directory")?;
        let lock = Lock::take(directory.path())?.context("the new state directory is locked")?;
        // The programs under test run as several users.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(directory.path(), open)?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A file beside the directory, locked: the directory itself starts empty.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The lock of a directory, or nothing when somebody holds it.
    fn take(directory: &Path) -> anyhow::Result<Option<Self>> {
        let mut name = directory.as_os_str().to_owned();
        name.push(LOCK_SUFFIX);
        let path = PathBuf::from(name);
        let file = fs_err::File::create(&path)?.into_parts().0;
        Ok(match file.try_lock() {
            Ok(()) => Some(Self { path, _file: file }),
            Err(_held) => None,
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock file left behind only says that its directory is gone.
        fs_err::remove_file(&self.path).ok();
    }
}

/// Removes what runs that were killed left: machines and directories.
fn sweep(parent: &Path) -> anyhow::Result<()> {
    for entry in fs_err::read_dir(parent)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with(PREFIX) || !path.is_dir() {
            continue;
        }
        if let Some(_abandoned) = Lock::take(&path)? {
            super::machines::end_all(&path)?;
            fs_err::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_run_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let used = StateDirectory::below(parent.path()).unwrap();
        let left = parent.path().join("tombolo-test-killed");
        let other = parent.path().join("something-else");
        for path in [&left, &other] {
            fs_err::create_dir(path).unwrap();
        }
        let next = StateDirectory::below(parent.path()).unwrap();
        assert!(!left.exists());
        assert!(other.is_dir());
        assert!(used.path().is_dir());
        assert_ne!(used.path(), next.path());
        drop((used, next));
        let rest: Vec<_> = fs_err::read_dir(parent.path()).unwrap().collect();
        assert_eq!(rest.len(), 1, "{rest:?}");
    }
}
