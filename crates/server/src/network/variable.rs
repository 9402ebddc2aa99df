//! The variable that stands for a secret in a sandbox that lives. It is set where
//! processes that start afterwards find it; those that run keep what they have.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tombolo_guest_proto::v1::{EnvEntry, EnvKey};
use tombolo_secret::{Placeholder, SecretName};
use tonic::Status;

use super::change::ChangeError;
use super::problems::NetworkProblems;
use crate::app::App;
use crate::guest::GuestAgent;
use crate::sandbox::SandboxHandle;

/// How long the guest may take to answer.
const GUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Variable {
    agent: GuestAgent,
    name: SecretName,
    placeholder: String,
}

impl Variable {
    pub(super) fn new(
        app: &App,
        handle: &SandboxHandle,
        name: &SecretName,
        placeholder: Placeholder,
    ) -> Self {
        Self {
            agent: GuestAgent::new(&app.config.node_socket, handle.id()),
            name: name.clone(),
            placeholder: placeholder.to_string(),
        }
    }

    /// A variable that is there is not replaced behind its owner's back.
    pub(super) async fn check_free(&self) -> Result<(), ChangeError> {
        match self.value().await? {
            Some(value) if value != self.placeholder => {
                let mut problems = NetworkProblems::default();
                let what = "the sandbox's environment has a variable of that name; delete it or \
                            choose another name";
                problems.add(format_args!("secrets.{}", self.name), what);
                Err(problems.into())
            }
            _ => Ok(()),
        }
    }

    /// Sets it if there is none, which may be repeated. Answers what its owner
    /// should know if it holds something else.
    pub(super) async fn set_if_absent(&self) -> Result<Option<String>, ChangeError> {
        match self.value().await? {
            Some(value) if value == self.placeholder => return Ok(None),
            Some(_) => {
                return Ok(Some(format!(
                    "the sandbox's variable {} does not hold the secret's placeholder; delete \
                     it and set the secret again",
                    self.name
                )));
            }
            None => {}
        }
        let request = EnvEntry {
            key: self.name.to_string(),
            value: self.placeholder.clone(),
        };
        let mut client = self.agent.client();
        in_time(client.set_env(request)).await?;
        Ok(None)
    }

    /// What the owner of a secret should know if the guest did not answer.
    pub(super) fn not_looked_at(&self) -> String {
        format!(
            "the sandbox did not answer, so its variable {} may be missing; set the secret again \
             when it does",
            self.name
        )
    }

    async fn value(&self) -> Result<Option<String>, ChangeError> {
        let key = self.name.to_string();
        let mut client = self.agent.client();
        Ok(in_time(client.get_env(EnvKey { key })).await?.value)
    }
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ChangeError> {
    let done = timeout(GUEST_TIMEOUT, call).await;
    let done = done.map_err(ChangeError::GuestTimedOut)?;
    Ok(done.map_err(ChangeError::Guest)?.into_inner())
}
