//! What a sandbox may reach, and the secrets it may use without having them.
//!
//! The server makes a policy document of what clients ask, seals each value to
//! the egress process, and remembers everything but the values. What is decided
//! by the document is decided there and not here.

mod change;
mod plan;
mod problems;
mod variable;

use tombolo_ids::{OrganisationId, SandboxId, UnixMillis};
use tombolo_node_proto::v1::{SandboxNetwork, SealedSecret};
use tombolo_policy::PolicyDocument;
use tombolo_secret::{Placeholder, SealingKey, SecretContext, SecretName, SecretValue};

pub(crate) use change::{
    ChangeError, Changed, current, put_secret, replace_allow_net, replace_policy, revoke_secret,
};
pub(crate) use plan::{NetworkPlan, NetworkRequest, PlanNetworkError};

use crate::egress::{EgressError, EgressLink};

/// What is remembered of a sandbox's network: all but the values of secrets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkRecord {
    /// As the egress process has it: with the secrets that were revoked, for
    /// whose values it goes on searching responses.
    pub(crate) document: PolicyDocument,
    pub(crate) secrets: Vec<SecretRecord>,
}

/// What is remembered of one secret.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SecretRecord {
    pub(crate) name: SecretName,
    /// Stays the same as long as the sandbox lives: its environment has it.
    pub(crate) placeholder: Placeholder,
    /// When its present value came.
    pub(crate) set_at: UnixMillis,
    pub(crate) revoked_at: Option<UnixMillis>,
}

impl NetworkRecord {
    /// The document as its author knows it.
    pub(crate) fn shown(&self) -> PolicyDocument {
        let mut document = self.document.clone();
        document.secrets.retain(|name, _| !self.is_revoked(name));
        document
    }

    /// Secrets that may be used.
    pub(crate) fn active_secrets(&self) -> impl Iterator<Item = &SecretRecord> {
        self.secrets
            .iter()
            .filter(|secret| secret.revoked_at.is_none())
    }

    fn is_revoked(&self, name: &str) -> bool {
        let mut secrets = self.secrets.iter();
        secrets.any(|secret| secret.name.as_str() == name && secret.revoked_at.is_some())
    }

    pub(crate) fn active(&self, name: &str) -> Option<&SecretRecord> {
        self.active_secrets()
            .find(|secret| secret.name.as_str() == name)
    }
}

/// A network ready to be made.
#[derive(Debug)]
pub(crate) struct SealedNetwork {
    /// For the node.
    pub(crate) message: SandboxNetwork,
    pub(crate) record: NetworkRecord,
}

impl NetworkPlan {
    /// Locks every value for the egress process. What was readable is wiped on
    /// return, whatever the outcome.
    pub(crate) async fn seal(
        self,
        egress: &EgressLink,
        organisation: &OrganisationId,
        sandbox: &SandboxId,
        labels: &tombolo_ids::Labels,
        now: UnixMillis,
    ) -> Result<SealedNetwork, EgressError> {
        let mut message = SandboxNetwork {
            organisation: organisation.to_string(),
            labels: labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            policy_json: written(&self.document),
            secrets: Vec::new(),
        };
        let mut record = NetworkRecord {
            document: self.document,
            secrets: Vec::new(),
        };
        if self.secrets.is_empty() {
            return Ok(SealedNetwork { message, record });
        }
        let key = egress.sealing_key().await?;
        for secret in self.secrets {
            let sealed = sealed(&key, organisation, sandbox, &secret.name, &secret.value)?;
            message.secrets.push(SealedSecret {
                name: secret.name.to_string(),
                placeholder: secret.placeholder.to_string(),
                sealed,
            });
            record.secrets.push(SecretRecord {
                name: secret.name,
                placeholder: secret.placeholder,
                set_at: now,
                revoked_at: None,
            });
        }
        Ok(SealedNetwork { message, record })
    }
}

/// A value locked for the egress process, bound to its sandbox and its name.
fn sealed(
    key: &SealingKey,
    organisation: &OrganisationId,
    sandbox: &SandboxId,
    name: &SecretName,
    value: &SecretValue,
) -> Result<String, EgressError> {
    let context = SecretContext {
        organisation: organisation.as_str(),
        sandbox: sandbox.as_str(),
        name,
    };
    Ok(key.seal(value, &context)?.into())
}

/// A document as it is sent and stored.
pub(crate) fn written(document: &PolicyDocument) -> String {
    // Its keys are texts and its numbers finite, so it can always be written.
    serde_json::to_string(document).unwrap_or_default()
}
