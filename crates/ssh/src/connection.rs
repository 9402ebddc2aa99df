//! One client: who it is, and what it asks for.

mod forwards;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;

use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tombolo_diag::log_limited;
use tombolo_places::Place;

use crate::backend::{Backend, Key, Launch, Login, Program, Sandbox as _, Terminal};
use crate::limits::Failure;
use crate::pace::{Gauge, cost, pty_len, signal_len};
use crate::shared::{Common, Shared};
use crate::waiting::Waiting;
use crate::{forward, session};

/// The subsystem that RFC 4254's section 6.5 leaves to others to name.
const SFTP: &str = "sftp";

/// The client's requests, as `russh` brings them one after another.
pub(crate) struct Connection<B: Backend> {
    common: Arc<Common<B>>,
    address: IpAddr,
    gauge: Gauge,
    is_refused: bool,
    /// Given back once the client is let in.
    entering: Option<Place<IpAddr>>,
    /// Among those into the same sandbox.
    place: Option<Place<String>>,
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
        entering: Place<IpAddr>,
        gauge: Gauge,
        let_in: oneshot::Sender<B::Sandbox>,
    ) -> Self {
        let channels = Arc::new(Semaphore::new(common.limits.channels_max));
        Self {
            common,
            address,
            gauge,
            is_refused: false,
            entering: Some(entering),
            place: None,
            sandbox: None,
            let_in: Some(let_in),
            channels,
            waiting: HashMap::new(),
            forwards: HashMap::new(),
            ended: CancellationToken::new(),
        }
    }

    async fn log_in(&mut self, user_name: &str, key: Option<&Key>) -> Auth {
        self.sandbox = self.find(user_name, key).await;
        verdict(self.sandbox.is_some())
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
            ended: self.ended.clone(),
            channels: Arc::clone(&self.channels),
        })
    }

    /// A task of this connection, with the channel that it counts as. It sees by the
    /// channel that the client is gone, and may have a program to tell.
    fn spawn(&self, slot: OwnedSemaphorePermit, task: impl Future<Output = ()> + Send + 'static) {
        self.common.tasks.spawn(async move {
            task.await;
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
        self.waiting
            .get_mut(&id)
            .is_some_and(|waiting| waiting.set_variable(limits, name, value))
    }

    /// Counts a message that `russh` has put into a channel's queue, whatever becomes of
    /// it. Nobody takes from a channel on which nothing was started, so what waits there
    /// ends the connection once it is too much.
    fn queued(&mut self, id: ChannelId, len: usize) -> Result<(), russh::Error> {
        self.gauge.add(len);
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return Ok(());
        };
        waiting.held = waiting.held.saturating_add(cost(len));
        let held: i64 = self.waiting.values().map(|waiting| waiting.held).sum();
        if usize::try_from(held).is_ok_and(|held| held <= self.common.limits.unstarted_len_max) {
            return Ok(());
        }
        log_limited!(debug, address = %self.address, "an SSH client asks much and starts nothing");
        Err(russh::Error::Disconnect)
    }
}

fn verdict(is_known: bool) -> Auth {
    if is_known {
        Auth::Accept
    } else {
        Auth::reject()
    }
}

impl<B: Backend> Drop for Connection<B> {
    fn drop(&mut self) {
        self.ended.cancel();
        if self.sandbox.is_none() {
            let failure = Failure::of(self.is_refused);
            self.common.fail(self.address, failure);
            log_limited!(debug, address = %self.address, ?failure, "an SSH client was not let in");
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
        Ok(verdict(self.find(user, Some(&key)).await.is_some()))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let key = Key::new(key.public_key);
        Ok(self.log_in(user, Some(&key)).await)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), russh::Error> {
        let (Some(let_in), Some(sandbox)) = (self.let_in.take(), self.sandbox.clone()) else {
            return Ok(());
        };
        let max = self.common.limits.connections_of_sandbox_max;
        self.place = self.common.sandboxes.take(sandbox.id(), max);
        self.entering = None;
        if self.place.is_none() {
            self.sandbox = None;
            let reason = "the sandbox has as many SSH connections as it may";
            return session.disconnect(Disconnect::TooManyConnections, reason, "");
        }
        let_in
            .send(sandbox)
            .map_err(|_gone| russh::Error::Disconnect)
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
        self.waiting
            .insert(channel.id(), Waiting::new(channel, slot));
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
        let connecting = |sandbox: B::Sandbox| async move { sandbox.connect(port).await };
        self.connect(channel, connecting, reply, self.shared(session))
            .await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let path = path.to_owned();
        let connecting = |sandbox: B::Sandbox| async move { sandbox.connect_local(&path).await };
        self.connect(channel, connecting, reply, self.shared(session))
            .await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        if let Some(waiting) = self.waiting.remove(&id) {
            let gauge = self.gauge.clone();
            self.spawn(waiting.slot, async move {
                session::drain(&mut waiting.channel.split().0, &gauge).await;
            });
        }
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, 0)
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.queued(id, 0)
    }

    async fn window_adjusted(
        &mut self,
        id: ChannelId,
        _: u32,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, 0)
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, data.len())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        _: u32,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, data.len())
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, 0)
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, signal_len(&signal))
    }

    async fn agent_request(
        &mut self,
        id: ChannelId,
        _: &mut Session,
    ) -> Result<bool, russh::Error> {
        self.queued(id, 0).map(|()| false)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, pty_len(term, modes))?;
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
        self.queued(id, name.len().saturating_add(value.len()))?;
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
        protocol: &str,
        cookie: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, protocol.len().saturating_add(cookie.len()))?;
        session.channel_failure(id)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, 0)?;
        self.start(id, Some(Program::Shell), session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.queued(id, command.len())?;
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
        self.queued(id, name.len())?;
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
