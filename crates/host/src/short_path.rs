//! Unix sockets in directories whose path may be longer than the 107 bytes a
//! socket address holds: they are named through a descriptor of the directory.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn through(dir: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Binds a listening socket `name` in `dir`.
pub(crate) fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let dir = open_dir(dir)?;
    UnixListener::bind(through(&dir, name))
}

/// Connects to the socket `name` in `dir`.
pub(crate) async fn connect(dir: &Path, name: &str) -> io::Result<tokio::net::UnixStream> {
    let dir = open_dir(dir)?;
    tokio::net::UnixStream::connect(through(&dir, name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_is_no_hindrance() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(200));
        fs_err::create_dir(&dir).unwrap();
        let _listener = listen(&dir, "s").unwrap();
        connect(&dir, "s").await.unwrap();
        connect(&dir, "t").await.unwrap_err();
    }
}
