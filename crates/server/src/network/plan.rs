//! From what a client asks of a new sandbox to a policy document and the
//! secrets that go with it. Nothing is sent or stored here.

use std::collections::BTreeMap;

use serde_json::Value;
use tombolo_api::config::SecretSpec;
use tombolo_policy::{OnIneligible, PolicyDocument, SecretDocument};
use tombolo_secret::{EntropyError, PLACEHOLDER_PREFIX, Placeholder, SecretName, SecretValue};

use super::problems::{NetworkProblems, quoted, shaped};

/// The generation of a new sandbox's policy.
const GENERATION_FIRST: u64 = 1;

/// What a client asks for, not checked yet.
#[derive(Debug, Default)]
pub(crate) struct NetworkRequest {
    pub(crate) allow_net: Option<Vec<String>>,
    pub(crate) secrets: BTreeMap<String, SecretSpec>,
    /// A policy document, for what the other two cannot say.
    pub(crate) policy: Option<Value>,
}

/// What will be asked of the egress process.
#[derive(Debug)]
pub(crate) struct NetworkPlan {
    pub(crate) document: PolicyDocument,
    pub(crate) secrets: Vec<PlannedSecret>,
}

/// A secret on its way from the request to its seal.
#[derive(Debug)]
pub(crate) struct PlannedSecret {
    pub(crate) name: SecretName,
    pub(crate) placeholder: Placeholder,
    pub(crate) value: SecretValue,
}

/// There is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanNetworkError {
    #[error(transparent)]
    Problems(#[from] NetworkProblems),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl NetworkRequest {
    /// Whether there is anything that a server without a network cannot do.
    pub(crate) fn asks_for_network(&self) -> bool {
        let asks_for_hosts = self.allow_net.as_ref().is_some_and(|list| !list.is_empty());
        asks_for_hosts || !self.secrets.is_empty() || self.policy.is_some()
    }

    /// Checks everything, and puts a placeholder for each secret into `env`.
    pub(crate) fn plan(
        self,
        env: &mut BTreeMap<String, String>,
    ) -> Result<NetworkPlan, PlanNetworkError> {
        let mut problems = NetworkProblems::default();
        let mut document = policy(self.policy, &mut problems);
        merge_allow_net(&mut document, self.allow_net, &mut problems);
        for name in document.secrets.keys() {
            if !self.secrets.contains_key(name) {
                let at = format!("egress_policy.secrets.{}", quoted(name));
                problems.add(at, "it has no value; give one in `secrets`");
            }
        }
        let mut values = Vec::new();
        for (name, spec) in self.secrets {
            let at = format!("secrets.{}", quoted(&name));
            merge_hosts(&mut document, &name, spec.hosts, &mut problems);
            if env.contains_key(&name) {
                let what = "`env` has a variable of that name; leave it out of one of them";
                problems.add(&at, what);
            }
            if let Some(value) = checked_value(spec.value, &at, &mut problems) {
                values.push((name, value));
            }
        }
        problems.check(&document);
        problems.into_result()?;
        document.generation = GENERATION_FIRST;
        let mut secrets = Vec::new();
        for (name, value) in values {
            // The document was found to be good, its names with it.
            let name = SecretName::parse(&name).map_err(|error| {
                let mut problems = NetworkProblems::default();
                problems.add("secrets", error);
                problems
            })?;
            let placeholder = Placeholder::generate()?;
            env.insert(name.to_string(), placeholder.to_string());
            secrets.push(PlannedSecret {
                name,
                placeholder,
                value,
            });
        }
        Ok(NetworkPlan { document, secrets })
    }
}

/// The document that was given, or the one that permits everything.
fn policy(given: Option<Value>, problems: &mut NetworkProblems) -> PolicyDocument {
    let Some(given) = given else {
        return PolicyDocument::unrestricted();
    };
    match shaped::<PolicyDocument>(given) {
        Ok(document) => {
            if document.generation != 0 {
                let what = "the server counts; leave it out";
                problems.add("egress_policy.generation", what);
            }
            document
        }
        Err((at, what)) => {
            problems.add(format_args!("egress_policy at {at}"), what);
            PolicyDocument::unrestricted()
        }
    }
}

fn merge_allow_net(
    document: &mut PolicyDocument,
    allow_net: Option<Vec<String>>,
    problems: &mut NetworkProblems,
) {
    if document.allow_net.is_some() && allow_net.is_some() {
        let what = "`egress_policy` has one too; leave it out of one of them";
        problems.add("allow_net", what);
    }
    document.allow_net = allow_net.or_else(|| document.allow_net.take());
}

/// Where a secret may go is said in one place: by the document if it names the
/// secret, otherwise beside the value.
fn merge_hosts(
    document: &mut PolicyDocument,
    name: &str,
    hosts: Vec<String>,
    problems: &mut NetworkProblems,
) {
    if !document.secrets.contains_key(name) {
        let secret = SecretDocument {
            hosts,
            slots: None,
            require: false,
            on_ineligible: OnIneligible::default(),
            allow_range: false,
            placeholder: None,
        };
        document.secrets.insert(name.to_owned(), secret);
    } else if !hosts.is_empty() {
        let at = format!("secrets.{}.hosts", quoted(name));
        let what = "`egress_policy` says where it may go; leave the hosts out here";
        problems.add(at, what);
    }
}

/// The value, unless it can be none.
pub(super) fn checked_value(
    value: tombolo_api::secret::GivenValue,
    at: &str,
    problems: &mut NetworkProblems,
) -> Option<SecretValue> {
    match value {
        Ok(value) if value.expose().contains(PLACEHOLDER_PREFIX) => {
            let what = "it contains a placeholder; give the value itself";
            problems.add(format_args!("{at}.value"), what);
            None
        }
        Ok(value) => Some(value),
        Err(error) => {
            problems.add(format_args!("{at}.value"), error);
            None
        }
    }
}

#[cfg(test)]
mod tests;
