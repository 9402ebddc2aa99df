//! Calls of the guest agent, repeated where that is safe.
//!
//! The node may restart while sandboxes live on, and a call then fails on the
//! way. A call that only reads is made again for a while; a call that changes
//! something only when it certainly never left.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Response, Status};

use crate::guest::GuestAgent;
pub(super) use crate::guest::{GuestClient as Client, is_lost};

/// How long a call waits for a node that restarts.
const RETRY_WINDOW: Duration = Duration::from_secs(15);
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// When a failed call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// When it certainly did not reach the guest.
    IfUnsent,
    /// When the way to the guest failed: the call changes nothing.
    IfLost,
    /// The same, and without a time limit: the caller is cancelled with the
    /// sandbox.
    WhileSandboxLives,
}

/// Makes a call, again if `repeat` allows.
pub(super) async fn guest_call<R, T, F, Answer>(
    agent: &GuestAgent,
    repeat: Repeat,
    request: R,
    call: F,
) -> Result<T, Status>
where
    R: Clone,
    F: Fn(Client, R) -> Answer,
    Answer: Future<Output = Result<Response<T>, Status>>,
{
    let mut retry = Retry::new(repeat);
    loop {
        match call(agent.client(), request.clone()).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => retry.pause(status).await?,
        }
    }
}

/// The pauses between repeated calls.
#[derive(Debug)]
pub(super) struct Retry {
    repeat: Repeat,
    pause: Duration,
    deadline: Instant,
}

impl Retry {
    pub(super) fn new(repeat: Repeat) -> Self {
        Self {
            repeat,
            pause: RETRY_PAUSE_MIN,
            deadline: Instant::now() + RETRY_WINDOW,
        }
    }

    /// Waits before the next attempt, or gives the failure back.
    pub(super) async fn pause(&mut self, status: Status) -> Result<(), Status> {
        let may_repeat = match self.repeat {
            Repeat::IfUnsent => is_unsent(&status) && Instant::now() < self.deadline,
            Repeat::IfLost => is_lost(&status) && Instant::now() < self.deadline,
            Repeat::WhileSandboxLives => is_lost(&status),
        };
        if !may_repeat {
            return Err(status);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        Ok(())
    }
}

/// No connection to the node could be made.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            );
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_the_guest_is_not_lost() {
        let mut broken = Status::unknown("transport error");
        broken.set_source(std::sync::Arc::new(io::Error::from(
            io::ErrorKind::BrokenPipe,
        )));
        let mut refused = Status::unavailable("connect");
        refused.set_source(std::sync::Arc::new(io::Error::from(
            io::ErrorKind::ConnectionRefused,
        )));
        let cases = [
            (Status::unknown("from the guest"), false, false),
            (Status::not_found("no sandbox"), false, false),
            (Status::unavailable("the node says so"), true, false),
            (broken, true, false),
            (refused, true, true),
        ];
        for (status, lost, unsent) in cases {
            assert_eq!(is_lost(&status), lost, "{status}");
            assert_eq!(is_unsent(&status), unsent, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeating_ends() {
        let mut retry = Retry::new(Repeat::IfLost);
        let begin = Instant::now();
        while retry.pause(Status::unavailable("away")).await.is_ok() {}
        let waited = begin.elapsed();
        assert!(
            waited >= RETRY_WINDOW && waited <= RETRY_WINDOW + RETRY_PAUSE_MAX,
            "{waited:?}"
        );
        assert!(retry.pause(Status::internal("bug")).await.is_err());
    }
}
