//! A policy that was checked, and what keeps a document from being one.

use std::{collections::BTreeMap, fmt};

use thiserror::Error;

use crate::{
    document::{OnIneligible, PlaceholderDocument, PolicyDocument, SecretDocument, Slot},
    host::HostName,
    intercept::InterceptPolicy,
    network::NetworkPolicy,
    operator::OperatorRules,
    pattern::{AllowEntry, AllowEntryError},
    request::{ExpressionError, GlobError, PointerError, RequestRules},
};

mod check;
mod check_rules;

/// Entries of `allow_net`.
pub const ALLOW_NET_MAX: usize = 1024;
/// Secrets of one sandbox.
pub const SECRETS_MAX: usize = 128;
/// Hosts of one secret, of one rule and of `passthrough`.
pub const HOSTS_MAX: usize = 64;
/// Request rules.
pub const RULES_MAX: usize = 256;
/// Conditions of one kind in one rule: methods, paths, headers, pointers.
pub const CONDITIONS_MAX: usize = 64;
/// Values that one condition lists.
pub const VALUES_MAX: usize = 256;
/// Bytes of one text in a condition.
pub const TEXT_LEN_MAX: usize = 1024;
/// Characters of the id of a rule and of the name of a secret.
pub const NAME_LEN_MAX: usize = 128;
/// Characters of a guidance.
pub const GUIDANCE_LEN_MAX: usize = 1024;
/// The most bytes of a body that are read for rules.
pub const INSPECT_BODY_BYTES_MAX: u64 = 8 << 20;
/// What is read of a body when the policy does not say.
pub const INSPECT_BODY_BYTES_DEFAULT: u64 = 1 << 20;
/// Problems that are told at once.
pub const PROBLEMS_MAX: usize = 32;

/// All that a sandbox may do on the network.
#[derive(Debug)]
pub struct Policy {
    generation: u64,
    network: NetworkPolicy,
    requests: RequestRules,
    intercept: InterceptPolicy,
    secrets: Vec<SecretBinding>,
    warnings: Vec<PolicyWarning>,
}

/// Where a secret may be used and in which parts of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretBinding {
    /// The environment variable that holds its placeholder.
    pub name: String,
    /// Names only, each with its port.
    pub hosts: Vec<AllowEntry>,
    /// Without duplicates.
    pub slots: Vec<Slot>,
    pub require: bool,
    pub on_ineligible: OnIneligible,
    /// Whether its hosts may be asked for parts of a response.
    pub allow_range: bool,
    pub placeholder: PlaceholderDocument,
}

impl SecretBinding {
    /// Whether the secret may be used in TLS requests to this name and port.
    pub fn is_for(&self, name: &HostName, port: u16) -> bool {
        self.hosts
            .iter()
            .any(|entry| entry.matches_port(port) && entry.host().matches_name(name))
    }
}

/// Something that is valid and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyWarning {
    #[error(
        "secret `{secret}` can never be used with `{host}`, because `allow_net` does not name that host; add it there"
    )]
    SecretHostNotAllowed { secret: String, host: String },
    #[error(
        "rule `{rule}` can never apply to `{host}`, because `allow_net` does not name that host; add it there"
    )]
    RuleHostNotAllowed { rule: String, host: String },
}

/// A document that is not a policy, with all that is wrong with it, up to a bound.
#[derive(Clone, Debug, PartialEq, Error)]
pub struct PolicyError {
    pub problems: Vec<PolicyProblem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyProblem {
    /// The place in the document: `net.rules[2].path[0]`.
    pub at: String,
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ProblemKind {
    #[error("version {0} of policies is not known; this is version {known}", known = crate::DOCUMENT_VERSION)]
    Version(u32),
    #[error("there are more than {max} entries")]
    TooMany { max: usize },
    #[error("the text has more than {max} characters")]
    TooLong { max: usize },
    #[error("must not be empty")]
    Empty,
    #[error("`{entry}`: {source}")]
    Entry {
        entry: String,
        source: AllowEntryError,
    },
    #[error(
        "`{entry}` is a private range that this server does not open to sandboxes; ask its operator to list it as a private network"
    )]
    PrivateClosed { entry: String },
    #[error(
        "`{entry}` can never be reached: metadata services, loopback, link-local and reserved addresses stay closed"
    )]
    NeverOpen { entry: String },
    #[error(
        "a secret is for host names, because a certificate must prove the host; `{entry}` is an address"
    )]
    SecretAddress { entry: String },
    #[error(
        "`{name}` is not a name for a secret; use letters, digits and `_`, not beginning with a digit"
    )]
    SecretName { name: String },
    #[error("the shape holds `{{}}` once, and otherwise letters, digits, `-` and `_` only")]
    Shape,
    #[error(
        "`{passthrough}` is passed through unread, so secret `{secret}` could not be used there; remove one of them"
    )]
    PassthroughSecret { passthrough: String, secret: String },
    #[error(
        "`{passthrough}` is passed through unread, so rule `{rule}` could not be enforced there; remove one of them"
    )]
    PassthroughRule { passthrough: String, rule: String },
    #[error("`{entry}` is an address; pass-through is decided by name")]
    PassthroughAddress { entry: String },
    #[error("`{id}` is not an id; use letters, digits, `-`, `_` and `.`")]
    RuleName { id: String },
    #[error("`{id}` is the id of another rule too")]
    RuleTwice { id: String },
    #[error(
        "a rule that denies has neither `rate` nor `max_body_bytes`; put them into a rule that allows"
    )]
    LimitOnDeny,
    #[error("`audit` is for rules that deny; to try rules that allow, set `net.mode` to `audit`")]
    AuditOnAllow,
    #[error("`{method}` is not a method; write it in upper case, such as `GET`")]
    Method { method: String },
    #[error("`{glob}`: {source}")]
    Glob { glob: String, source: GlobError },
    #[error("`{name}` is not the name of a header")]
    HeaderName { name: String },
    #[error(
        "`{media_type}` is not a media type without parameters; write `application/json` or `image/*`"
    )]
    MediaType { media_type: String },
    #[error(
        "`{rate}` is not a rate; write a number and a unit: `10/s`, `100/min`, `1000/h`, `5000/d`"
    )]
    Rate { rate: String },
    #[error("`{pointer}`: {source}")]
    Pointer {
        pointer: String,
        source: PointerError,
    },
    #[error("the condition says nothing; give `present`, `equals`, `in`, `min` or `max`")]
    EmptyCondition,
    #[error("a value that must be absent cannot have other conditions")]
    AbsentWithOthers,
    #[error("{0}")]
    Expression(ExpressionError),
    #[error("at most {INSPECT_BODY_BYTES_MAX} bytes of a body are read, and at least 1")]
    InspectBody,
}

impl Policy {
    /// Checks a document. `labels` are those of the sandbox, for expressions.
    ///
    /// # Errors
    /// All that is wrong, with the place of each and what to write instead.
    pub fn compile(
        document: &PolicyDocument,
        operator: &OperatorRules,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, PolicyError> {
        check::compile(document, operator, labels)
    }

    /// Keeps looking into flows to the hosts of secrets that were revoked, and holds to what
    /// they require. What the author writes goes before: `passthrough` may name these hosts,
    /// no warning is about them, and they do not count as secrets.
    ///
    /// # Errors
    /// A binding that is not valid, which none is that was compiled before.
    pub fn with_revoked(
        mut self,
        documents: &BTreeMap<String, SecretDocument>,
    ) -> Result<Self, PolicyError> {
        let revoked = check::revoked(documents)?;
        let hosts = revoked.iter().flat_map(|secret| secret.hosts.clone());
        self.intercept.secrets.extend(hosts);
        self.secrets.extend(revoked);
        self.secrets.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(self)
    }

    /// Grows with every change of the sandbox's policy.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn network(&self) -> &NetworkPolicy {
        &self.network
    }

    pub fn requests(&self) -> &RequestRules {
        &self.requests
    }

    pub fn intercept(&self) -> &InterceptPolicy {
        &self.intercept
    }

    /// All secrets, by name.
    pub fn secrets(&self) -> &[SecretBinding] {
        &self.secrets
    }

    /// The secrets that may be used in TLS requests to this name and port.
    pub fn secrets_for(&self, name: &HostName, port: u16) -> impl Iterator<Item = &SecretBinding> {
        self.secrets
            .iter()
            .filter(move |secret| secret.is_for(name, port))
    }

    /// What is valid and probably not meant, to be shown to the author.
    pub fn warnings(&self) -> &[PolicyWarning] {
        &self.warnings
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.at, self.kind)
    }
}

#[cfg(test)]
mod tests;
