//! A sandbox: the connection to one, and what needs none.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::Value;
use tombolo_api::config::{NewSandbox, NewSecret};
use tombolo_api::sandbox::StopAt;
use tombolo_api::secret::SecretValue;
use tombolo_ids::{SandboxId, UnixMillis};
use zeroize::Zeroizing;

use crate::connection::Connection;
use crate::{
    Client, ConnectError, Deno, EndReason, Env, ExposedSsh, Exposure, Fs, RequestError, Target,
};

/// A sandbox and a connection to it. Cheap to clone; clones share the
/// connection, which lives as long as one of them, or a process, file or
/// stream that came of them.
///
/// A sandbox that was made without a lifetime ends with its first connection.
/// [`Sandbox::close`] says goodbye and waits until that was heard; dropping
/// the last clone says it without waiting, which needs a runtime that lives on
/// for a moment.
#[derive(Debug, Clone)]
pub struct Sandbox {
    connection: Connection,
    by_id: SandboxRef,
    ssh: Option<ExposedSsh>,
    exposure: Option<Exposure>,
}

/// A sandbox by its id, for all that needs no connection to it.
#[derive(Debug, Clone)]
pub struct SandboxRef {
    pub(crate) client: Client,
    pub(crate) id: SandboxId,
}

/// What a new sandbox is to be. Everything may be left out.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is made yet"]
pub struct SandboxBuilder {
    config: NewSandbox,
    secrets: BTreeMap<String, (Vec<String>, Hidden)>,
    ssh: bool,
    port: Option<Target>,
}

/// A value that is not printed by accident and does not stay in memory.
#[derive(Clone)]
struct Hidden(Zeroizing<String>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hidden")
    }
}

impl Sandbox {
    /// Makes a sandbox with all defaults: it may reach every public host, and
    /// ends with this connection.
    ///
    /// # Errors
    /// A server that cannot be reached or does not make it.
    pub async fn create(client: &Client) -> Result<Self, ConnectError> {
        Self::builder().create(client).await
    }

    /// Says what a sandbox is to be before it is made.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    /// Connects to a sandbox that is there, by its id.
    ///
    /// # Errors
    /// A server that cannot be reached, and a sandbox that has ended or never
    /// was.
    pub async fn connect(client: &Client, id: &str) -> Result<Self, ConnectError> {
        let id = id.parse().map_err(|source| ConnectError::Id {
            given: id.to_owned(),
            source,
        })?;
        client.sandbox(&id).connect().await
    }

    fn new(client: &Client, connection: Connection) -> Self {
        Self {
            by_id: client.sandbox(connection.sandbox()),
            connection,
            ssh: None,
            exposure: None,
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the server thinks is not meant in the policy that it was made
    /// with.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        self.connection.warnings()
    }

    /// The way in by SSH, if it was made with one.
    #[must_use]
    pub fn ssh(&self) -> Option<&ExposedSsh> {
        self.ssh.as_ref()
    }

    /// The address of the port that it was made with, if it was.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.exposure.as_ref().map(|exposure| exposure.url.as_str())
    }

    /// Its files.
    #[must_use]
    pub fn fs(&self) -> Fs {
        Fs::new(self.connection.clone())
    }

    /// The environment of processes that are started later.
    #[must_use]
    pub fn env(&self) -> Env {
        Env::new(self.connection.clone())
    }

    /// Deno: programs, expressions, REPLs.
    #[must_use]
    pub fn deno(&self) -> Deno {
        Deno::new(self.connection.clone())
    }

    /// Ends when the connection has, and tells how.
    pub async fn closed(&self) -> EndReason {
        self.connection.ended().await
    }

    /// Closes the connection, for all clones too, and waits until the server
    /// has heard it. One that was made without a lifetime ends.
    pub async fn close(self) {
        self.connection.close().await;
    }

    /// Ends the sandbox and closes the connection.
    ///
    /// # Errors
    /// A server that does not end it; then the connection is still there.
    pub async fn kill(self) -> Result<(), RequestError> {
        self.by_id.kill().await?;
        self.connection.close().await;
        Ok(())
    }
}

/// What can be asked by the id alone.
impl Deref for Sandbox {
    type Target = SandboxRef;

    fn deref(&self) -> &SandboxRef {
        &self.by_id
    }
}

impl Client {
    /// A sandbox by its id, for all that needs no connection to it. Nothing
    /// is asked yet.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId) -> SandboxRef {
        SandboxRef {
            client: self.clone(),
            id: id.clone(),
        }
    }
}

impl SandboxRef {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Connects to it.
    ///
    /// # Errors
    /// As [`Sandbox::connect`].
    pub async fn connect(&self) -> Result<Sandbox, ConnectError> {
        let connection = Connection::connect(&self.client, &self.id).await?;
        Ok(Sandbox::new(&self.client, connection))
    }

    /// Ends it. Its connections close when it has.
    ///
    /// # Errors
    /// As every request.
    pub async fn kill(&self) -> Result<(), RequestError> {
        self.client.delete(&self.path()).await
    }

    /// Asks that it live until so long from now, and tells the end that was
    /// granted. One that ends with its connection has an end from then on.
    ///
    /// # Errors
    /// As every request.
    pub async fn extend_timeout(&self, from_now: Duration) -> Result<SystemTime, RequestError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let asked = StopAt {
            stop_at_ms: UnixMillis(i64::try_from(now).unwrap_or(i64::MAX)).plus(from_now),
        };
        let granted: StopAt = self
            .client
            .send(Method::PATCH, &self.path(), &asked)
            .await?;
        let granted = u64::try_from(granted.stop_at_ms.0).unwrap_or_default();
        Ok(UNIX_EPOCH + Duration::from_millis(granted))
    }

    /// Where the calls of the official SDKs find it.
    pub(crate) fn path(&self) -> String {
        format!("/api/v3/sandbox/{}", self.id)
    }

    /// Where Tombolo's own calls find it.
    pub(crate) fn native_path(&self) -> String {
        format!("{}/{}", tombolo_api::native::SANDBOXES_PATH, self.id)
    }
}

impl SandboxBuilder {
    /// Memory in MiB; 1280 unless this is set.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.config.memory_mb = Some(memory_mib);
        self
    }

    /// How long it lives, whoever is connected. Unless this is set it ends
    /// with its first connection.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let part = u64::from(timeout.subsec_nanos() > 0);
        let seconds = timeout.as_secs().saturating_add(part);
        self.config.timeout = Some(format!("{}s", seconds.max(1)));
        self
    }

    /// A label, to find it by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    /// A variable of every process's environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.env.insert(name.into(), value.into());
        self
    }

    /// The hosts that it may reach and no others: names, `*.names` and
    /// addresses, each with or without a port. An empty list is no network.
    /// Unless this is set it may reach all that are public.
    pub fn allow_net<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.config.allow_net = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// A secret: the variable of this name holds a placeholder, which becomes
    /// the value in requests to these hosts and nowhere else.
    pub fn secret<H: Into<String>>(
        mut self,
        name: impl Into<String>,
        hosts: impl IntoIterator<Item = H>,
        value: impl Into<String>,
    ) -> Self {
        let hosts = hosts.into_iter().map(Into::into).collect();
        self.secrets
            .insert(name.into(), (hosts, Hidden(Zeroizing::new(value.into()))));
        self
    }

    /// A whole policy, for what `allow_net` and `secret` cannot say.
    pub fn egress_policy(mut self, policy: Value) -> Self {
        self.config.egress_policy = Some(policy);
        self
    }

    /// The region; the server's own unless this is set.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.config.region = Some(region.into());
        self
    }

    /// Opens a way in by SSH: [`Sandbox::ssh`].
    pub fn expose_ssh(mut self) -> Self {
        self.ssh = true;
        self
    }

    /// Exposes a port over HTTPS: [`Sandbox::url`].
    pub fn expose_http(mut self, port: u16) -> Self {
        self.port = Some(Target::Port(port));
        self
    }

    /// Takes over what was put together elsewhere, but for what a way in says.
    pub fn config(mut self, config: NewSandbox) -> Self {
        self.config = config;
        self
    }

    /// Makes the sandbox.
    ///
    /// # Errors
    /// A server that cannot be reached or does not make it, and a secret whose
    /// value cannot be sent.
    pub async fn create(mut self, client: &Client) -> Result<Sandbox, ConnectError> {
        for (name, (hosts, value)) in std::mem::take(&mut self.secrets) {
            let value =
                SecretValue::new(value.0.to_string()).map_err(|source| ConnectError::Secret {
                    name: name.clone(),
                    source,
                })?;
            let secret = NewSecret { hosts, value };
            self.config.secrets.insert(name, secret);
        }
        let connection = Connection::create(client, &self.config).await?;
        let mut sandbox = Sandbox::new(client, connection);
        if let Err(error) = self.expose(&mut sandbox).await {
            // Nobody else knows its id.
            if let Err(error) = sandbox.by_id.kill().await {
                tracing::warn!(%error, "a sandbox that is of no use could not be ended");
            }
            sandbox.close().await;
            return Err(ConnectError::Prepare(Box::new(error)));
        }
        Ok(sandbox)
    }

    async fn expose(&self, sandbox: &mut Sandbox) -> Result<(), RequestError> {
        if self.ssh {
            sandbox.ssh = Some(sandbox.by_id.expose_ssh().await?);
        }
        if let Some(target) = self.port {
            sandbox.exposure = Some(sandbox.by_id.expose_http(target).await?);
        }
        Ok(())
    }
}
