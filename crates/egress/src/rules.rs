//! What holds for a sandbox at one moment: its policy, and its secrets with their values.

use std::{collections::BTreeMap, sync::Arc};

use tombolo_policy::{
    HostName, Interception, NetDocument, OnIneligible, OperatorRules, PlaceholderDocument, Policy,
    PolicyDocument, PolicyError, SecretBinding, Slot as PolicySlot,
};
use tombolo_secret::{Placeholder, SecretName, SecretValue};
use tombolo_substitute::{
    Destination, Eligibility, IneligibleReason, ParseSecretHostError, Plaintext, Requirement,
    SecretHost, SecretRule, SecretTable, Slot, Slots, TableError,
};

use crate::identity::{Peer, Place};

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
    /// What the request rules were made of.
    net: NetDocument,
    held: Vec<HeldSecret>,
}

/// A policy and secrets do not make rules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// The policy is not valid.
    #[error("the policy is not valid")]
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
    /// A form of placeholder is not built.
    #[error(
        "the placeholder of the secret {name} is wanted in a form of its own, which is not supported; leave `placeholder` out"
    )]
    PlaceholderForm {
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
        let mut document = document.clone();
        let revoked = document
            .secrets
            .extract_if(.., |name, _| is_revoked(held, name))
            .collect();
        let policy = Policy::compile(&document, operator, labels)?.with_revoked(&revoked)?;
        let mut rules = Vec::new();
        for binding in policy.secrets() {
            if binding.placeholder != PlaceholderDocument::default() {
                return Err(RulesError::PlaceholderForm {
                    name: binding.name.clone(),
                });
            }
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
            net: document.net,
            held: held.to_vec(),
        })
    }

    /// Takes the table of secrets of older rules where it is the same, so that a change of
    /// the rest of the policy is not one of secrets.
    pub(crate) fn share_secrets(&mut self, older: &Self) {
        let is_same = |(new, old): (&HeldSecret, &HeldSecret)| {
            new.name == old.name
                && new.placeholder == old.placeholder
                && new.value.is_same(&old.value)
        };
        if self.secret_generation == older.secret_generation
            && self.policy.secrets() == older.policy.secrets()
            && self.held.len() == older.held.len()
            && self.held.iter().zip(&older.held).all(is_same)
        {
            self.secrets = Arc::clone(&older.secrets);
        }
    }

    /// Which secrets may be used in a request to this destination now.
    pub(crate) fn eligibility(&self, destination: &Destination<'_>) -> Eligibility {
        let mut eligibility = self.secrets.eligibility(destination);
        let revoked = |held: &&HeldSecret| held.state == SecretState::Revoked;
        for held in self.held.iter().filter(revoked) {
            eligibility.refuse(&self.secrets, &held.name, IneligibleReason::Revoked);
        }
        eligibility
    }

    /// Whether TLS to this place ends in this process.
    pub(crate) fn terminates(&self, place: &Place) -> bool {
        match &place.peer {
            Peer::Name(name) => matches!(
                self.policy.intercept().decide(name, place.port),
                Interception::Terminate(_)
            ),
            // No secret is for an address, but rules may be.
            Peer::Address(_) => self.has_request_rules(place),
        }
    }

    /// Whether bytes that are neither TLS nor HTTP may pass: where nothing is enforced but
    /// the destination itself, or where the allow list names the port besides the host and
    /// it is not a port of the web. Whoever writes `db.example.com:5432` means that.
    pub(crate) fn may_pass_raw(&self, place: &Place) -> bool {
        if !self.terminates(place) {
            return true;
        }
        let has_secrets = match &place.peer {
            Peer::Name(name) => self.policy.secrets_for(name, place.port).next().is_some(),
            Peer::Address(_) => false,
        };
        let entries = self.policy.network().entries().unwrap_or_default();
        let names_port = entries.iter().any(|entry| {
            let is_host = match &place.peer {
                Peer::Name(name) => entry.host().matches_name(name),
                Peer::Address(address) => entry.host().matches_address(*address),
            };
            is_host && entry.port() == Some(place.port)
        });
        let is_web = matches!(place.port, 80 | 443);
        names_port && !is_web && !has_secrets && !self.has_request_rules(place)
    }

    fn has_request_rules(&self, place: &Place) -> bool {
        let requests = self.policy.requests();
        requests.applies_to(place.peer.target(), place.port)
    }

    /// Whether requests are held to the same rules as under another generation.
    pub(crate) fn has_same_request_rules(&self, other: &Self) -> bool {
        self.net == other.net
    }

    /// Whether the value that these rules write of a secret for a host is still what the newer
    /// ones write for it (SUB-23).
    pub(crate) fn value_is_in_force(
        &self,
        newer: &Self,
        secret: &SecretName,
        host: &HostName,
        port: u16,
    ) -> bool {
        let mut bindings = newer.policy.secrets_for(host, port);
        let is_bound = bindings.any(|binding| binding.name == secret.as_str());
        let values = (self.active(secret.as_str()), newer.active(secret.as_str()));
        matches!(values, (Some(old), Some(new)) if is_bound && new.value.is_same(&old.value))
    }

    /// Whether a secret is kept only to be searched for.
    pub(crate) fn is_revoked(&self, name: &str) -> bool {
        is_revoked(&self.held, name)
    }

    fn active(&self, name: &str) -> Option<&HeldSecret> {
        self.held
            .iter()
            .find(|held| held.name.as_str() == name && held.state == SecretState::Active)
    }

    /// Whether a placeholder of this secret must not even travel as it is.
    pub(crate) fn denies_ineligible(&self, name: &SecretName) -> bool {
        self.policy.secrets().iter().any(|binding| {
            binding.name == name.as_str() && binding.on_ineligible == OnIneligible::Deny
        })
    }
}

fn is_revoked(held: &[HeldSecret], name: &str) -> bool {
    held.iter()
        .any(|held| held.name.as_str() == name && held.state == SecretState::Revoked)
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
