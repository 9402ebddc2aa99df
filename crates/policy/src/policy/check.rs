//! From a document to a policy: everything but request rules.
//!
//! Checking goes on after a problem, so that an author learns of all of them at once.

use std::collections::BTreeMap;

use super::{
    ALLOW_NET_MAX, HOSTS_MAX, INSPECT_BODY_BYTES_DEFAULT, INSPECT_BODY_BYTES_MAX, NAME_LEN_MAX,
    PROBLEMS_MAX, Policy, PolicyError, PolicyProblem, PolicyWarning, ProblemKind, SECRETS_MAX,
    SecretBinding, TEXT_LEN_MAX, check_rules,
};
use crate::{
    address::{AddressClass, classify},
    document::{DOCUMENT_VERSION, PolicyDocument, SecretDocument, Slot},
    intercept::InterceptPolicy,
    network::NetworkPolicy,
    operator::OperatorRules,
    pattern::{AllowEntry, HostPattern, opened_class},
    request::{RequestRules, Rule},
};

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<PolicyProblem>,
}

impl Problems {
    pub(super) fn add(&mut self, at: impl Into<String>, kind: ProblemKind) {
        if self.found.len() < PROBLEMS_MAX {
            let at = at.into();
            self.found.push(PolicyProblem { at, kind });
        }
    }

    /// Notes a list that is too long; its first entries are checked all the same.
    pub(super) fn bound(&mut self, at: &str, len: usize, max: usize) {
        if len > max {
            self.add(at, ProblemKind::TooMany { max });
        }
    }

    pub(super) fn bound_text(&mut self, at: &str, text: &str, max: usize) {
        if text.len() > max {
            self.add(at, ProblemKind::TooLong { max });
        }
    }

    /// Reads entries, noting those that are none.
    pub(super) fn entries(&mut self, at: &str, texts: &[String], max: usize) -> Vec<AllowEntry> {
        self.bound(at, texts.len(), max);
        let mut entries = Vec::new();
        for (index, text) in texts.iter().take(max).enumerate() {
            match AllowEntry::parse(text) {
                Ok(entry) => entries.push(entry),
                Err(source) => {
                    let entry = cut(text);
                    let kind = ProblemKind::Entry { entry, source };
                    self.add(format!("{at}[{index}]"), kind);
                }
            }
        }
        entries
    }

    fn into_result(self) -> Result<(), PolicyError> {
        let problems = self.found;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(PolicyError { problems })
        }
    }
}

/// A text of the document in a message about it.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

pub(super) fn compile(
    document: &PolicyDocument,
    operator: &OperatorRules,
    labels: &BTreeMap<String, String>,
) -> Result<Policy, PolicyError> {
    let mut problems = Problems::default();
    if document.version != DOCUMENT_VERSION {
        problems.add("version", ProblemKind::Version(document.version));
    }
    let entries = document
        .allow_net
        .as_ref()
        .map(|texts| allow_net(texts, operator, &mut problems));
    let secrets = secrets(&document.secrets, &mut problems);
    let net = &document.net;
    let passthrough = problems.entries("net.passthrough", &net.passthrough, HOSTS_MAX);
    let inspect_body_bytes = net.inspect_body_bytes.unwrap_or(INSPECT_BODY_BYTES_DEFAULT);
    if !(1..=INSPECT_BODY_BYTES_MAX).contains(&inspect_body_bytes) {
        problems.add("net.inspect_body_bytes", ProblemKind::InspectBody);
    }
    let rules = check_rules::compile(&net.rules, &mut problems);
    check_passthrough(&passthrough, &secrets, &rules, &mut problems);
    problems.into_result()?;
    let warnings = entries
        .as_deref()
        .map(|entries| warnings(entries, &secrets, &rules))
        .unwrap_or_default();
    let hosts_of_secrets = secrets.iter().flat_map(|secret| secret.hosts.clone());
    let intercept = InterceptPolicy {
        mode: net.intercept,
        restricted: entries.is_some(),
        passthrough,
        secrets: hosts_of_secrets.collect(),
        rules: rules.iter().flat_map(|rule| rule.hosts.clone()).collect(),
        certified: operator.certified().to_vec(),
    };
    Ok(Policy {
        generation: document.generation,
        network: NetworkPolicy::new(entries, operator.clone()),
        requests: RequestRules {
            rules,
            mode: net.mode,
            path_mode: net.path,
            inspect_body_bytes,
            labels: labels.clone(),
        },
        intercept,
        secrets,
        warnings,
    })
}

fn allow_net(
    texts: &[String],
    operator: &OperatorRules,
    problems: &mut Problems,
) -> Vec<AllowEntry> {
    for (index, text) in texts.iter().take(ALLOW_NET_MAX).enumerate() {
        // What is no entry at all is told below.
        let refused = AllowEntry::parse(text)
            .ok()
            .and_then(|entry| refuse_range(&entry, operator));
        if let Some(kind) = refused {
            problems.add(format!("allow_net[{index}]"), kind);
        }
    }
    problems.entries("allow_net", texts, ALLOW_NET_MAX)
}

/// An entry that could never allow anything is told, not kept in silence.
fn refuse_range(entry: &AllowEntry, operator: &OperatorRules) -> Option<ProblemKind> {
    let HostPattern::Range(range) = entry.host() else {
        return None;
    };
    let first = classify(range.network()).class;
    let last = classify(range.broadcast()).class;
    let is_address = range.prefix_len() == range.max_prefix_len();
    if is_address && first == AddressClass::Metadata {
        return Some(ProblemKind::NeverOpen {
            entry: entry.to_string(),
        });
    }
    if opened_class(entry.host()).is_some() {
        let closed = !operator.may_open(range);
        return closed.then(|| ProblemKind::PrivateClosed {
            entry: entry.to_string(),
        });
    }
    let closed = first == last && !first.is_openable() && first != AddressClass::Public;
    closed.then(|| ProblemKind::NeverOpen {
        entry: entry.to_string(),
    })
}

fn secrets(
    documents: &BTreeMap<String, SecretDocument>,
    problems: &mut Problems,
) -> Vec<SecretBinding> {
    problems.bound("secrets", documents.len(), SECRETS_MAX);
    documents
        .iter()
        .take(SECRETS_MAX)
        .map(|(name, document)| secret(name, document, problems))
        .collect()
}

/// Bindings that nothing else of a document is compared with.
pub(super) fn revoked(
    documents: &BTreeMap<String, SecretDocument>,
) -> Result<Vec<SecretBinding>, PolicyError> {
    let mut problems = Problems::default();
    let bindings = documents
        .iter()
        .map(|(name, document)| secret(name, document, &mut problems))
        .collect();
    problems.into_result()?;
    Ok(bindings)
}

fn secret(name: &str, document: &SecretDocument, problems: &mut Problems) -> SecretBinding {
    let at = format!("secrets.{}", cut(name));
    if !is_variable(name) {
        problems.add(at.as_str(), ProblemKind::SecretName { name: cut(name) });
    }
    let hosts_at = format!("{at}.hosts");
    if document.hosts.is_empty() {
        problems.add(hosts_at.as_str(), ProblemKind::Empty);
    }
    let hosts = problems.entries(&hosts_at, &document.hosts, HOSTS_MAX);
    for entry in &hosts {
        if matches!(entry.host(), HostPattern::Range(_)) {
            let kind = ProblemKind::SecretAddress {
                entry: entry.to_string(),
            };
            problems.add(hosts_at.as_str(), kind);
        }
    }
    let slots = document.slots.clone();
    let mut slots = slots.unwrap_or_else(|| vec![Slot::Header]);
    slots.sort_unstable();
    slots.dedup();
    if slots.is_empty() {
        problems.add(format!("{at}.in"), ProblemKind::Empty);
    }
    let placeholder = document.placeholder.clone().unwrap_or_default();
    if let Some(shape) = &placeholder.shape {
        check_shape(&format!("{at}.placeholder.shape"), shape, problems);
    }
    SecretBinding {
        name: name.to_owned(),
        hosts: hosts.iter().map(AllowEntry::of_secret).collect(),
        slots,
        require: document.require,
        on_ineligible: document.on_ineligible,
        allow_range: document.allow_range,
        placeholder,
    }
}

/// A name that every shell takes for a variable.
fn is_variable(name: &str) -> bool {
    let first = name.bytes().next();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    first.is_some_and(|byte| is_part(byte) && !byte.is_ascii_digit())
        && name.len() <= NAME_LEN_MAX
        && name.bytes().all(is_part)
}

/// Characters that every encoding of a URL, of JSON and of forms leaves as they are.
fn check_shape(at: &str, shape: &str, problems: &mut Problems) {
    problems.bound_text(at, shape, TEXT_LEN_MAX);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let valid = shape
        .split_once("{}")
        .is_some_and(|(before, after)| before.bytes().chain(after.bytes()).all(is_plain));
    if !valid {
        problems.add(at, ProblemKind::Shape);
    }
}

fn check_passthrough(
    passthrough: &[AllowEntry],
    secrets: &[SecretBinding],
    rules: &[Rule],
    problems: &mut Problems,
) {
    for (index, entry) in passthrough.iter().enumerate() {
        let at = format!("net.passthrough[{index}]");
        if matches!(entry.host(), HostPattern::Range(_)) {
            let kind = ProblemKind::PassthroughAddress {
                entry: entry.to_string(),
            };
            problems.add(at.as_str(), kind);
        }
        for secret in secrets.iter().filter(|secret| entry.meets(&secret.hosts)) {
            let kind = ProblemKind::PassthroughSecret {
                passthrough: entry.to_string(),
                secret: secret.name.clone(),
            };
            problems.add(at.as_str(), kind);
        }
        for rule in rules.iter().filter(|rule| entry.meets(&rule.hosts)) {
            let kind = ProblemKind::PassthroughRule {
                passthrough: entry.to_string(),
                rule: rule.id.to_string(),
            };
            problems.add(at.as_str(), kind);
        }
    }
}

fn warnings(
    entries: &[AllowEntry],
    secrets: &[SecretBinding],
    rules: &[Rule],
) -> Vec<PolicyWarning> {
    let is_unreachable = |host: &&AllowEntry| !host.meets(entries);
    let of_secrets = secrets.iter().flat_map(|secret| {
        let hosts = secret.hosts.iter().filter(is_unreachable);
        hosts.map(|host| PolicyWarning::SecretHostNotAllowed {
            secret: secret.name.clone(),
            host: host.to_string(),
        })
    });
    let of_rules = rules.iter().flat_map(|rule| {
        let hosts = rule.hosts.iter().filter(is_unreachable);
        hosts.map(|host| PolicyWarning::RuleHostNotAllowed {
            rule: rule.id.to_string(),
            host: host.to_string(),
        })
    });
    of_secrets.chain(of_rules).take(PROBLEMS_MAX).collect()
}
