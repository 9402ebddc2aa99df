//! A directory for one run of tests: empty at first, gone afterwards, and swept by
//! a later run when this one was killed, with every machine and server that works
//! in it. Machines outlive whoever started them by design, so that nothing but a
//! later run can end those of one that was killed.
//!
//! A run holds the lock of its directory and the kernel gives it back with the
//! process, so what is swept is never in use. Used by `cargo xtask test` and by the
//! tests of whole machines.

mod machines;

use std::{
    ffi::OsString,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// Held for as long as the directory is used.
const LOCK_SUFFIX: &str = ".lock";

/// An empty directory of our own.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// A file beside the directory: that itself starts empty.
    _lock: NamedTempFile,
}

impl RunDirectory {
    /// Makes one whose name begins so, and sweeps those that nobody uses any more.
    ///
    /// # Errors
    /// Something cannot be made, or what was left cannot be ended or removed.
    pub fn below(parent: &Path, prefix: &str) -> anyhow::Result<Self> {
        sweep(parent, prefix)?;
        // Locked before there is a directory that another could sweep.
        let lock = tempfile::Builder::new()
            .prefix(prefix)
            .suffix(LOCK_SUFFIX)
            .tempfile_in(parent)
            .context("cannot make a file to lock")?;
        lock.as_file()
            .try_lock()
            .context("a new file is locked already")?;
        let path = lock.path().with_extension("");
        fs_err::create_dir(&path)?;
        let directory = Self { path, _lock: lock };
        // The programs under test run as several users.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(directory.path(), open)?;
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // The lock is given back after this; what stays is swept by the next run.
        fs_err::remove_dir_all(&self.path).ok();
    }
}

/// The lock of a directory, unless somebody holds it.
fn lock_of(directory: &Path) -> anyhow::Result<Option<(PathBuf, File)>> {
    let mut path = OsString::from(directory);
    path.push(LOCK_SUFFIX);
    let file = fs_err::File::create(&path)?.into_parts().0;
    Ok(match file.try_lock() {
        Ok(()) => Some((path.into(), file)),
        Err(_held) => None,
    })
}

/// Removes what runs that were killed left: machines, servers and directories.
fn sweep(parent: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in fs_err::read_dir(parent)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(prefix) || !path.is_dir() {
            continue;
        }
        if let Some((lock, _abandoned)) = lock_of(&path)? {
            machines::end_all(&path)?;
            for removed in [fs_err::remove_dir_all(&path), fs_err::remove_file(&lock)] {
                match removed {
                    // Its run has just ended by itself.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tombolo_proc::Command;

    use super::*;

    const PREFIX: &str = "tombolo-test-";

    #[test]
    fn only_what_a_killed_run_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let used = RunDirectory::below(parent.path(), PREFIX).unwrap();
        let left = parent.path().join("tombolo-test-killed");
        let other = parent.path().join("something-else");
        for path in [&left, &other] {
            fs_err::create_dir(path).unwrap();
        }
        let next = RunDirectory::below(parent.path(), PREFIX).unwrap();
        assert!(!left.exists());
        assert!(other.is_dir());
        assert!(used.path().is_dir());
        assert_ne!(used.path(), next.path());
        drop((used, next));
        let rest: Vec<_> = fs_err::read_dir(parent.path()).unwrap().collect();
        assert_eq!(rest.len(), 1, "{rest:?}");
    }

    /// A machine sees the directory in mounts of its own; a server of the host is
    /// known by what it was told. Needs root, for the mounts.
    #[tokio::test]
    async fn the_machines_and_the_server_of_a_killed_run_end_and_no_other() {
        let parent = tempfile::tempdir().unwrap();
        let used = RunDirectory::below(parent.path(), PREFIX).unwrap();
        let left = parent.path().join("tombolo-test-killed");
        fs_err::create_dir(&left).unwrap();
        let machine = "mount --bind \"$0\" /mnt; echo ready; exec cat";
        let server = "exec 3<&0; cat <&3 & echo ready; wait";
        let start = async |directory: &Path, script: &str| {
            let mounts = ["--mount", "--propagation", "private", "--"];
            let command = if script == machine {
                Command::new("unshare").args(mounts).arg("sh")
            } else {
                Command::new("sh")
            };
            let tail: [&str; 2] = ["up", "--state-dir"];
            let command = command.args(["-c", script]).arg(directory);
            let command = command.args(tail).arg(directory).kill_on_drop(true);
            let mut child = command
                .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())
                .unwrap();
            // What nobody ends ends with this.
            let input = child.stdin.take().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "ready");
            (child, lines, input)
        };
        let mut ending = Vec::new();
        let mut staying = Vec::new();
        for script in [machine, server] {
            ending.push(start(&left, script).await);
            staying.push(start(used.path(), script).await);
        }
        let _next = RunDirectory::below(parent.path(), PREFIX).unwrap();
        for (child, lines, _input) in &mut ending {
            assert!(!child.wait().await.unwrap().success());
            // The children of a server hold its output: they ended too.
            assert_eq!(lines.next_line().await.unwrap(), None);
        }
        for (child, _lines, _input) in &mut staying {
            assert_eq!(child.try_wait().unwrap(), None);
        }
    }
}
