//! Changes to the network of a sandbox that lives: the egress process first,
//! because it has the last word, then the database.

use std::future::Future;
use std::sync::Arc;

use serde_json::Value;
use tombolo_api::native::GivenSecret;
use tombolo_lifecycle::Phase;
use tombolo_node_proto::egress::Secret;
use tombolo_policy::{OnIneligible, PolicyDocument, SecretDocument};
use tombolo_secret::{EntropyError, Placeholder, SecretName, SecretValue};
use tonic::Status;

use super::plan::checked_value;
use super::problems::{NetworkProblems, quoted, shaped};
use super::variable::Variable;
use super::{NetworkRecord, SecretRecord, sealed, written};
use crate::app::App;
use crate::call::CallError;
use crate::clock;
use crate::database::QueryError;
use crate::egress::{EgressError, EgressLink, SecretChange};
use crate::sandbox::SandboxHandle;

/// A network is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(
        "the sandbox has no network, because its server had no egress process when it was \
         created; create a new one"
    )]
    NoNetwork,
    #[error("the sandbox is still being created")]
    NotReady,
    #[error("the sandbox has ended")]
    Ended,
    #[error(
        "the policy has the generation {present} by now; read it again, or leave `generation` out"
    )]
    Changed { present: u64 },
    #[error(
        "the sandbox has no such secret; list those that it has, or set this one with a value \
         and hosts"
    )]
    SecretNotFound,
    #[error(transparent)]
    Problems(#[from] NetworkProblems),
    #[error(transparent)]
    Database(#[from] QueryError),
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    #[error("the sandbox did not take the secret's environment variable")]
    Guest(#[source] Status),
    #[error("the sandbox did not take the secret's environment variable in time")]
    GuestTimedOut(#[source] tokio::time::error::Elapsed),
    #[error("the change was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
}

impl From<CallError> for ChangeError {
    fn from(error: CallError) -> Self {
        Self::Egress(error.into())
    }
}

/// What has become of a network, and what its owner should know of that.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) record: NetworkRecord,
    pub(crate) warnings: Vec<String>,
}

/// Replaces the document. Secrets that it leaves out keep what is said of them;
/// those that it names must have a value.
pub(crate) async fn replace_policy(
    app: &Arc<App>,
    handle: SandboxHandle,
    given: Value,
) -> Result<Changed, ChangeError> {
    let work_app = Arc::clone(app);
    let work = async move {
        let _alone = handle.networking().lock().await;
        let (egress, mut record) = current(&work_app, &handle).await?;
        let mut problems = NetworkProblems::default();
        let mut document: PolicyDocument = match shaped(given) {
            Ok(document) => document,
            Err((at, what)) => {
                problems.add(at, what);
                return Err(problems.into());
            }
        };
        let present = record.document.generation;
        if document.generation != 0 && document.generation != present {
            return Err(ChangeError::Changed { present });
        }
        for name in document.secrets.keys() {
            if record.active(name).is_none() {
                let at = format!("secrets.{}", quoted(name));
                problems.add(at, "it has no value; set the secret first");
            }
        }
        for (name, secret) in &record.document.secrets {
            let entry = document.secrets.entry(name.clone());
            entry.or_insert_with(|| secret.clone());
        }
        record.replace(document, problems)?;
        put_policy(&work_app, egress, &handle, record).await
    };
    to_the_end(app, work).await
}

/// Replaces the list of hosts alone. None: all that are public.
pub(crate) async fn replace_allow_net(
    app: &Arc<App>,
    handle: SandboxHandle,
    allow_net: Option<Vec<String>>,
) -> Result<Changed, ChangeError> {
    let work_app = Arc::clone(app);
    let work = async move {
        let _alone = handle.networking().lock().await;
        let (egress, mut record) = current(&work_app, &handle).await?;
        let document = PolicyDocument {
            allow_net,
            ..record.document.clone()
        };
        record.replace(document, NetworkProblems::default())?;
        put_policy(&work_app, egress, &handle, record).await
    };
    to_the_end(app, work).await
}

/// Gives a secret a new value, says anew where it may be used, or both.
pub(crate) async fn put_secret(
    app: &Arc<App>,
    handle: SandboxHandle,
    name: String,
    given: GivenSecret,
) -> Result<Changed, ChangeError> {
    let work_app = Arc::clone(app);
    let work = async move {
        let _alone = handle.networking().lock().await;
        let (egress, mut record) = current(&work_app, &handle).await?;
        let is_active = record.active(&name).is_some();
        let mut problems = NetworkProblems::default();
        let (secret, value) = asked(&record, &name, given, is_active, &mut problems);
        let mut document = record.document.clone();
        document.secrets.insert(name.clone(), secret);
        for known in &mut record.secrets {
            if known.name.as_str() == name {
                known.revoked_at = None;
            }
        }
        record.replace(document, problems)?;
        // The document was found to be good, its names with it.
        let name = SecretName::parse(&name).map_err(|error| {
            let mut problems = NetworkProblems::default();
            problems.add("secret", error);
            problems
        })?;
        let known = record.secrets.iter().find(|known| known.name == name);
        let placeholder = match known {
            Some(known) => known.placeholder,
            None => Placeholder::generate()?,
        };
        let variable = Variable::new(&work_app, &handle, &name, placeholder);
        if !is_active {
            variable.check_free().await?;
        }
        let mut changed = match value {
            None => put_policy(&work_app, egress, &handle, record).await?,
            Some(value) => {
                let organisation = handle.organisation();
                let key = egress.sealing_key().await?;
                let change = SecretChange {
                    given: vec![Secret {
                        name: name.to_string(),
                        placeholder: placeholder.to_string(),
                        sealed: sealed(&key, organisation, handle.id(), &name, &value)?,
                    }],
                    revoked: Vec::new(),
                    policy_json: written(&record.document),
                };
                drop(value);
                record.note(name.clone(), placeholder);
                put_secrets(&work_app, egress, &handle, record, change).await?
            }
        };
        let standing = variable.set_if_absent().await;
        changed.warnings.extend(match standing {
            // A guest that does not answer must not keep a leaked value in use.
            Err(error) if is_active => {
                tracing::debug!(sandbox = %handle.id(), %error, "variable not looked at");
                Some(variable.not_looked_at())
            }
            standing => standing?,
        });
        Ok(changed)
    };
    to_the_end(app, work).await
}

/// Takes a secret out of use. Its placeholder is worth nothing from then on. May
/// be repeated: None if it was out of use already.
pub(crate) async fn revoke_secret(
    app: &Arc<App>,
    handle: SandboxHandle,
    name: String,
) -> Result<Option<Changed>, ChangeError> {
    let work_app = Arc::clone(app);
    let work = async move {
        let _alone = handle.networking().lock().await;
        let (egress, mut record) = current(&work_app, &handle).await?;
        let mut secrets = record.secrets.iter_mut();
        let known = secrets.find(|secret| secret.name.as_str() == name);
        let secret = known.ok_or(ChangeError::SecretNotFound)?;
        if secret.revoked_at.is_some() {
            return Ok(None);
        }
        secret.revoked_at = Some(clock::now());
        record.document.generation += 1;
        let change = SecretChange {
            given: Vec::new(),
            revoked: vec![name],
            policy_json: written(&record.document),
        };
        let changed = put_secrets(&work_app, egress, &handle, record, change).await?;
        Ok(Some(changed))
    };
    to_the_end(app, work).await
}

/// Runs where it is finished even if the client goes away: what the egress
/// process has and what is remembered must be the same.
async fn to_the_end<T: Send + 'static>(
    app: &Arc<App>,
    work: impl Future<Output = Result<T, ChangeError>> + Send + 'static,
) -> Result<T, ChangeError> {
    let done = app.tasks.spawn(work).await;
    done.map_err(ChangeError::BrokenOff)?
}

/// The egress process and what it was told last.
pub(crate) async fn current<'a>(
    app: &'a App,
    handle: &SandboxHandle,
) -> Result<(&'a EgressLink, NetworkRecord), ChangeError> {
    match handle.status().phase {
        Phase::Creating => return Err(ChangeError::NotReady),
        Phase::Running | Phase::Grace { .. } => {}
        Phase::Stopping { .. } | Phase::Stopped { .. } => return Err(ChangeError::Ended),
    }
    let record = app.database.network(handle.id()).await?;
    match (&app.egress, record) {
        (Some(egress), Some(record)) => Ok((egress, record)),
        _ => Err(ChangeError::NoNetwork),
    }
}

async fn put_policy(
    app: &App,
    egress: &EgressLink,
    handle: &SandboxHandle,
    record: NetworkRecord,
) -> Result<Changed, ChangeError> {
    let policy_json = written(&record.document);
    let warnings = egress.set_policy(handle.id(), &policy_json).await?;
    app.database.change_network(handle.id(), &record).await?;
    tracing::info!(sandbox = %handle.id(), generation = record.document.generation, "policy changed");
    Ok(Changed { record, warnings })
}

async fn put_secrets(
    app: &App,
    egress: &EgressLink,
    handle: &SandboxHandle,
    record: NetworkRecord,
    change: SecretChange,
) -> Result<Changed, ChangeError> {
    let warnings = egress.change_secrets(handle.id(), &change).await?;
    app.database.change_network(handle.id(), &record).await?;
    tracing::info!(sandbox = %handle.id(), generation = record.document.generation, "secrets changed");
    Ok(Changed { record, warnings })
}

impl NetworkRecord {
    /// Takes another document, if there is nothing wrong with what its author
    /// knows of it.
    fn replace(
        &mut self,
        document: PolicyDocument,
        mut problems: NetworkProblems,
    ) -> Result<(), NetworkProblems> {
        let generation = self.document.generation + 1;
        self.document = PolicyDocument {
            generation,
            ..document
        };
        problems.check(&self.shown());
        problems.into_result()
    }

    /// A secret has a new value now.
    fn note(&mut self, name: SecretName, placeholder: Placeholder) {
        self.secrets.retain(|secret| secret.name != name);
        self.secrets.push(SecretRecord {
            name,
            placeholder,
            set_at: clock::now(),
            revoked_at: None,
        });
    }
}

/// Where the secret may be used from now on, and its value if a new one came.
fn asked(
    record: &NetworkRecord,
    name: &str,
    given: GivenSecret,
    is_active: bool,
    problems: &mut NetworkProblems,
) -> (SecretDocument, Option<SecretValue>) {
    let at = format!("secrets.{}", quoted(name));
    let present = record.document.secrets.get(name).filter(|_| is_active);
    let mut secret = present.cloned().unwrap_or(SecretDocument {
        hosts: Vec::new(),
        slots: None,
        require: false,
        on_ineligible: OnIneligible::default(),
        allow_range: false,
        placeholder: None,
    });
    secret.hosts = given.hosts.unwrap_or(secret.hosts);
    secret.require = given.require.unwrap_or(secret.require);
    if let Some(slots) = given.slots {
        let slots = slots.into_iter().map(Value::String).collect();
        match shaped(Value::Array(slots)) {
            Ok(slots) => secret.slots = Some(slots),
            Err((place, _)) => {
                let what = "not a part of a request; write `header`, `query`, `path`, `json`, \
                            `form`, `text`, `multipart` or `websocket`";
                problems.add(format_args!("{at}.in{place}"), what);
            }
        }
    }
    if let Some(on_ineligible) = given.on_ineligible {
        if let Ok(on_ineligible) = shaped(Value::String(on_ineligible)) {
            secret.on_ineligible = on_ineligible;
        } else {
            let what = "write `forward` or `deny`";
            problems.add(format_args!("{at}.on_ineligible"), what);
        }
    }
    if given.value.is_none() && !is_active {
        problems.add(format_args!("{at}.value"), "a new secret needs one");
    }
    let value = given
        .value
        .and_then(|value| checked_value(value, &at, problems));
    (secret, value)
}
