//! One client: who it is, and what it asks for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{
    Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Response, Session,
    VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_diag::log_limited;

use crate::backend::{Backend, Key, Launch, Login, Program, Sandbox as _, Terminal};
use crate::limits::{Failures, Limits};
use crate::pace::Gauge;
use crate::{forward, session};

/// The subsystem that RFC 4254's section 6.5 leaves to others to name.
const SFTP: &str = "sftp";

/// What the tasks of one connection share.
#[derive(Clone)]
pub(crate) struct Shared<S> {
    pub(crate) sandbox: S,
    pub(crate) handle: Handle,
    pub(crate) gauge: Gauge,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tasks: TaskTracker,
    channels: Arc<Semaphore>,
}

impl<S> Shared<S> {
    /// Counts a channel for as long as it is kept.
    pub(crate) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.channels).try_acquire_owned().ok()
    }
}

/// A session channel on which nothing was started yet.
struct Waiting {
    channel: Channel<Msg>,
    slot: OwnedSemaphorePermit,
    environment: Vec<(String, String)>,
    environment_len: usize,
    terminal: Option<Terminal>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Common<B> {
    pub(crate) backend: B,
    pub(crate) limits: Arc<Limits>,
    pub(crate) failures: Failures,
    pub(crate) since: Instant,
    pub(crate) tasks: TaskTracker,
}

impl<B> Common<B> {
    pub(crate) fn now(&self) -> Duration {
        self.since.elapsed()
    }
}

/// The client's requests, as `russh` brings them one after another.
pub(crate) struct Connection<B: Backend> {
    common: Arc<Common<B>>,
    address: IpAddr,
    gauge: Gauge,
    is_refused: bool,
    sandbox: Option<B::Sandbox>,
    /// Told once, when the client is let in.
    let_in: Option<oneshot::Sender<B::Sandbox>>,
    channels: Arc<Semaphore>,
    waiting: HashMap<ChannelId, Waiting>,
    forwards: HashMap<(String, u32), CancellationToken>,
    ended: CancellationToken,
}

impl<B: Backend> Connection<B> {
    pub(crate) fn new(
        common: Arc<Common<B>>,
        address: IpAddr,
        gauge: Gauge,
        let_in: oneshot::Sender<B::Sandbox>,
    ) -> Self {
        let channels = Arc::new(Semaphore::new(common.limits.channels_max));
        Self {
            common,
            address,
            gauge,
            is_refused: false,
            sandbox: None,
            let_in: Some(let_in),
            channels,
            waiting: HashMap::new(),
            forwards: HashMap::new(),
            ended: CancellationToken::new(),
        }
    }

    async fn log_in(&mut self, user_name: &str, key: Option<&Key>) -> Auth {
        match self.find(user_name, key).await {
            Some(sandbox) => {
                self.sandbox = Some(sandbox);
                Auth::Accept
            }
            None => Auth::reject(),
        }
    }

    async fn find(&mut self, user_name: &str, key: Option<&Key>) -> Option<B::Sandbox> {
        let login = Login { user_name, key };
        let found = self.common.backend.authenticate(login).await;
        self.is_refused |= found.is_none();
        found
    }

    /// Nothing before the client was let in, which `russh` sees to as well.
    fn shared(&self, session: &Session) -> Option<Shared<B::Sandbox>> {
        Some(Shared {
            sandbox: self.sandbox.clone()?,
            handle: session.handle(),
            gauge: self.gauge.clone(),
            limits: Arc::clone(&self.common.limits),
            tasks: self.common.tasks.clone(),
            channels: Arc::clone(&self.channels),
        })
    }

    /// A task of this connection, with the channel that it counts as.
    fn spawn(&self, slot: OwnedSemaphorePermit, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.common.tasks.spawn(async move {
            ended.run_until_cancelled(task).await;
            drop(slot);
        });
    }

    fn start(
        &mut self,
        id: ChannelId,
        program: Option<Program>,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let (Some(program), Some(shared)) = (program, self.shared(session)) else {
            return session.channel_failure(id);
        };
        // One program a channel: RFC 4254, section 6.5.
        let Some(waiting) = self.waiting.remove(&id) else {
            return session.channel_failure(id);
        };
        let launch = Launch {
            program,
            environment: waiting.environment,
            terminal: waiting.terminal,
        };
        session.channel_success(id)?;
        self.spawn(waiting.slot, session::run(shared, waiting.channel, launch));
        Ok(())
    }

    fn set_variable(&mut self, id: ChannelId, name: &str, value: &str) -> bool {
        let limits = &self.common.limits;
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return false;
        };
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty();
        let len = waiting.environment_len + name.len() + value.len();
        let is_taken = is_name
            && !value.contains('\0')
            && waiting.environment.len() < limits.environment_max
            && len <= limits.environment_len_max;
        if is_taken {
            waiting.environment_len = len;
            waiting
                .environment
                .push((name.to_owned(), value.to_owned()));
        }
        is_taken
    }

    async fn forward(
        &mut self,
        address: &str,
        port: &mut u32,
        shared: Option<Shared<B::Sandbox>>,
    ) -> bool {
        let (Some(shared), Ok(asked)) = (shared, u16::try_from(*port)) else {
            return false;
        };
        // Whatever address a client names, the guest's loopback is all there is.
        if self.forwards.len() >= shared.limits.forwards_max
            || self.forwards.contains_key(&(address.to_owned(), *port))
        {
            return false;
        }
        let listening = timeout(shared.limits.start_timeout, shared.sandbox.listen(asked));
        let forwarded = match listening.await {
            Ok(Ok(forwarded)) => forwarded,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a port is not forwarded");
                return false;
            }
            Err(_elapsed) => return false,
        };
        *port = forwarded.port.get().into();
        let cancelled = self.ended.child_token();
        let key = (address.to_owned(), *port);
        self.forwards.insert(key, cancelled.clone());
        let task = forward::remote(shared, address.to_owned(), forwarded);
        self.common.tasks.spawn(async move {
            cancelled.run_until_cancelled(task).await;
        });
        true
    }
}

impl<B: Backend> Drop for Connection<B> {
    fn drop(&mut self) {
        self.ended.cancel();
        if self.is_refused && self.sandbox.is_none() {
            let now = self.common.now();
            self.common
                .failures
                .count(self.address, &self.common.limits, now);
            log_limited!(debug, address = %self.address, "an SSH client was refused");
        }
    }
}

impl<B: Backend> Handler for Connection<B> {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        Ok(self.log_in(user, None).await)
    }

    /// The name is the credential: what comes with it does not matter.
    async fn auth_password(&mut self, user: &str, _: &str) -> Result<Auth, russh::Error> {
        Ok(self.log_in(user, None).await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _: &str,
        _: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.log_in(user, None).await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        let key = Key::new(offer.public_key);
        let is_known = self.find(user, Some(&key)).await.is_some();
        Ok(if is_known {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let key = Key::new(key.public_key);
        Ok(self.log_in(user, Some(&key)).await)
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), russh::Error> {
        if let (Some(let_in), Some(sandbox)) = (self.let_in.take(), self.sandbox.clone())
            && let_in.send(sandbox).is_err()
        {
            return Err(russh::Error::Disconnect);
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(slot) = self.shared(session).and_then(|shared| shared.slot()) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let waiting = Waiting {
            slot,
            environment: Vec::new(),
            environment_len: 0,
            terminal: None,
            channel,
        };
        self.waiting.insert(waiting.channel.id(), waiting);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let port = u16::try_from(port).ok().and_then(NonZero::new);
        let Some(port) = port.filter(|_| forward::is_loopback(host)) else {
            let failure = ChannelOpenFailure::AdministrativelyProhibited;
            reply.reject(failure).await;
            return Ok(());
        };
        let Some((shared, slot)) = self
            .shared(session)
            .and_then(|shared| shared.slot().map(|slot| (shared, slot)))
        else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        self.spawn(slot, forward::direct(shared, channel, port, reply));
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.waiting.remove(&id);
        Ok(())
    }

    /// Counts what the channel's queue was given.
    async fn data(
        &mut self,
        _: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.gauge.add(data.len());
        Ok(())
    }

    async fn extended_data(
        &mut self,
        _: ChannelId,
        _: u32,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.gauge.add(data.len());
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return session.channel_failure(id);
        };
        waiting.terminal = Some(Terminal { columns, rows });
        if term.is_empty() || self.set_variable(id, "TERM", term) {
            session.channel_success(id)
        } else {
            session.channel_failure(id)
        }
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.set_variable(id, name, value) {
            session.channel_success(id)
        } else {
            session.channel_failure(id)
        }
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.start(id, Some(Program::Shell), session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        // Arguments of programs cannot hold a zero byte, and the agent's calls are text.
        let command = std::str::from_utf8(command).ok();
        let command = command.filter(|command| !command.contains('\0'));
        let program = command.map(|command| Program::Command(command.to_owned()));
        self.start(id, program, session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let program = (name == SFTP).then_some(Program::Sftp);
        self.start(id, program, session)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, russh::Error> {
        let shared = self.shared(session);
        Ok(self.forward(address, port, shared).await)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut Session,
    ) -> Result<bool, russh::Error> {
        let cancelled = self.forwards.remove(&(address.to_owned(), port));
        if let Some(cancelled) = &cancelled {
            cancelled.cancel();
        }
        Ok(cancelled.is_some())
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
