//! The socket that a program of ours makes when it is ready.
//!
//! Whatever runs in the sandbox may remove it, put its own in its place, or stop
//! the process behind it. So nobody waits for one for ever.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::DENO;
use crate::fault::{CallError, at};
use crate::process::{Process, no_process};

const OPERATION: &str = "connect";
/// How long a program may take until it listens. Many times what it takes on a
/// machine that does other work.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Where a program listens, from its start to its end.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Set once somebody was connected. What is not there later never comes.
    was_there: AtomicBool,
}

impl Socket {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            was_there: AtomicBool::new(false),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to `process`. Another's socket in that place is refused. One
    /// that has more connections waiting than it takes is waited for.
    pub(super) async fn connect(&self, process: &Process) -> Result<UnixStream, CallError> {
        let ready_until = Instant::now() + START_PATIENCE;
        let mut pause = PAUSE_MIN;
        while process.exit().is_none() {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => {
                    let peer = stream.peer_cred().map_err(at(OPERATION, DENO))?;
                    if peer.pid() != Some(process.pid) {
                        return Err(CallError::errno(OPERATION, DENO, Errno::ACCESS));
                    }
                    self.was_there.store(true, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => {}
                    Some(Errno::NOENT | Errno::CONNREFUSED) => self.still_to_come(ready_until)?,
                    _ => return Err(CallError::new(OPERATION, DENO, error)),
                },
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ended = process.wait() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(no_process(OPERATION))
    }

    /// Connects to `process` within the time that it may take to start.
    pub(super) async fn connect_soon(&self, process: &Process) -> Result<UnixStream, CallError> {
        let until = Instant::now() + START_PATIENCE;
        match timeout_at(until, self.connect(process)).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(CallError::errno(OPERATION, DENO, Errno::TIMEDOUT)),
        }
    }

    fn still_to_come(&self, ready_until: Instant) -> Result<(), CallError> {
        if self.was_there.load(Ordering::Relaxed) {
            // Not that it is missing, which would say that the process is.
            return Err(CallError::errno(OPERATION, DENO, Errno::CONNREFUSED));
        }
        if Instant::now() > ready_until {
            return Err(CallError::errno(OPERATION, DENO, Errno::TIMEDOUT));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_waited_for_until_it_was_there() {
        let socket = Socket::new(PathBuf::new());
        let until = Instant::now() + START_PATIENCE;
        assert!(socket.still_to_come(until).is_ok());
        sleep(START_PATIENCE + PAUSE_MAX).await;
        assert!(socket.still_to_come(until).is_err());
        assert!(
            socket
                .still_to_come(Instant::now() + START_PATIENCE)
                .is_ok()
        );
        socket.was_there.store(true, Ordering::Relaxed);
        assert!(
            socket
                .still_to_come(Instant::now() + START_PATIENCE)
                .is_err()
        );
    }
}
