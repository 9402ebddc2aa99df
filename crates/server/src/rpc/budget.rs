//! What all connections of a server may hold together.
//!
//! Each connection has bounds of its own in [`super::RpcLimits`]; these are
//! those of all of them, so that memory and disk do not grow with the number
//! of clients. Small messages are not counted: a connection holds few.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the semaphores: they count at most 2^32 of it.
const UNIT: usize = 1024;
const MIB: usize = 1024 * 1024;

/// The bounds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetLimits {
    /// Large messages that are read or whose calls are at work. Beyond it, who
    /// sends another is not read.
    pub(crate) messages: usize,
    /// Large answers that are made or written. Beyond it, reads wait.
    pub(crate) replies: usize,
    /// Client streams that wait in memory for their readers. Beyond it, they
    /// wait on disk.
    pub(crate) uploads: usize,
    /// What waits on disk. Beyond it, streams and contents are given up.
    pub(crate) spilled: u64,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            messages: 128 * MIB,
            replies: 128 * MIB,
            uploads: 128 * MIB,
            spilled: 8192 * MIB as u64,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: BudgetLimits,
    messages: Share,
    replies: Share,
    uploads: AtomicUsize,
    spilled: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limits: BudgetLimits) -> Self {
        Self {
            messages: Share::new(limits.messages),
            replies: Share::new(limits.replies),
            uploads: AtomicUsize::new(0),
            spilled: AtomicU64::new(0),
            limits,
        }
    }

    pub(super) fn messages(&self) -> &Share {
        &self.messages
    }

    pub(super) fn replies(&self) -> &Share {
        &self.replies
    }

    /// Whether client streams together hold more than they may.
    pub(super) fn is_full_of_uploads(&self) -> bool {
        self.uploads.load(Ordering::Relaxed) > self.limits.uploads
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BudgetLimits::default())
    }
}

/// Bytes of which so many may be held.
#[derive(Debug)]
pub(super) struct Share {
    units: Arc<Semaphore>,
    most: usize,
}

impl Share {
    pub(super) fn new(bytes: usize) -> Self {
        let most = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Waits until so much may be held; for more than there is, until nothing
    /// else is.
    pub(super) async fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(UNIT).min(self.most);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // The semaphore is never closed, so there is always a permit to come.
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        permit.ok()
    }
}

/// A share of a connection's bound and of the server's.
#[derive(Debug)]
pub(super) struct Permit {
    _own: Option<OwnedSemaphorePermit>,
    _shared: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// The connection's own comes first, so that who waits for it holds
    /// nothing that others need.
    pub(super) async fn hold(own: &Share, shared: &Share, bytes: usize) -> Self {
        Self {
            _own: own.hold(bytes).await,
            _shared: shared.hold(bytes).await,
        }
    }
}

/// Counts an answer in memory.
pub(super) type ReplyPermit = Permit;

/// Bytes of one connection's uploads in memory, counted for all.
#[derive(Debug)]
pub(super) struct UploadCount {
    own: usize,
    budget: Arc<Budget>,
}

impl UploadCount {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { own: 0, budget }
    }

    pub(super) fn get(&self) -> usize {
        self.own
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.own += bytes;
        self.budget.uploads.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&mut self, bytes: usize) {
        self.own -= bytes;
        self.budget.uploads.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for UploadCount {
    fn drop(&mut self) {
        self.sub(self.own);
    }
}

/// Bytes of one connection's file on disk, counted for all.
#[derive(Debug)]
pub(super) struct SpillCount {
    own: u64,
    budget: Arc<Budget>,
}

impl SpillCount {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { own: 0, budget }
    }

    /// Counts a file that grows to this length, unless there is no room.
    pub(super) fn grow_to(&mut self, len: u64) -> bool {
        let more = len.saturating_sub(self.own);
        let spilled = &self.budget.spilled;
        let before = spilled.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.budget.limits.spilled {
            spilled.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.own = self.own.max(len);
        true
    }

    pub(super) fn clear(&mut self) {
        let own = std::mem::take(&mut self.own);
        self.budget.spilled.fetch_sub(own, Ordering::Relaxed);
    }
}

impl Drop for SpillCount {
    fn drop(&mut self) {
        self.clear();
    }
}
