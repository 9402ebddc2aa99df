//! What holds for a sandbox at one moment: its policy, and its secrets with their values.

use std::{collections::BTreeMap, sync::Arc};

use tombolo_policy::{
    OnIneligible, OperatorRules, Policy, PolicyDocument, PolicyError, SecretBinding,
    Slot as PolicySlot,
};
use tombolo_secret::{Placeholder, SecretName, SecretValue};
use tombolo_substitute::{
    Destination, Eligibility, IneligibleReason, ParseSecretHostError, Plaintext, Requirement,
    SecretHost, SecretRule, SecretTable, Slot, Slots, TableError,
};

/// A secret of a sandbox as it was given.
#[derive(Clone, Debug)]
pub(crate) struct HeldSecret {
    pub(crate) name: SecretName,
    pub(crate) placeholder: Placeholder,
    pub(crate) value: SecretValue,
    /// A revoked secret is used no more; responses are still searched for it.
    pub(crate) state: SecretState,
}

/// Whether a secret may be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretState {
    Active,
    Revoked,
}

/// One generation. Immutable: a change makes a new one.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) secrets: Arc<SecretTable>,
    pub(crate) secret_generation: u64,
    revoked: Vec<SecretName>,
}

/// A policy and secrets do not make rules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// The policy is not valid.
    #[error("the policy is not valid: {0}")]
    Policy(#[from] PolicyError),
    /// A secret has a host that no secret can have.
    #[error("the host {host} of the secret {name} cannot be used")]
    Host {
        /// The secret.
        name: String,
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: ParseSecretHostError,
    },
    /// A slot is not built.
    #[error(
        "the secret {name} is wanted in binary bodies, which is not supported; leave `binary` out of `in`"
    )]
    BinarySlot {
        /// The secret.
        name: String,
    },
    /// The secrets do not go together.
    #[error("the secrets cannot be used together")]
    Table(#[from] TableError),
}

impl Rules {
    /// Compiles a policy and joins it with the values that are held. A secret of the policy
    /// without a value stays what it is in the sandbox, a placeholder.
    pub(crate) fn build(
        document: &PolicyDocument,
        held: &[HeldSecret],
        operator: &OperatorRules,
        labels: &BTreeMap<String, String>,
        secret_generation: u64,
    ) -> Result<Self, RulesError> {
        let policy = Policy::compile(document, operator, labels)?;
        let mut rules = Vec::new();
        for binding in policy.secrets() {
            let held = held.iter().find(|held| held.name.as_str() == binding.name);
            if let Some(held) = held {
                rules.push(SecretRule {
                    name: held.name.clone(),
                    placeholder: held.placeholder,
                    value: held.value.clone(),
                    hosts: hosts(binding)?,
                    slots: slots(binding)?,
                    plaintext: Plaintext::Refused,
                    requirement: if binding.require {
                        Requirement::Required
                    } else {
                        Requirement::Optional
                    },
                    injection: None,
                });
            }
        }
        Ok(Self {
            policy,
            secrets: Arc::new(SecretTable::new(rules)?),
            secret_generation,
            revoked: held
                .iter()
                .filter(|held| held.state == SecretState::Revoked)
                .map(|held| held.name.clone())
                .collect(),
        })
    }

    /// Which secrets may be used in a request to this destination now.
    pub(crate) fn eligibility(&self, destination: &Destination<'_>) -> Eligibility {
        let mut eligibility = self.secrets.eligibility(destination);
        for name in &self.revoked {
            eligibility.refuse(&self.secrets, name, IneligibleReason::Revoked);
        }
        eligibility
    }

    /// Whether a placeholder of this secret must not even travel as it is.
    pub(crate) fn denies_ineligible(&self, name: &SecretName) -> bool {
        self.policy.secrets().iter().any(|binding| {
            binding.name == name.as_str() && binding.on_ineligible == OnIneligible::Deny
        })
    }
}

fn hosts(binding: &SecretBinding) -> Result<Vec<SecretHost>, RulesError> {
    let parse = |host: String| {
        SecretHost::parse(&host).map_err(|source| RulesError::Host {
            name: binding.name.clone(),
            host,
            source,
        })
    };
    binding
        .hosts
        .iter()
        .map(|entry| parse(entry.to_string()))
        .collect()
}

fn slots(binding: &SecretBinding) -> Result<Slots, RulesError> {
    let mut slots = Slots::NONE;
    for slot in &binding.slots {
        slots = match slot {
            PolicySlot::Header => slots.with(Slot::Header).with(Slot::Basic),
            PolicySlot::Query => slots.with(Slot::Query),
            PolicySlot::Path => slots.with(Slot::Path),
            PolicySlot::Json => slots.with(Slot::Json),
            PolicySlot::Form => slots.with(Slot::Form),
            PolicySlot::Text => slots.with(Slot::Text),
            PolicySlot::Multipart => slots.with(Slot::Multipart),
            PolicySlot::Websocket => slots.with(Slot::WebSocket),
            PolicySlot::Binary => {
                return Err(RulesError::BinarySlot {
                    name: binding.name.clone(),
                });
            }
        };
    }
    Ok(slots)
}
