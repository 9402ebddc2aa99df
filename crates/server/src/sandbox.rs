//! One sandbox, as requests see it. Its state belongs to one task
//! (`task.rs`); everybody else holds a [`SandboxHandle`] and asks.

mod create;
mod meter;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tombolo_ids::{OrganisationId, SandboxId, UnixMillis};
use tombolo_lifecycle::{Closing, ConnectRefusal, ExtendRefusal, NodeEnd, Phase, Role};

use crate::app::App;
use crate::database::QueryError;
use crate::guest::GuestAgent;
use crate::node::NodeCallError;
use crate::rpc::SessionEnd;

pub(crate) use create::{CreateError, create};
pub(crate) use meter::Meter;
pub(crate) use task::adopt;

/// Requests waiting for a sandbox's task.
const COMMANDS_MAX: usize = 64;
/// Connections to one sandbox at a time.
const CONNECTIONS_MAX: usize = 256;
/// How much later than the server the node ends a sandbox by itself: only
/// when no server has done it by then.
const BACKSTOP: Duration = Duration::from_mins(1);
/// How long a request waits for a sandbox to be taken down.
const KILL_WAIT_MAX: Duration = Duration::from_secs(9);

/// What the task tells everybody.
#[derive(Clone, Debug)]
pub(crate) struct SandboxStatus {
    pub(crate) phase: Phase,
    pub(crate) deadline: UnixMillis,
}

/// Asked of the task.
#[derive(Debug)]
enum Command {
    Connect {
        reply: oneshot::Sender<Result<Connection, ConnectError>>,
    },
    Extend {
        stop_at: UnixMillis,
        reply: oneshot::Sender<Result<UnixMillis, ExtendRefusal>>,
    },
    Kill,
    NodeEnded(NodeEnd),
}

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Refused(#[from] ConnectRefusal),
    #[error("the sandbox has {CONNECTIONS_MAX} connections already")]
    TooMany,
}

/// Why a life is not extended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtendError {
    #[error(transparent)]
    Refused(#[from] ExtendRefusal),
    #[error("the node did not take the new deadline")]
    Node(#[source] NodeCallError),
    #[error("the new deadline could not be recorded")]
    Database(#[source] QueryError),
}

/// Whether a sandbox is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    Gone,
    /// It will be: the node has not finished yet, or is away.
    Ending,
}

/// A reference to the task that owns a sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SandboxHandle {
    shared: Arc<Shared>,
}

/// Clients that watch files of one sandbox.
pub(crate) const WATCHES_MAX: usize = 32;

#[derive(Debug)]
struct Shared {
    id: SandboxId,
    organisation: OrganisationId,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<SandboxStatus>,
    /// Fires when nothing is left of the sandbox.
    stopped: CancellationToken,
    agent: GuestAgent,
    meter: tokio::sync::Mutex<Meter>,
    /// Counts what comes in over HTTP.
    ingress: Arc<tombolo_ingress::Meter>,
    /// One extension at a time, so that the node hears of them in order.
    extending: tokio::sync::Mutex<()>,
    /// One change of the network at a time, each on top of the one before.
    networking: tokio::sync::Mutex<()>,
    /// Clients that watch files, whatever the guest says of how many it takes.
    watches: Arc<Semaphore>,
}

impl SandboxHandle {
    pub(crate) fn id(&self) -> &SandboxId {
        &self.shared.id
    }

    pub(crate) fn organisation(&self) -> &OrganisationId {
        &self.shared.organisation
    }

    pub(crate) fn status(&self) -> SandboxStatus {
        self.shared.status.borrow().clone()
    }

    pub(crate) fn meter(&self) -> &tokio::sync::Mutex<Meter> {
        &self.shared.meter
    }

    pub(crate) fn agent(&self) -> &GuestAgent {
        &self.shared.agent
    }

    pub(crate) fn ingress(&self) -> Arc<tombolo_ingress::Meter> {
        Arc::clone(&self.shared.ingress)
    }

    /// To be held by each that watches files.
    pub(crate) fn watches(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.watches)
    }

    /// To be held while the network is changed.
    pub(crate) fn networking(&self) -> &tokio::sync::Mutex<()> {
        &self.shared.networking
    }

    /// Fires when nothing is left of the sandbox.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.shared.stopped
    }

    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        let (reply, answer) = oneshot::channel();
        let ended = || ConnectError::Refused(ConnectRefusal::Ended);
        let sent = self.shared.commands.send(Command::Connect { reply }).await;
        sent.ok().ok_or_else(ended)?;
        answer.await.ok().ok_or_else(ended)?
    }

    /// Asks for a later end, and answers when the node and the database know.
    pub(crate) async fn extend(
        &self,
        app: &App,
        stop_at: UnixMillis,
    ) -> Result<UnixMillis, ExtendError> {
        let _in_order = self.shared.extending.lock().await;
        let (reply, answer) = oneshot::channel();
        let ended = || ExtendError::Refused(ExtendRefusal::Ended);
        let sent = self
            .shared
            .commands
            .send(Command::Extend { stop_at, reply })
            .await;
        sent.ok().ok_or_else(ended)?;
        let granted = answer.await.ok().ok_or_else(ended)??;
        app.node
            .set_deadline(self.id(), granted.plus(BACKSTOP))
            .await
            .map_err(ExtendError::Node)?;
        app.database
            .set_sandbox_deadline(self.id(), granted)
            .await
            .map_err(ExtendError::Database)?;
        Ok(granted)
    }

    pub(crate) async fn kill(&self) -> Killed {
        let ended = async {
            // A task that takes no commands any more has ended the sandbox.
            if self.shared.commands.send(Command::Kill).await.is_ok() {
                self.shared.stopped.cancelled().await;
            }
        };
        match timeout(KILL_WAIT_MAX, ended).await {
            Ok(()) => Killed::Gone,
            Err(_elapsed) => Killed::Ending,
        }
    }

    pub(crate) async fn node_ended(&self, end: NodeEnd) {
        if self
            .shared
            .commands
            .send(Command::NodeEnded(end))
            .await
            .is_err()
        {
            tracing::debug!(sandbox = %self.id(), "the node ended what was ended already");
        }
    }
}

/// A client's hold on a sandbox, from before its handshake is answered until
/// its WebSocket is closed. However it is dropped, the task learns of it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sandbox: SandboxId,
    pub(crate) agent: GuestAgent,
    /// Fires when the connection must be ended.
    pub(crate) ending: CancellationToken,
    closed: Option<oneshot::Sender<Closing>>,
    if_dropped: Closing,
}

impl Connection {
    /// The client has its answer: from now on it can come back by the id.
    pub(crate) fn opened(&mut self) {
        self.if_dropped = Closing::Lost;
    }

    pub(crate) fn closed(mut self, end: SessionEnd) {
        self.if_dropped = match end {
            SessionEnd::ClientClosed => Closing::Clean,
            SessionEnd::ConnectionLost | SessionEnd::SandboxEnded | SessionEnd::ProtocolFault => {
                Closing::Lost
            }
        };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(closed) = self.closed.take() else {
            return;
        };
        if closed.send(self.if_dropped).is_err() {
            tracing::trace!(sandbox = %self.sandbox, "a connection outlived its sandbox");
        }
    }
}

/// A connection that the task waits for.
struct Held {
    role: Role,
    closed: oneshot::Receiver<Closing>,
}
