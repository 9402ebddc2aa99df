//! The WebSocket JSON-RPC of one connection to one sandbox.
//!
//! [`serve`] owns the connection from the handshake to its end. One task reads
//! frames, one writes them, and every call runs as a task of its own:
//!
//! ```text
//!            ┌ reader ─ frame ─┬─ call tasks ──────┐
//! WebSocket ─┤                 └─ inbound streams ─┤─ guest agent
//!            └ writer ─ queue ─── output tasks ────┘
//! ```
//!
//! All bytes come from a client nobody trusts or a guest nobody trusts: nothing
//! here panics, and every queue and table has a bound in [`RpcLimits`] or a
//! named constant, and all connections together in [`Budget`]. No file is whole
//! in memory, however large its message: what is long is passed on in the
//! pieces in which it comes, both ways. The queue to the client is short, so a client that does not
//! read slows down the pipes in the guest instead of filling memory here.
//!
//! What a connection opens it closes: files are closed in the guest, locks
//! given back, and output that nobody reads any more is drained so that the
//! process behind it does not block.

mod aborts;
mod budget;
mod call;
mod connection;
mod deno;
mod dispatch;
mod env;
mod expose;
mod fault;
mod fetch;
mod files;
mod frame;
mod gates;
mod guest_call;
mod handle_table;
mod handles;
mod inbound;
mod incoming;
mod limits;
mod listing;
mod long;
mod outbound;
mod outgoing;
mod output;
mod params;
mod processes;
mod read;
mod reader;
mod reply;
mod serve;
mod signals;
mod socket;
mod spill;
mod stdin;
mod stream_ids;
mod surrogates;
#[cfg(test)]
mod tests;
mod times;
mod utf8;
mod vscode;
mod write;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tombolo_ids::SandboxId;

use crate::exposures::Exposures;
use crate::guest::{Dialect, GuestAgent};

pub(crate) use budget::Budget;
#[cfg(test)]
pub(crate) use budget::BudgetLimits;
pub(crate) use limits::RpcLimits;
pub(crate) use serve::serve;
pub(crate) use socket::{NoUpgrade, Upgrade};
pub(crate) use stream_ids::StreamIds;

/// All that one connection needs.
#[derive(Debug)]
pub(crate) struct RpcSession {
    pub(crate) agent: GuestAgent,
    pub(crate) dialect: Dialect,
    pub(crate) stream_ids: Arc<StreamIds>,
    pub(crate) limits: RpcLimits,
    pub(crate) budget: Arc<Budget>,
    /// Fires when the sandbox is ending: calls are answered, streams ended and
    /// the connection closed.
    pub(crate) ending: CancellationToken,
    pub(crate) sandbox: SandboxId,
    /// Names that lead to its ports. Without them none are given out.
    pub(crate) exposures: Option<Arc<Exposures>>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The client sent a close frame.
    ClientClosed,
    /// The connection broke, or the client fell silent.
    ConnectionLost,
    /// The sandbox is ending.
    SandboxEnded,
    /// The client broke the WebSocket protocol or sent too large a message.
    ProtocolFault,
}
