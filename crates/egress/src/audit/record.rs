//! The form of a record.

use std::{fmt::Display, sync::Arc};

use serde::{Serialize, Serializer};
use tombolo_policy::Decision;
use tombolo_substitute::{Finding, Findings};

use crate::flow::FlowFacts;

/// The version of the form.
const VERSION: u32 = 1;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    #[default]
    Allow,
    Deny,
    /// The policy would have denied it, but only records.
    Audit,
    /// It was allowed and failed.
    Error,
}

/// A secret that became its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SecretUse {
    pub(crate) name: String,
    pub(crate) slots: Vec<&'static str>,
    pub(crate) count: u32,
}

/// A placeholder that was left as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ineligible {
    /// None when it is no placeholder of this sandbox.
    pub(crate) name: Option<String>,
    pub(crate) slot: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) count: u32,
}

/// One attempt. Texts that a guest chose are bounded by what HTTP and DNS parsers take.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    v: u32,
    #[serde(serialize_with = "as_text")]
    ts: jiff::Timestamp,
    pub(crate) id: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) org: Arc<str>,
    #[serde(serialize_with = "as_text")]
    pub(crate) sandbox: Arc<str>,
    pub(crate) flow: u64,
    pub(crate) policy_gen: u64,
    /// `http/1.1`, `h2`, `grpc`, `ws`, `tls`, `tls-splice`, `tcp` or `dns`.
    pub(crate) proto: &'static str,
    pub(crate) src: String,
    pub(crate) orig_dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_ip: Option<String>,
    /// The operator's table chose the address.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) overridden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<String>,
    /// Before substitution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) query_keys: Vec<String>,
    pub(crate) req_bytes: u64,
    pub(crate) resp_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    pub(crate) decision: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    pub(crate) reason: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audited: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<SecretUse>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ineligible: Vec<Ineligible>,
    pub(crate) scrubbed: u64,
    pub(crate) ttfb_us: u64,
    pub(crate) total_us: u64,
    /// A stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) err: Option<&'static str>,
}

impl Record {
    /// A record of something in a flow.
    pub(crate) fn new(flow: &FlowFacts, proto: &'static str) -> Self {
        Self {
            v: VERSION,
            ts: jiff::Timestamp::now(),
            id: String::new(),
            org: Arc::clone(&flow.organisation),
            sandbox: Arc::clone(&flow.sandbox),
            flow: flow.id,
            policy_gen: 0,
            proto,
            src: flow.source.to_string(),
            orig_dst: flow.original.to_string(),
            name: flow.name.as_ref().map(ToString::to_string),
            port: flow.original.port(),
            resolved_ip: None,
            overridden: false,
            method: None,
            path: None,
            query_keys: Vec::new(),
            req_bytes: 0,
            resp_bytes: 0,
            status: None,
            decision: Outcome::Allow,
            rule: None,
            reason: "none",
            audited: Vec::new(),
            secrets: Vec::new(),
            ineligible: Vec::new(),
            scrubbed: 0,
            ttfb_us: 0,
            total_us: 0,
            err: None,
        }
    }

    /// Notes what the policy said.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        self.decision = if decision.is_allowed() {
            Outcome::Allow
        } else {
            Outcome::Deny
        };
        self.err = None;
        self.rule = Some(decision.rule.to_string());
        self.reason = decision.reason.as_str();
    }

    /// Notes a refusal that is not the policy's.
    pub(crate) fn refused(&mut self, code: &'static str) {
        self.decision = Outcome::Deny;
        self.reason = code;
        self.err = None;
    }

    /// Notes that what was allowed failed.
    pub(crate) fn failed(&mut self, code: &'static str) {
        self.decision = Outcome::Error;
        self.err = Some(code);
    }

    /// Adds what was found of placeholders.
    pub(crate) fn found(&mut self, findings: &Findings) {
        for finding in findings {
            match finding {
                Finding::Substituted {
                    secret,
                    slot,
                    count,
                } => self.used(secret.as_str(), slot.as_str(), *count),
                Finding::Ineligible {
                    secret,
                    slot,
                    reason,
                    count,
                } => self.ineligible.push(Ineligible {
                    name: Some(secret.to_string()),
                    slot: slot.as_str(),
                    reason: reason.as_str(),
                    count: *count,
                }),
                Finding::Foreign { slot, count } => self.ineligible.push(Ineligible {
                    name: None,
                    slot: slot.as_str(),
                    reason: "foreign_placeholder",
                    count: *count,
                }),
            }
        }
    }

    fn used(&mut self, name: &str, slot: &'static str, count: u32) {
        match self.secrets.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.count = known.count.saturating_add(count);
                if !known.slots.contains(&slot) {
                    known.slots.push(slot);
                }
            }
            None => self.secrets.push(SecretUse {
                name: name.to_owned(),
                slots: vec![slot],
                count,
            }),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
