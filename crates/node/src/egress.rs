//! The way to the egress proxy, which answers for the whole world to every guest
//! of this machine. The node hands it the sockets of a sandbox's network slot and
//! what the control plane says about it, and does not look into either.
//!
//! A proxy that was started again is told of all sandboxes that live, before it
//! is told of new ones; meanwhile their connections wait in the sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::EgressSockets;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tombolo_diag::in_one_line;
use tombolo_ids::SandboxId;
use tombolo_net::{HeldSlot, ListenError, SlotSockets};
use tombolo_node_proto::egress::egress_client::EgressClient;
use tombolo_node_proto::egress::{AttachReply, AttachRequest, RetainRequest, SandboxRef, Secret};
use tombolo_node_proto::handover::{self, SendSocketsError};
use tombolo_node_proto::v1::SandboxNetwork;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a new sandbox waits for a proxy that is being started again.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the proxy may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a proxy that is not there is looked for again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Why no network could be given to a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("this node was started without an egress proxy")]
    NotConfigured,
    #[error("the egress proxy is not there; it is being started again if it can be")]
    Away,
    #[error("the machine's network is lost")]
    Lost,
    #[error("the sockets of the machine's network cannot be had")]
    Sockets(#[from] ListenError),
    #[error("the egress proxy refused the sandbox's network: {}", .0.message())]
    Refused(Box<Status>),
}

impl AttachError {
    /// Whether the proxy cannot have attached the sandbox. Of a call that was
    /// not answered, or that another call came after, nobody knows.
    pub(crate) fn was_never_attached(&self) -> bool {
        match self {
            Self::NotConfigured | Self::Lost | Self::Sockets(_) => true,
            Self::Away => false,
            Self::Refused(status) => status.code() == Code::InvalidArgument,
        }
    }
}

/// The sandboxes as the link wants to know them, when a proxy begins.
pub(crate) trait Residents: Send + Sync {
    /// All that live or are being made.
    fn ids(&self) -> Vec<SandboxId>;
    /// The networks of those that live.
    fn networks(&self) -> Vec<(SandboxId, Arc<HeldSlot>)>;
}

/// The link; it lasts as long as the node.
#[derive(Debug)]
pub(crate) struct EgressLink {
    sockets: EgressSockets,
    control: EgressClient<Channel>,
    /// Where sockets are handed over, while there is a proxy that knows of all
    /// that lived when it began.
    connection: watch::Sender<Option<Arc<UnixStream>>>,
}

impl EgressLink {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(sockets: EgressSockets) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", sockets.control.display()))?;
        Ok(Self {
            control: EgressClient::new(endpoint.connect_lazy()),
            sockets,
            connection: watch::Sender::default(),
        })
    }

    /// Gives a sandbox its network. It is in force when this answers.
    pub(crate) async fn attach(
        &self,
        sandbox: &SandboxId,
        sockets: &SlotSockets,
        network: SandboxNetwork,
    ) -> Result<AttachReply, AttachError> {
        let request = attach_request(sandbox, network);
        let deadline = Instant::now() + LINK_TIMEOUT;
        loop {
            let connection = timeout_at(deadline, self.linked()).await;
            let connection = connection.ok().flatten().ok_or(AttachError::Away)?;
            match self.introduce(&connection, sockets, &request).await {
                // It ended meanwhile, or began anew: sockets that went to the
                // former are not the latter's.
                Err(status) if is_gone(&status) && Instant::now() < deadline => {
                    sleep(RETRY_DELAY).await;
                }
                Err(status) => return Err(AttachError::Refused(status)),
                Ok(reply) => return Ok(reply),
            }
        }
    }

    /// The connection to a proxy, as soon as there is one.
    async fn linked(&self) -> Option<Arc<UnixStream>> {
        let mut connections = self.connection.subscribe();
        let linked = connections.wait_for(Option::is_some).await;
        // Fails only for a link that is no more, and this is it.
        linked.ok()?.clone()
    }

    /// Takes the network of a sandbox away, and all that is kept of it.
    pub(crate) async fn detach(&self, sandbox: &SandboxId) {
        let sandbox_id = sandbox.to_string();
        let call = async {
            let mut control = self.control.clone();
            control.detach(SandboxRef { sandbox_id }).await
        };
        match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(_)) => {}
            // The next proxy is told who lives, and forgets all others.
            Ok(Err(status)) => {
                tracing::warn!(%sandbox, %status, "a sandbox's network was not taken away");
            }
            Err(_elapsed) => tracing::warn!(%sandbox, "the egress proxy does not answer"),
        }
    }

    /// Tells every proxy that begins of the sandboxes that live. Never returns.
    pub(crate) async fn keep_linked(&self, residents: &dyn Residents) {
        loop {
            match connect_to(&self.sockets.descriptors) {
                Ok(connection) => self.serve(Arc::new(connection), residents).await,
                Err(error) => tracing::debug!(%error, "the egress proxy is not there"),
            }
            self.connection.send_replace(None);
            sleep(RETRY_DELAY).await;
        }
    }

    async fn serve(&self, connection: Arc<UnixStream>, residents: &dyn Residents) {
        let begun = async {
            let sandbox_ids = residents.ids().iter().map(ToString::to_string).collect();
            let mut control = self.control.clone();
            control.retain(RetainRequest { sandbox_ids }).await
        };
        match timeout(CALL_TIMEOUT, begun).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                tracing::warn!(%status, "the egress proxy does not begin");
                return;
            }
            Err(_elapsed) => {
                tracing::warn!("the egress proxy does not answer");
                return;
            }
        }
        for (sandbox, slot) in residents.networks() {
            self.attach_again(&connection, &sandbox, slot).await;
        }
        self.connection.send_replace(Some(Arc::clone(&connection)));
        closed(&connection).await;
        tracing::warn!("the egress proxy is gone; nothing gets out until it is back");
    }

    /// A sandbox that lived before this proxy did. Whatever fails, it goes on
    /// without a network: nothing else may answer for it.
    async fn attach_again(
        &self,
        connection: &UnixStream,
        sandbox: &SandboxId,
        slot: Arc<HeldSlot>,
    ) {
        let sockets = tokio::task::spawn_blocking(move || slot.sockets()).await;
        let sockets = match sockets {
            Ok(Ok(sockets)) => sockets,
            // This node is the one that is new: the proxy has them.
            Ok(Err(ListenError::InUse)) => return,
            Ok(Err(error)) => {
                let error = in_one_line(&error);
                tracing::error!(%sandbox, error, "a sandbox has no network any more");
                return;
            }
            Err(error) => {
                tracing::error!(%sandbox, %error, "a sandbox has no network any more");
                return;
            }
        };
        let request = attach_request(sandbox, SandboxNetwork::default());
        match self.introduce(connection, &sockets, &request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => {
                tracing::error!(%sandbox, %status, "a sandbox has no network any more");
            }
        }
    }

    /// Hands sockets over and says whose they are.
    async fn introduce(
        &self,
        connection: &UnixStream,
        sockets: &SlotSockets,
        request: &AttachRequest,
    ) -> Result<AttachReply, Box<Status>> {
        let sandbox: SandboxId = request.sandbox_id.parse().map_err(gone)?;
        let sockets = handover::SlotSockets {
            tcp4: sockets.tcp4.as_fd(),
            tcp6: sockets.tcp6.as_fd(),
            udp4: sockets.udp4.as_fd(),
            udp6: sockets.udp6.as_fd(),
        };
        let sent = connection.async_io(Interest::WRITABLE, || {
            match handover::send(connection, &sandbox, &sockets) {
                Ok(()) => Ok(Ok(())),
                Err(SendSocketsError::WouldBlock) => Err(std::io::ErrorKind::WouldBlock.into()),
                Err(error) => Ok(Err(error)),
            }
        });
        sent.await.map_err(gone)?.map_err(gone)?;
        let mut control = self.control.clone();
        let answer = timeout(CALL_TIMEOUT, control.attach(request.clone())).await;
        let answer =
            answer.map_err(|elapsed| Box::new(Status::unavailable(elapsed.to_string())))?;
        Ok(answer.map_err(Box::new)?.into_inner())
    }
}

fn attach_request(sandbox: &SandboxId, network: SandboxNetwork) -> AttachRequest {
    let secrets = network.secrets.into_iter().map(|secret| Secret {
        name: secret.name,
        placeholder: secret.placeholder,
        sealed: secret.sealed,
    });
    AttachRequest {
        sandbox_id: sandbox.to_string(),
        organisation: network.organisation,
        labels: network.labels,
        policy_json: network.policy_json,
        secrets: secrets.collect(),
    }
}

fn gone(error: impl std::error::Error + 'static) -> Status {
    Status::unavailable(in_one_line(&error))
}

/// Whether the proxy that was asked is not the one that has the sockets, or is
/// no more.
fn is_gone(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::FailedPrecondition | Code::Unknown | Code::Cancelled
    )
}

/// Connects for messages with descriptors. A unix socket takes a connection at
/// once or not at all.
fn connect_to(path: &Path) -> std::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    UnixStream::from_std(socket.into())
}

/// Answers when the other side is gone. It never says anything.
async fn closed(connection: &UnixStream) {
    let mut nothing = [0; 1];
    loop {
        let ready = connection.readable().await;
        match ready.and_then(|()| connection.try_read(&mut nothing)) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}
