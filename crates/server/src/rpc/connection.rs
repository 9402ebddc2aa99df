//! What the tasks of one connection share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_ids::SandboxId;

use super::RpcSession;
use super::aborts::Aborts;
use super::gates::Gates;
use super::handle_table::HandleTable;
use super::inbound::InboundStreams;
use super::limits::RpcLimits;
use super::outbound::OutboundStreams;
use super::outgoing::Outgoing;
use crate::guest::{Dialect, GuestAgent};

/// Answers larger than [`LARGE_REPLY_LEN`] in memory at a time.
const LARGE_REPLIES_MAX: usize = 2;
pub(super) const LARGE_REPLY_LEN: usize = 1024 * 1024;
/// The Python SDK's WebSocket library gives up the connection over a message
/// of 1 MiB.
const PYTHON_MESSAGE_LEN_MAX: usize = 1024 * 1024 - 1;
/// The unit of [`Connection::frames`].
pub(super) const FRAME_UNIT: usize = 1024;

/// What the tasks of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) agent: GuestAgent,
    pub(super) dialect: Dialect,
    pub(super) sandbox: SandboxId,
    pub(super) limits: RpcLimits,
    pub(super) outgoing: Outgoing,
    pub(super) inbound: Arc<InboundStreams>,
    pub(super) outbound: Arc<OutboundStreams>,
    pub(super) handles: HandleTable,
    pub(super) aborts: Arc<Aborts>,
    pub(super) gates: Arc<Gates>,
    pub(super) end: End,
    /// Messages read so far.
    pub(super) messages_read: AtomicU64,
    /// Calls at work.
    pub(super) in_flight: Arc<Semaphore>,
    /// Kibibytes of large messages held by calls at work.
    pub(super) frames: Arc<Semaphore>,
    /// Large answers in memory.
    large_replies: Arc<Semaphore>,
}

/// The stages of a connection's end, and the tasks each waits for.
#[derive(Debug)]
pub(super) struct End {
    /// The sandbox is ending, which output that nobody reads outlives the
    /// connection to see.
    pub(super) sandbox: CancellationToken,
    /// Calls at work are answered with an error.
    pub(super) calls: CancellationToken,
    pub(super) call_tasks: TaskTracker,
    /// After that, streams are ended.
    pub(super) streams: CancellationToken,
    pub(super) stream_tasks: TaskTracker,
    /// Nobody is there to be told anything: all tasks stop.
    pub(super) peer_gone: CancellationToken,
}

impl Connection {
    pub(super) fn new(session: RpcSession, outgoing: Outgoing) -> Self {
        let limits = session.limits;
        let outbound = OutboundStreams::new(session.stream_ids, outgoing.clone(), session.dialect);
        Self {
            agent: session.agent,
            dialect: session.dialect,
            sandbox: session.sandbox,
            outgoing,
            inbound: Arc::new(InboundStreams::new(limits.clone())),
            outbound: Arc::new(outbound),
            handles: HandleTable::default(),
            aborts: Arc::default(),
            gates: Arc::default(),
            end: End {
                sandbox: session.ending,
                calls: CancellationToken::new(),
                call_tasks: TaskTracker::new(),
                streams: CancellationToken::new(),
                stream_tasks: TaskTracker::new(),
                peer_gone: CancellationToken::new(),
            },
            messages_read: AtomicU64::new(0),
            in_flight: Arc::new(Semaphore::new(limits.calls_in_flight_max)),
            frames: Arc::new(Semaphore::new(limits.frames_held_max / FRAME_UNIT)),
            large_replies: Arc::new(Semaphore::new(LARGE_REPLIES_MAX)),
            limits,
        }
    }

    /// The largest answer this client takes.
    pub(super) fn reply_len_max(&self) -> usize {
        match self.dialect {
            Dialect::Python => self.limits.reply_len_max.min(PYTHON_MESSAGE_LEN_MAX),
            Dialect::JavaScript | Dialect::Native => self.limits.reply_len_max,
        }
    }

    /// Waits until another large answer may be made.
    pub(super) async fn large_reply(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so there is always a permit to come.
        Arc::clone(&self.large_replies).acquire_owned().await.ok()
    }
}
