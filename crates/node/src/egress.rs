//! The way to the egress proxy, which answers for the whole world to every guest
//! of this machine. The node hands it the sockets of a sandbox's network slot and
//! what the control plane says about it, and does not look into either.
//!
//! A proxy that was started again is told of all sandboxes that live, before it
//! is told of new ones; meanwhile their connections wait in the sockets. What it
//! does not take it is told again, for as long as the sandbox lives, and so is
//! the end of one that it did not hear of.

use std::collections::BTreeSet;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::EgressSockets;
use crate::retry::RetryDelay;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tombolo_diag::{in_one_line, log_limited};
use tombolo_ids::SandboxId;
use tombolo_net::{HeldSlot, ListenError, SlotSockets};
use tombolo_node_proto::egress::egress_client::EgressClient;
use tombolo_node_proto::egress::{AttachReply, AttachRequest, RetainRequest, SandboxRef, Secret};
use tombolo_node_proto::handover::{self, SendSocketsError};
use tombolo_node_proto::v1::SandboxNetwork;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// How long a new sandbox waits for a proxy that is being started again.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the proxy may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a proxy that is not there is looked for again, at first.
const LINK_DELAY_MIN: Duration = Duration::from_millis(50);
/// How soon at last: well within what a new sandbox waits.
const LINK_DELAY_MAX: Duration = Duration::from_secs(1);
/// How soon the proxy is told again what it did not take, at first.
const TELL_DELAY_MIN: Duration = Duration::from_millis(500);
/// How soon at last.
const TELL_DELAY_MAX: Duration = Duration::from_secs(30);

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
            Self::NotConfigured | Self::Away | Self::Lost | Self::Sockets(_) => true,
            Self::Refused(status) => status.code() == Code::InvalidArgument,
        }
    }
}

/// The sandboxes as the link wants to know them, when a proxy begins.
pub(crate) trait Residents: Send + Sync {
    /// All that live or are being made.
    fn ids(&self) -> Vec<SandboxId>;
    /// The networks of those that live.
    fn networks(&self) -> Vec<(SandboxId, Arc<dyn Network>)>;
}

/// Where the traffic of a sandbox that lives arrives.
pub(crate) trait Network: Send + Sync {
    /// As [`HeldSlot::sockets`]: it may take some milliseconds of the thread.
    fn sockets(&self) -> Result<Arc<SlotSockets>, ListenError>;
}

impl Network for HeldSlot {
    fn sockets(&self) -> Result<Arc<SlotSockets>, ListenError> {
        self.sockets()
    }
}

/// Why a sandbox that lives is not the proxy's again.
#[derive(Debug, thiserror::Error)]
enum AttachAgainError {
    #[error("its sockets cannot be had")]
    Sockets(#[from] ListenError),
    #[error("its sockets were not looked for")]
    Task(#[from] tokio::task::JoinError),
    #[error("the egress proxy refused it: {}", .0.message())]
    Refused(#[from] Box<Status>),
}

impl AttachAgainError {
    /// Whether the proxy would say the same of another attempt: it keeps
    /// nothing of the sandbox, or what it keeps makes no rules.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Refused(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument)
        )
    }
}

/// The link; it lasts as long as the node.
#[derive(Debug)]
pub(crate) struct EgressLink {
    sockets: EgressSockets,
    control: EgressClient<Channel>,
    /// Where sockets are handed over, while there is a proxy that knows of all
    /// that lived when it began.
    connection: watch::Sender<Option<Arc<UnixStream>>>,
    /// Sandboxes whose end the proxy has not heard of. Only what a proxy was
    /// told of gets here, so while there is none it does not grow.
    owed: watch::Sender<BTreeSet<SandboxId>>,
}

impl EgressLink {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(sockets: EgressSockets) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", sockets.control.display()))?;
        Ok(Self {
            control: EgressClient::new(endpoint.connect_lazy()),
            sockets,
            connection: watch::Sender::default(),
            owed: watch::Sender::default(),
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
        // What became of the last attempt; of none, nothing can have.
        let mut unheard = AttachError::Away;
        if self.owed.borrow().contains(sandbox) {
            return Err(unheard);
        }
        loop {
            let connection = timeout_at(deadline, self.linked()).await;
            let Some(connection) = connection.ok().flatten() else {
                return Err(unheard);
            };
            match self.introduce(&connection, sockets, &request).await {
                // It ended meanwhile, or began anew: sockets that went to the
                // former are not the latter's.
                Err(status) if is_gone(&status) && Instant::now() < deadline => {
                    unheard = AttachError::Refused(status);
                    sleep(LINK_DELAY_MIN).await;
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

    /// Takes the network of a sandbox away, and all that is kept of it: now, or
    /// as soon as the proxy can be told.
    pub(crate) async fn detach(&self, sandbox: &SandboxId) {
        if let Err(status) = self.try_detach(sandbox).await {
            log_limited!(warn, %sandbox, %status, "a sandbox's network is taken away later");
            self.owed.send_modify(|owed| {
                owed.insert(sandbox.clone());
            });
        }
    }

    /// Of a sandbox that the proxy does not know there is nothing to take.
    async fn try_detach(&self, sandbox: &SandboxId) -> Result<(), Box<Status>> {
        let sandbox_id = sandbox.to_string();
        let mut control = self.control.clone();
        in_time(control.detach(SandboxRef { sandbox_id })).await?;
        Ok(())
    }

    /// Tells every proxy that begins of the sandboxes that live, and every one
    /// of those that ended unheard. Never returns.
    pub(crate) async fn keep_linked(&self, residents: &dyn Residents) {
        tokio::join!(self.link(residents), self.make_good());
    }

    async fn make_good(&self) {
        let mut owed = self.owed.subscribe();
        let mut delay = RetryDelay::new(TELL_DELAY_MIN, TELL_DELAY_MAX);
        // The senders last as long as the link, and this is it.
        while let Ok(owing) = owed
            .wait_for(|owed| !owed.is_empty())
            .await
            .map(|o| o.clone())
        {
            tokio::select! {
                () = sleep(delay.next()) => {}
                () = self.relinked() => {}
            }
            for sandbox in owing {
                match self.try_detach(&sandbox).await {
                    Ok(()) => self.owed.send_modify(|owed| {
                        owed.remove(&sandbox);
                    }),
                    Err(status) => {
                        log_limited!(warn, %sandbox, %status, "a sandbox's network stays longer");
                    }
                }
            }
            if self.owed.borrow().is_empty() {
                delay.reset();
            }
        }
    }

    /// Answers when there is a proxy after there was none.
    async fn relinked(&self) {
        let mut connections = self.connection.subscribe();
        for is_linked in [false, true] {
            let wanted = |connection: &Option<_>| connection.is_some() == is_linked;
            // The sender lasts as long as the link, and this is it.
            connections.wait_for(wanted).await.ok();
        }
    }

    async fn link(&self, residents: &dyn Residents) {
        let mut delay = RetryDelay::new(LINK_DELAY_MIN, LINK_DELAY_MAX);
        loop {
            match connect_to(&self.sockets.descriptors) {
                Ok(connection) => match self.begin(residents).await {
                    Ok(()) => {
                        delay.reset();
                        self.serve(Arc::new(connection), residents).await;
                        log_limited!(
                            warn,
                            "the egress proxy is gone; nothing gets out until it is back"
                        );
                    }
                    Err(status) => {
                        log_limited!(warn, %status, "the egress proxy does not begin");
                    }
                },
                Err(error) => tracing::debug!(%error, "the egress proxy is not there"),
            }
            self.connection.send_replace(None);
            sleep(delay.next()).await;
        }
    }

    async fn begin(&self, residents: &dyn Residents) -> Result<(), Box<Status>> {
        let sandbox_ids = residents.ids().iter().map(ToString::to_string).collect();
        let mut control = self.control.clone();
        in_time(control.retain(RetainRequest { sandbox_ids })).await?;
        Ok(())
    }

    /// Until the proxy is gone.
    async fn serve(&self, connection: Arc<UnixStream>, residents: &dyn Residents) {
        let tell = async {
            let mut missing = self.attach_all(&connection, residents.networks()).await;
            self.connection.send_replace(Some(Arc::clone(&connection)));
            let mut delay = RetryDelay::new(TELL_DELAY_MIN, TELL_DELAY_MAX);
            while !missing.is_empty() {
                sleep(delay.next()).await;
                let mut living = residents.networks();
                living.retain(|(sandbox, _)| missing.contains(sandbox));
                missing = self.attach_all(&connection, living).await;
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = closed(&connection) => {}
            () = tell => {}
        }
    }

    /// Sandboxes that lived before this proxy did. Answers those that are to be
    /// tried again: until then they go on without a network, because nothing
    /// else may answer for them.
    async fn attach_all(
        &self,
        connection: &UnixStream,
        networks: Vec<(SandboxId, Arc<dyn Network>)>,
    ) -> BTreeSet<SandboxId> {
        let mut missing = BTreeSet::new();
        for (sandbox, network) in networks {
            let Err(error) = self.attach_again(connection, &sandbox, network).await else {
                continue;
            };
            let words = in_one_line(&error);
            if error.is_final() {
                log_limited!(error, %sandbox, error = words, "a sandbox has no network");
            } else {
                log_limited!(warn, %sandbox, error = words, "a sandbox has no network for now");
                missing.insert(sandbox);
            }
        }
        missing
    }

    async fn attach_again(
        &self,
        connection: &UnixStream,
        sandbox: &SandboxId,
        network: Arc<dyn Network>,
    ) -> Result<(), AttachAgainError> {
        let sockets = match tokio::task::spawn_blocking(move || network.sockets()).await? {
            // This node is the one that is new: the proxy has them.
            Err(ListenError::InUse) => return Ok(()),
            sockets => sockets?,
        };
        let request = attach_request(sandbox, SandboxNetwork::default());
        match self.introduce(connection, &sockets, &request).await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            introduced => Ok(introduced.map(drop)?),
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
        in_time(control.attach(request.clone())).await
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

/// The answer to a call, if it comes in time.
async fn in_time<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Box<Status>> {
    let answer = timeout(CALL_TIMEOUT, call).await;
    let answer = answer.map_err(|_elapsed| Status::unavailable("it does not answer in time"))?;
    Ok(answer.map_err(Box::new)?.into_inner())
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

#[cfg(test)]
mod tests;
