//! The bounds of one connection.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tombolo_api::rpc::ErrorObject;

use super::fault::CallError;

const MIB: usize = 1024 * 1024;

/// The bounds of one connection. The WebSocket upgrade must be given
/// `frame_len_max` as its largest message.
#[derive(Clone, Debug)]
pub(crate) struct RpcLimits {
    /// The largest message a client may send.
    pub(crate) frame_len_max: usize,
    /// How long a message may be that is held. Of a longer one the content of a
    /// file goes on as it comes, and one without a content is too large.
    pub(crate) message_held_max: usize,
    /// Messages of calls still at work may hold this much together; beyond it
    /// the connection is not read until one of them ends.
    pub(crate) messages_held_max: usize,
    /// The largest answer, unless the client takes less.
    pub(crate) reply_len_max: usize,
    /// How much of an answer is held; beyond it, the content of a file is sent
    /// as it comes.
    pub(crate) reply_held_max: usize,
    /// The largest answer that must be made whole before any of it is sent,
    /// because nobody can say when its end will come.
    pub(crate) gathered_len_max: usize,
    /// Large answers may hold this much together.
    pub(crate) replies_held_max: usize,
    /// How long an answer that is sent as it is made, or holds a part of a
    /// budget, waits for the next piece from the guest.
    pub(crate) reply_stall_max: Duration,
    /// How long an answer that is made whole first may take, once it holds a
    /// part of a budget.
    pub(crate) gather_max: Duration,
    /// What client streams may hold together before the connection is read
    /// no further.
    pub(crate) inbound_buffer_max: usize,
    /// What a client stream that no call has named yet may hold.
    pub(crate) orphan_buffer_max: usize,
    /// Client streams known at a time.
    pub(crate) inbound_streams_max: usize,
    /// Calls at work at a time.
    pub(crate) calls_in_flight_max: usize,
    /// How long the connection is not read because nobody takes a client
    /// stream's data, before the fullest stream's data waits on disk.
    pub(crate) stall_max: Duration,
    /// What may wait on disk.
    pub(crate) spill_len_max: u64,
    /// Where it waits; not a file system in memory.
    pub(crate) spill_directory: PathBuf,
    /// How often the server pings.
    pub(crate) ping_interval: Duration,
    /// How long nothing may come before the connection counts as lost.
    pub(crate) silence_max: Duration,
    /// How long a process's output waits for `processWait`.
    pub(crate) output_hold: Duration,
    /// The same for the Python SDK, which loses output that comes too early
    /// and always calls `processWait`, however slowly.
    pub(crate) output_hold_python: Duration,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            frame_len_max: 128 * MIB,
            message_held_max: 2 * MIB,
            messages_held_max: 16 * MIB,
            reply_len_max: 96 * MIB,
            reply_held_max: 256 * 1024,
            gathered_len_max: 16 * MIB,
            replies_held_max: 16 * MIB,
            reply_stall_max: Duration::from_secs(30),
            gather_max: Duration::from_mins(2),
            inbound_buffer_max: 16 * MIB,
            orphan_buffer_max: 4 * MIB,
            inbound_streams_max: 64 * 1024,
            calls_in_flight_max: 16 * 1024,
            stall_max: Duration::from_secs(2),
            spill_len_max: 1024 * MIB as u64,
            spill_directory: "/var/tmp".into(),
            ping_interval: Duration::from_secs(15),
            silence_max: Duration::from_secs(45),
            output_hold: Duration::from_millis(100),
            output_hold_python: Duration::from_secs(5),
        }
    }
}

impl RpcLimits {
    /// For an answer that holds a part of a budget from now on.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            piece_max: self.reply_stall_max,
            deadline: Instant::now() + self.gather_max,
        }
    }
}

/// How long a part of a budget is held for a guest, which others wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    piece_max: Duration,
    deadline: Instant,
}

impl Patience {
    /// Waits for the next piece.
    pub(super) async fn wait<T>(self, piece: impl Future<Output = T>) -> Result<T, CallError> {
        let until = self.deadline.min(Instant::now() + self.piece_max);
        timeout_at(until, piece).await.map_err(|_elapsed| stalled())
    }
}

/// The guest gave no more of an answer.
pub(super) fn stalled() -> CallError {
    ErrorObject::new(
        "TimedOut",
        "The sandbox gave no more of the answer for too long",
    )
    .with_code("ETIMEDOUT")
    .into()
}
