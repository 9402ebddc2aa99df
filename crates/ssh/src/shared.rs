//! What connections have in common, and what the tasks of one have.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_places::Places;

use crate::backend::{Backend, Sandbox as _};
use crate::limits::{Failure, Failures, Limits};
use crate::pace::Gauge;

/// What the tasks of one connection share.
#[derive(Clone)]
pub(crate) struct Shared<S> {
    pub(crate) sandbox: S,
    pub(crate) handle: Handle,
    pub(crate) gauge: Gauge,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tasks: TaskTracker,
    /// Fires when the client is gone.
    pub(crate) ended: CancellationToken,
    pub(crate) channels: Arc<Semaphore>,
}

impl<S> Shared<S> {
    /// Counts a channel for as long as it is kept.
    pub(crate) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.channels).try_acquire_owned().ok()
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Common<B> {
    pub(crate) backend: B,
    pub(crate) limits: Arc<Limits>,
    pub(crate) failures: Failures,
    pub(crate) addresses: Places<IpAddr>,
    pub(crate) entering: Places<IpAddr>,
    pub(crate) sandboxes: Places<String>,
    pub(crate) since: Instant,
    pub(crate) tasks: TaskTracker,
}

impl<B> Common<B> {
    pub(crate) fn now(&self) -> Duration {
        self.since.elapsed()
    }

    /// Nobody was let in from there.
    pub(crate) fn fail(&self, address: IpAddr, failure: Failure) {
        self.failures
            .count(address, failure, &self.limits, self.now());
    }
}

/// Answers when a connection is to end, with the reason to tell.
pub(crate) async fn over<B: Backend>(
    let_in: oneshot::Receiver<B::Sandbox>,
    limits: &Limits,
) -> &'static str {
    match timeout(limits.login_timeout, let_in).await {
        Ok(Ok(sandbox)) => {
            sandbox.closed().await;
            "the sandbox has ended, or this way in was taken back"
        }
        Ok(Err(_gone)) => std::future::pending().await,
        Err(_elapsed) => "nobody logged in in time",
    }
}
