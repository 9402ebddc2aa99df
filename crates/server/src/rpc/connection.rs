//! What the tasks of one connection share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_ids::SandboxId;

use super::RpcSession;
use super::aborts::Aborts;
use super::budget::{Budget, ReplyPermit, Share};
use super::gates::Gates;
use super::handle_table::HandleTable;
use super::inbound::InboundStreams;
use super::limits::RpcLimits;
use super::outbound::OutboundStreams;
use super::outgoing::Outgoing;
use crate::exposures::Exposures;
use crate::guest::{Dialect, GuestAgent};

/// The Python SDK's WebSocket library gives up the connection over a message
/// of 1 MiB.
const PYTHON_MESSAGE_LEN_MAX: usize = 1024 * 1024 - 1;

/// What the tasks of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) agent: GuestAgent,
    pub(super) dialect: Dialect,
    pub(super) sandbox: SandboxId,
    pub(super) exposures: Option<Arc<Exposures>>,
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
    /// Large messages that are read or whose calls are at work.
    pub(super) messages: Share,
    /// Large answers that are made or written.
    replies: Share,
    /// What all connections may hold together.
    pub(super) budget: Arc<Budget>,
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
            exposures: session.exposures,
            outgoing,
            inbound: Arc::new(InboundStreams::new(
                limits.clone(),
                Arc::clone(&session.budget),
            )),
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
            messages: Share::new(limits.messages_held_max),
            replies: Share::new(limits.replies_held_max),
            budget: session.budget,
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

    /// Waits until an answer of this length may be held.
    pub(super) async fn large_reply(&self, len: usize) -> ReplyPermit {
        ReplyPermit::hold(&self.replies, self.budget.replies(), len).await
    }
}
