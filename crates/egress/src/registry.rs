//! The sandboxes that are attached, and what may be done with each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tombolo_diag::LogLimit;
use tombolo_node_proto::handover::SlotSockets;
use tombolo_policy::PolicyDocument;
use tombolo_secret::{
    OpenError, OpeningKey, ParsePlaceholderError, ParseSealedError, ParseSecretNameError,
    Placeholder, SealedSecret, SecretContext, SecretName,
};
use tombolo_substitute::TableWarning;

use crate::{
    authority::{Authority, AuthorityError},
    clock::unix_seconds,
    counters::HostCounts,
    dns::{self, Datagrams},
    flow,
    rules::{HeldSecret, Rules, RulesError, SecretState},
    sandbox::{Sandbox, SandboxError, SandboxIdentity, Shared},
    store::{Kept, Store, StoreError},
};

/// How long accepting rests when the process has no descriptor left (NET-18).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the flows of a sandbox may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A secret as it comes.
#[derive(Clone, Debug)]
pub(crate) struct GivenSecret {
    pub(crate) name: String,
    pub(crate) placeholder: String,
    pub(crate) sealed: String,
}

/// A sandbox as it comes.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) identity: SandboxIdentity,
    /// None: what was kept of it.
    pub(crate) policy_json: Option<String>,
    pub(crate) secrets: Vec<GivenSecret>,
    pub(crate) sockets: SlotSockets<OwnedFd>,
}

/// Secrets that become others.
#[derive(Debug, Default)]
pub(crate) struct SecretChange {
    /// New ones, and new values of known ones.
    pub(crate) given: Vec<GivenSecret>,
    pub(crate) revoked: Vec<String>,
    /// None: the policy stays.
    pub(crate) policy_json: Option<String>,
}

/// All that are attached.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) shared: Arc<Shared>,
    store: Store,
    opening_key: OpeningKey,
    attached: Mutex<HashMap<Arc<str>, Attached>>,
    /// Attaching and changing are done one after the other.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Attached {
    sandbox: Arc<Sandbox>,
    policy_json: String,
    secrets: Vec<HeldSecret>,
    secret_generation: u64,
}

/// A sandbox could not be attached or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("the sandbox is attached already")]
    Exists,
    #[error("the sandbox is not attached")]
    NotFound,
    #[error("nothing is kept of the sandbox; send its policy")]
    NotKept,
    #[error("the policy is not a document of this version")]
    Document(#[source] serde_json::Error),
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error("a secret has an impossible name")]
    Name(#[from] ParseSecretNameError),
    #[error("a secret has no placeholder")]
    Placeholder(#[from] ParsePlaceholderError),
    #[error("a secret is not sealed")]
    Sealed(#[from] ParseSealedError),
    #[error("a secret cannot be opened; seal it anew with the present key")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot use the sockets")]
    Sockets(#[from] io::Error),
}

impl Registry {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, opening_key: OpeningKey) -> Self {
        Self {
            shared,
            store,
            opening_key,
            attached: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn opening_key(&self) -> &OpeningKey {
        &self.opening_key
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Sandbox>, ChangeError> {
        self.get(id).map(|attached| attached.sandbox)
    }

    /// Begins to carry a sandbox. Its sockets are read only when all else is in force.
    pub(crate) async fn attach(&self, given: Given) -> Result<Vec<String>, ChangeError> {
        let _changing = self.changing.lock().await;
        let id = Arc::clone(&given.identity.id);
        if self.attached.lock().contains_key(&id) {
            return Err(ChangeError::Exists);
        }
        let kept = self.store.read(&id)?;
        let authority = match &kept {
            Some(kept) => Authority::restore(&id, &kept.authority, unix_seconds())?,
            None => Authority::generate(&id, unix_seconds())?,
        };
        let (mut identity, policy_json, secrets, secret_generation) =
            match (given.policy_json, kept) {
                (Some(policy_json), kept) => {
                    let secrets = self.open(&given.identity, &given.secrets)?;
                    let generation = kept.map_or(0, |kept| kept.secret_generation) + 1;
                    (given.identity, policy_json, secrets, generation)
                }
                (None, Some(kept)) => {
                    let identity = SandboxIdentity {
                        organisation: kept.organisation.into(),
                        labels: kept.labels,
                        ..given.identity
                    };
                    (
                        identity,
                        kept.policy_json,
                        kept.secrets,
                        kept.secret_generation,
                    )
                }
                (None, None) => return Err(ChangeError::NotKept),
            };
        identity.id = Arc::clone(&id);
        let rules = self.rules(&identity, &policy_json, &secrets, secret_generation)?;
        let warnings = warnings(&rules);
        let shared = Arc::clone(&self.shared);
        let sandbox = Sandbox::new(identity, rules, authority, shared)?;
        let attached = Attached {
            sandbox,
            policy_json,
            secrets,
            secret_generation,
        };
        self.keep(&attached)?;
        listen(&attached.sandbox, given.sockets)?;
        self.attached.lock().insert(id, attached);
        Ok(warnings)
    }

    /// Ends a sandbox and forgets it. Answers what it did, by host.
    pub(crate) async fn detach(
        &self,
        id: &str,
    ) -> Result<BTreeMap<String, HostCounts>, ChangeError> {
        let _changing = self.changing.lock().await;
        let attached = self.attached.lock().remove(id);
        if let Some(attached) = attached
            && timeout(CLOSE_TIMEOUT, attached.sandbox.close())
                .await
                .is_err()
        {
            tracing::warn!(sandbox = id, "flows of a sandbox did not end in time");
        }
        self.store.forget(id)?;
        let counts = self.shared.counters.of(id);
        self.shared.counters.forget(id);
        Ok(counts)
    }

    /// Ends and forgets every sandbox but these. Answers which. One that cannot be forgotten
    /// is not in the way of the others, nor of the node: it is ended, and tried again when the
    /// living are named again.
    pub(crate) async fn retain(
        &self,
        living: &HashSet<String>,
    ) -> Result<Vec<String>, ChangeError> {
        let attached = self
            .attached
            .lock()
            .keys()
            .map(ToString::to_string)
            .collect();
        let mut known: HashSet<String> = attached;
        known.extend(self.store.ids()?);
        let mut detached = Vec::new();
        for id in known.difference(living) {
            match self.detach(id).await {
                Ok(_counts) => detached.push(id.clone()),
                Err(error) => tracing::error!(sandbox = id, %error, "cannot forget a sandbox"),
            }
        }
        Ok(detached)
    }

    /// Replaces the policy of a sandbox.
    pub(crate) async fn set_policy(
        &self,
        id: &str,
        policy_json: String,
    ) -> Result<Vec<String>, ChangeError> {
        let _changing = self.changing.lock().await;
        let attached = Attached {
            policy_json,
            ..self.get(id)?
        };
        self.replace(attached)
    }

    /// Gives and revokes secrets of a sandbox; the others stay.
    pub(crate) async fn change_secrets(
        &self,
        id: &str,
        change: SecretChange,
    ) -> Result<Vec<String>, ChangeError> {
        let _changing = self.changing.lock().await;
        let mut attached = self.get(id)?;
        let given = self.open(&attached.sandbox.identity, &change.given)?;
        for held in &mut attached.secrets {
            if change
                .revoked
                .iter()
                .any(|name| *name == held.name.as_str())
            {
                held.state = SecretState::Revoked;
            }
        }
        attached
            .secrets
            .retain(|held| !given.iter().any(|new| new.name == held.name));
        attached.secrets.extend(given);
        attached.secret_generation += 1;
        if let Some(policy_json) = change.policy_json {
            attached.policy_json = policy_json;
        }
        self.replace(attached)
    }

    fn replace(&self, attached: Attached) -> Result<Vec<String>, ChangeError> {
        let identity = &attached.sandbox.identity;
        let rules = self.rules(
            identity,
            &attached.policy_json,
            &attached.secrets,
            attached.secret_generation,
        )?;
        let warnings = warnings(&rules);
        self.keep(&attached)?;
        attached.sandbox.replace_rules(rules);
        let id = Arc::clone(&identity.id);
        self.attached.lock().insert(id, attached);
        Ok(warnings)
    }

    fn get(&self, id: &str) -> Result<Attached, ChangeError> {
        self.attached
            .lock()
            .get(id)
            .cloned()
            .ok_or(ChangeError::NotFound)
    }

    fn rules(
        &self,
        identity: &SandboxIdentity,
        policy_json: &str,
        secrets: &[HeldSecret],
        secret_generation: u64,
    ) -> Result<Rules, ChangeError> {
        let document: PolicyDocument =
            serde_json::from_str(policy_json).map_err(ChangeError::Document)?;
        let operator = &self.shared.operator;
        Ok(Rules::build(
            &document,
            secrets,
            operator,
            &identity.labels,
            secret_generation,
        )?)
    }

    fn open(
        &self,
        identity: &SandboxIdentity,
        given: &[GivenSecret],
    ) -> Result<Vec<HeldSecret>, ChangeError> {
        let mut held = Vec::new();
        for secret in given {
            let name = SecretName::parse(&secret.name)?;
            let sealed = SealedSecret::try_from(secret.sealed.clone())?;
            let context = SecretContext {
                organisation: &identity.organisation,
                sandbox: &identity.id,
                name: &name,
            };
            let value = self.opening_key.open(&sealed, &context)?;
            let placeholder: Placeholder = secret.placeholder.parse()?;
            held.push(HeldSecret {
                name,
                placeholder,
                value,
                state: SecretState::Active,
            });
        }
        Ok(held)
    }

    fn keep(&self, attached: &Attached) -> Result<(), StoreError> {
        let identity = &attached.sandbox.identity;
        let kept = Kept {
            organisation: identity.organisation.to_string(),
            labels: identity.labels.clone(),
            policy_json: attached.policy_json.clone(),
            secrets: attached.secrets.clone(),
            secret_generation: attached.secret_generation,
            authority: attached.sandbox.authority.record(),
        };
        self.store.keep(&identity.id, &kept)
    }

    /// Ends the flows of all sandboxes, which stay kept.
    pub(crate) async fn close(&self) {
        let all: Vec<Attached> = self
            .attached
            .lock()
            .drain()
            .map(|(_, attached)| attached)
            .collect();
        let closing = all.iter().map(|attached| attached.sandbox.close());
        if timeout(CLOSE_TIMEOUT, futures_util::future::join_all(closing))
            .await
            .is_err()
        {
            tracing::warn!("flows of sandboxes did not end in time");
        }
    }
}

/// Of a value that is used no more there is nothing to warn.
fn warnings(rules: &Rules) -> Vec<String> {
    let policy = rules.policy.warnings().iter().map(ToString::to_string);
    let is_used = |warning: &&TableWarning| match warning {
        TableWarning::NotScrubbed { name, .. } => !rules.is_revoked(name.as_str()),
        TableWarning::Prefix { shorter, longer } => ![shorter, longer]
            .iter()
            .any(|name| rules.is_revoked(name.as_str())),
    };
    let secrets = rules.secrets.warnings().iter().filter(is_used);
    policy.chain(secrets.map(ToString::to_string)).collect()
}

fn listen(sandbox: &Arc<Sandbox>, sockets: SlotSockets<OwnedFd>) -> io::Result<()> {
    let mut listeners = Vec::new();
    for socket in [sockets.tcp4, sockets.tcp6] {
        let listener = StdTcpListener::from(socket);
        listener.set_nonblocking(true)?;
        listeners.push(TcpListener::from_std(listener)?);
    }
    let datagrams = [Datagrams::new(sockets.udp4)?, Datagrams::new(sockets.udp6)?];
    for listener in listeners {
        let arrivals = Arrivals::Socket(listener);
        sandbox.tasks.spawn(accept(Arc::clone(sandbox), arrivals));
    }
    for socket in datagrams {
        sandbox
            .tasks
            .spawn(dns::serve_datagrams(Arc::clone(sandbox), socket));
    }
    Ok(())
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) enum Arrivals {
    Socket(TcpListener),
    /// The same for a process that is out of descriptors so many times.
    #[cfg(test)]
    Scarce(TcpListener, std::sync::atomic::AtomicUsize),
}

impl Arrivals {
    async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Socket(listener) => listener.accept().await,
            #[cfg(test)]
            Self::Scarce(listener, times) => {
                use std::sync::atomic::Ordering::Relaxed;
                let less = |times: usize| times.checked_sub(1);
                match times.fetch_update(Relaxed, Relaxed, less) {
                    Ok(_) => Err(rustix::io::Errno::MFILE.into()),
                    Err(_none) => listener.accept().await,
                }
            }
        }
    }
}

/// Accepts until the sandbox ends. The local address of a connection is where the guest
/// wanted to go, because the socket is transparent.
pub(crate) async fn accept(sandbox: Arc<Sandbox>, arrivals: Arrivals) {
    static LIMIT: LogLimit = LogLimit::new();
    loop {
        let accepted = tokio::select! {
            accepted = arrivals.next() => accepted,
            () = sandbox.closed.cancelled() => return,
        };
        let addressed: io::Result<_> = accepted.and_then(|(stream, source)| {
            let original: SocketAddr = stream.local_addr()?;
            stream.set_nodelay(true)?;
            Ok((stream, source, original))
        });
        match addressed {
            Ok((stream, source, original)) => {
                let serve = flow::serve(Arc::clone(&sandbox), stream, source, original);
                sandbox.tasks.spawn(serve);
            }
            Err(error) => {
                if let Some(permit) = LIMIT.permit() {
                    tracing::warn!(%error, suppressed = permit.suppressed, "cannot accept");
                }
                // Most often there is no descriptor left, and the queue keeps its place.
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
