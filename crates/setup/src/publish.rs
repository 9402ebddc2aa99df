//! From a temporary name to the final one, whole or not at all.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use crate::StepError;

/// Marks what is not finished. A name that begins so belongs to the set-up
/// that holds the lock, or to one that was interrupted.
const UNFINISHED: &str = ".unfinished-";

/// Makes a file or directory: `make` gets a temporary path in the directory of
/// the final one and fills it; only when it succeeds does the final name
/// appear, and then everything is on the disk.
pub(crate) fn publish<T>(
    target: &Path,
    make: impl FnOnce(&Path) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let staging = Staging::beside(target);
    let made = make(&staging.path)?;
    sync(&staging.path)?;
    remove(target)?;
    fs_err::rename(&staging.path, target)?;
    if let Some(directory) = target.parent() {
        fs_err::File::open(directory)?.sync_all()?;
    }
    Ok(made)
}

/// Removes what interrupted runs left. The caller holds the lock.
pub(crate) fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            // A program that an interrupted run left behind may still be
            // writing; the next sweep gets what this one could not remove.
            remove(&entry.path()).ok();
        }
    }
    Ok(())
}

/// Removes a file, or a directory with all that is in it; nothing there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let is_directory = match fs_err::symlink_metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if is_directory {
        fs_err::remove_dir_all(path)
    } else {
        fs_err::remove_file(path)
    }
}

/// One call for the whole file system: an artefact is thousands of files, and
/// syncing each alone takes minutes on a slow disk.
fn sync(path: &Path) -> io::Result<()> {
    let file = fs_err::File::open(path)?;
    rustix::fs::syncfs(&file).map_err(io::Error::from)
}

/// A temporary path that is gone afterwards, whatever happens in between.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn beside(target: &Path) -> Self {
        let mut name = OsString::from(format!("{UNFINISHED}{}-", std::process::id()));
        name.push(target.file_name().unwrap_or_default());
        Self {
            path: target.with_file_name(name),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a rename there is nothing; a failure is left to the next sweep.
        remove(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_final_name_appears_only_after_success() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("thing");
        publish(&target, |path| {
            fs_err::create_dir(path)?;
            fs_err::write(path.join("file"), "new")?;
            assert_ne!(names(directory.path()), ["thing"]);
            Ok(())
        })
        .unwrap();
        assert_eq!(names(directory.path()), ["thing"]);

        let failed = publish(&target, |path| {
            fs_err::write(path, "half")?;
            Err::<(), _>(io::Error::other("interrupted").into())
        });
        assert!(failed.is_err());
        assert_eq!(names(directory.path()), ["thing"]);
        assert_eq!(fs_err::read_to_string(target.join("file")).unwrap(), "new");

        publish(&target, |path| Ok(fs_err::write(path, "a file now")?)).unwrap();
        assert_eq!(fs_err::read_to_string(&target).unwrap(), "a file now");
    }

    #[test]
    fn a_sweep_removes_only_what_is_unfinished() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["engine-1", ".lock", ".unfinished-77-image"] {
            fs_err::write(directory.path().join(name), "").unwrap();
        }
        fs_err::create_dir_all(directory.path().join(".unfinished-78-guest/root")).unwrap();
        sweep(directory.path()).unwrap();
        assert_eq!(names(directory.path()), [".lock", "engine-1"]);
    }
}
