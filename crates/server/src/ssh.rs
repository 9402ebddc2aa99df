//! What the SSH gateway is given of sandboxes: who may come in, programs, ports.

use std::num::NonZero;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tombolo_guest_proto::v1::{self, OsError};
use tombolo_ids::SandboxId;
use tombolo_lifecycle::Phase;
use tombolo_ssh::{
    Backend, ConnectError, Exit, Forwarded, Gateway, HostKey, Launch, Limits, ListenError,
    Listening, Login, Process, Program, Sandbox, SpawnError, Started, Terminal,
};

use crate::app::App;
use crate::config::SshOptions;
use crate::guest::{ConnectGuestError, GuestStream, ProcessHandle, Target};
use crate::sandbox::SandboxHandle;
use crate::serve::ServeError;
use crate::ssh_logins::SshPlace;

const SHELL: &str = "/bin/bash";
/// Where Debian's package `openssh-sftp-server` has it.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
const ENOENT: i32 = 2;

/// A gateway that listens and takes nobody in so far.
#[derive(Debug)]
pub(crate) struct SshEntrance {
    listening: Listening,
    host: String,
    key: HostKey,
    limits: Limits,
}

impl SshEntrance {
    pub(crate) async fn open(options: &SshOptions) -> Result<Self, ServeError> {
        Ok(Self {
            listening: Listening::at(options.listen).await?,
            host: options.host.clone(),
            key: HostKey::load_or_make(&options.key_file)?,
            limits: options.limits.clone(),
        })
    }

    pub(crate) fn place(&self) -> SshPlace {
        SshPlace {
            host: self.host.clone(),
            port: self.listening.address().port(),
            host_key: self.key.public_line(),
        }
    }

    pub(crate) fn start(self, app: &Arc<App>) -> Gateway {
        let backend = Doors(Arc::clone(app));
        Gateway::start(self.listening, &self.key, self.limits, backend)
    }
}

/// The server as the gateway sees it.
#[derive(Clone, Debug)]
struct Doors(Arc<App>);

impl Backend for Doors {
    type Sandbox = Entered;

    async fn authenticate(&self, login: Login<'_>) -> Option<Entered> {
        if let Some((sandbox, revoked)) = self.0.ssh_logins.find(login.user_name) {
            return self.enter(&sandbox, revoked);
        }
        let id: SandboxId = login.user_name.parse().ok()?;
        let key = login.key?.to_line()?;
        let handle = self.0.registry.get(&id)?;
        match self
            .0
            .database
            .has_ssh_key(handle.organisation(), &key)
            .await
        {
            Ok(true) => self.enter(&id, CancellationToken::new()),
            Ok(false) => None,
            Err(error) => {
                tombolo_diag::log_limited!(error, %error, "SSH keys cannot be looked up");
                None
            }
        }
    }
}

impl Doors {
    fn enter(&self, id: &SandboxId, revoked: CancellationToken) -> Option<Entered> {
        let handle = self.0.registry.get(id)?;
        match handle.status().phase {
            Phase::Running | Phase::Grace { .. } => Some(Entered { handle, revoked }),
            Phase::Creating | Phase::Stopping { .. } | Phase::Stopped { .. } => None,
        }
    }
}

/// A sandbox that somebody was let into.
#[derive(Clone, Debug)]
struct Entered {
    handle: SandboxHandle,
    revoked: CancellationToken,
}

impl Sandbox for Entered {
    type Process = ProcessHandle;
    type Stream = GuestStream;

    fn id(&self) -> String {
        self.handle.id().to_string()
    }

    async fn closed(&self) {
        tokio::select! {
            () = self.handle.stopped().cancelled() => {}
            () = self.revoked.cancelled() => {}
        }
    }

    async fn spawn(&self, launch: Launch) -> Result<Started<ProcessHandle>, SpawnError> {
        let is_sftp = launch.program == Program::Sftp;
        let started = self.handle.agent().start(request(launch)).await;
        let started = started.map_err(|status| match OsError::from_status(&status) {
            Some(OsError { errno: ENOENT, .. }) if is_sftp => SpawnError::Missing(SFTP_SERVER),
            _ => SpawnError::Failed(status.into()),
        })?;
        Ok(Started {
            process: started.handle,
            stdin: Box::new(started.stdin),
            stdout: started.stdout,
            stderr: started.stderr,
        })
    }

    async fn connect(&self, port: NonZero<u16>) -> Result<GuestStream, ConnectError> {
        let connected = self.handle.agent().connect(Target::Port(port)).await;
        connected.map_err(not_connected)
    }

    async fn connect_local(&self, path: &str) -> Result<GuestStream, ConnectError> {
        let connected = self.handle.agent().connect_local(path).await;
        connected.map_err(not_connected)
    }

    async fn listen(&self, port: u16) -> Result<Forwarded<GuestStream>, ListenError> {
        let listening = self.handle.agent().listen(port).await;
        let listening = listening.map_err(|status| ListenError(status.into()))?;
        Ok(Forwarded {
            port: listening.port,
            streams: listening.streams,
        })
    }
}

fn not_connected(error: ConnectGuestError) -> ConnectError {
    match error {
        ConnectGuestError::Refused(_) | ConnectGuestError::NoProcess(_) => {
            ConnectError::NothingListens
        }
        ConnectGuestError::TooMany(_) => ConnectError::TooMany,
        ConnectGuestError::Away(_) | ConnectGuestError::Failed(_) => {
            ConnectError::Away(Box::new(error))
        }
    }
}

fn request(launch: Launch) -> v1::SpawnRequest {
    let (command, args) = match launch.program {
        Program::Shell => (SHELL, vec!["-l".to_owned()]),
        Program::Command(line) => (SHELL, vec!["-c".to_owned(), line]),
        Program::Sftp => (SFTP_SERVER, Vec::new()),
    };
    v1::SpawnRequest {
        command: command.to_owned(),
        args,
        env: launch.environment.into_iter().collect(),
        terminal: launch.terminal.map(|terminal| v1::WindowSize {
            rows: terminal.rows,
            columns: terminal.columns,
        }),
        ..v1::SpawnRequest::default()
    }
}

impl Process for ProcessHandle {
    async fn resize(&self, terminal: Terminal) {
        let resized = Self::resize(self, terminal.rows, terminal.columns).await;
        if let Err(status) = resized {
            tracing::debug!(%status, "a terminal is gone already");
        }
    }

    async fn signal(&self, signal: i32) {
        if let Err(status) = Self::signal(self, signal).await {
            tracing::debug!(%status, "a process is gone already");
        }
    }

    async fn wait(&self) -> Option<Exit> {
        match Self::wait(self).await {
            Ok(reply) => Some(Exit {
                code: reply.code,
                signal: (reply.signal != 0).then_some(reply.signal),
            }),
            Err(status) => {
                tracing::debug!(%status, "how a process ended cannot be told");
                None
            }
        }
    }
}
