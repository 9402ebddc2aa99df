//! Telling the host what changes among the files of the sandbox's user.
//!
//! A call has a set of the kernel's watches (inotify(7)) of its own, which are
//! made with the user's rights, so it tells what the user could see. Nothing is
//! read of them until the host has taken what was told before: what is waiting is
//! in the kernel, which has a bound of its own and says when it is passed.

mod changes;
mod tree;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tombolo_guest_proto::BATCH_ENTRIES_MAX;
use tombolo_guest_proto::v1::{WatchEvent, WatchEventBatch, WatchRequest};
use tombolo_sys::guest::readiness::Readiness;
use tonic::Status;

use crate::fault::{CallError, at, blocking};
use crate::files::Files;
use tree::{Tree, Turn};

const OPERATION: &str = "watch";
/// Calls that watch at one time.
const CALLS_MAX: usize = 32;
/// What changes within this time is told together, and once.
const WINDOW: Duration = Duration::from_millis(30);

/// Bounds how many calls watch.
#[derive(Debug)]
pub(crate) struct Watches(Arc<Semaphore>);

impl Default for Watches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_MAX)))
    }
}

/// One call.
#[derive(Debug)]
struct Watching {
    ready: Readiness,
    /// None once nothing is there to watch.
    tree: Option<Tree>,
    /// Whether the kernel may have more to tell already.
    has_more: bool,
    events: VecDeque<WatchEvent>,
    _slot: OwnedSemaphorePermit,
}

/// Fails at once when there is nothing at the path that the user may read.
pub(crate) async fn watch(
    files: &Files,
    watches: &Watches,
    request: WatchRequest,
) -> Result<impl Stream<Item = Result<WatchEventBatch, Status>> + use<>, Status> {
    let WatchRequest { path, recursive } = request;
    let root = files.resolve(OPERATION, &path)?;
    let full = |_full| CallError::errno(OPERATION, &path, Errno::MFILE);
    let slot = Arc::clone(&watches.0).try_acquire_owned().map_err(full)?;
    let shown = path.clone();
    let opening =
        blocking(move || Tree::open(root, &shown, recursive).map_err(at(OPERATION, &shown)));
    let (tree, events) = opening.await?;
    let watching = Watching {
        ready: Readiness::new(tree.descriptor()).map_err(at(OPERATION, &path))?,
        tree: Some(tree),
        has_more: false,
        events: events.into(),
        _slot: slot,
    };
    Ok(stream::try_unfold(watching, |mut watching| async move {
        let batch = watching.next().await?;
        Ok(batch.map(|batch| (batch, watching)))
    }))
}

impl Watching {
    async fn next(&mut self) -> Result<Option<WatchEventBatch>, Status> {
        while self.events.is_empty() {
            let Some(mut tree) = self.tree.take() else {
                return Ok(None);
            };
            if !self.has_more {
                let mut guard = self.ready.readable().await.map_err(at(OPERATION, ""))?;
                guard.clear_ready();
                sleep(WINDOW).await;
            }
            let turn = move || {
                let turn = tree.turn().map_err(at(OPERATION, ""))?;
                Ok((tree, turn))
            };
            let (
                tree,
                Turn {
                    events,
                    has_more,
                    is_over,
                },
            ) = blocking(turn).await?;
            self.tree = (!is_over).then_some(tree);
            self.has_more = has_more;
            self.events = events.into();
        }
        let len = self.events.len().min(BATCH_ENTRIES_MAX);
        let events = self.events.drain(..len).collect();
        Ok(Some(WatchEventBatch { events }))
    }
}
