//! Programs that Deno starts anew when their files change. `watch.mjs`, which
//! runs before each start, writes a byte to a pipe.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::Stream;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;
use tokio::sync::watch;
use tombolo_guest_proto::v1::Empty;
use tombolo_sys::guest::readiness::Readiness;
use tonic::Status;

use super::{Role, invalid};
use crate::fault::{CallError, at};
use crate::log::log;
use crate::process::Process;

/// Counted at one time, more than which nobody causes by saving files.
const STARTS_MAX: usize = 256;

/// A program that is watched.
#[derive(Debug)]
pub(crate) struct Watched {
    pipe: PathBuf,
    starts: watch::Sender<u64>,
}

impl Watched {
    pub(super) fn new(pipe: PathBuf) -> Result<Self, CallError> {
        let failed = |error| CallError::new("watch", "", error);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).map_err(at("watch", ""))?;
        let watched = Self {
            pipe,
            starts: watch::Sender::new(0),
        };
        // For the sandbox's user, who is not this process's.
        let everybody = std::fs::Permissions::from_mode(0o622);
        fs_err::set_permissions(&watched.pipe, everybody).map_err(failed)?;
        Ok(watched)
    }

    pub(super) fn path(&self) -> &Path {
        &self.pipe
    }

    /// The address of the module that Deno is to run first.
    pub(super) fn module(&self, script: &str) -> String {
        format!("{script}?pipe={}", self.pipe.display())
    }

    /// Counts starts until the process ends.
    pub(super) fn follow(&self, process: &Arc<Process>) {
        let (starts, pipe, process) = (self.starts.clone(), self.pipe.clone(), process.clone());
        tokio::spawn(async move {
            tokio::select! {
                counted = count(&pipe, &starts) => {
                    if let Err(error) = counted {
                        log!("cannot follow the starts of a program: {error}");
                    }
                }
                _ended = process.wait() => {}
            }
        });
    }
}

/// A program that could not be started leaves no pipe.
impl Drop for Watched {
    fn drop(&mut self) {
        // It is gone already where a program has ended.
        fs_err::remove_file(&self.pipe).unwrap_or_default();
    }
}

async fn count(pipe: &Path, starts: &watch::Sender<u64>) -> std::io::Result<()> {
    // Opened for both, it does not end when a writer does.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pipe = Readiness::new(open(pipe, flags, Mode::empty())?)?;
    let mut bytes = [0; STARTS_MAX];
    loop {
        let mut ready = pipe.readable().await?;
        match rustix::io::read(pipe.fd(), &mut bytes) {
            Ok(count) => starts.send_modify(|starts| *starts += count as u64),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A message for each start after the first and after those that were `seen`,
/// until the process ends.
pub(crate) fn restarts(
    process: Arc<Process>,
    seen: u64,
) -> Result<impl Stream<Item = Result<Empty, Status>>, CallError> {
    let Some(Role::Watched(watched)) = process.deno.get() else {
        return Err(invalid("the process watches no files"));
    };
    let starts = watched.starts.subscribe();
    let first = (process, starts, seen.saturating_add(1));
    Ok(futures_util::stream::unfold(
        first,
        |(process, mut starts, seen)| async move {
            tokio::select! {
                biased;
                more = starts.wait_for(|starts| *starts > seen) => {
                    more.ok()?;
                }
                _ended = process.wait() => return None,
            }
            Some((Ok(Empty {}), (process, starts, seen.saturating_add(1))))
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_never_ran_leaves_no_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let watched = Watched::new(pipe.clone()).unwrap();
        assert!(pipe.exists());
        drop(watched);
        assert!(!pipe.exists());
    }
}
