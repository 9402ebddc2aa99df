//! What was decided, by which rule and why.
//!
//! A decision is shown to the guest, to the owner of the sandbox and to audit
//! records, so it holds words of the policy and never anything that was
//! inspected (TIM-02).

use std::fmt;

use serde::{Serialize, Serializer};

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allow,
    Deny,
}

/// Which part of the policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleRef {
    /// There is no allow list.
    Unrestricted,
    /// An entry of `allow_net`, by its place (from 0) and as it is written in canonical form.
    AllowNet { index: usize, entry: String },
    /// The operator's `hosts` table, by the key that matched.
    Override { key: String },
    /// A request rule, by its id.
    Request { id: RuleId },
    /// What holds for every sandbox, whatever its policy.
    Builtin,
    /// No entry and no rule spoke; silence is a denial.
    Default,
}

/// The name of a request rule, as its author gave it: ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RuleId(pub(crate) String);

impl RuleId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A verdict with its rule and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub verdict: Verdict,
    pub rule: RuleRef,
    pub reason: Reason,
}

impl Decision {
    pub(crate) fn allow(rule: RuleRef, reason: Reason) -> Self {
        Self {
            verdict: Verdict::Allow,
            rule,
            reason,
        }
    }

    pub(crate) fn deny(rule: RuleRef, reason: Reason) -> Self {
        Self {
            verdict: Verdict::Deny,
            rule,
            reason,
        }
    }

    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrestricted => formatter.write_str("unrestricted"),
            Self::AllowNet { entry, .. } => write!(formatter, "allow_net:{entry}"),
            Self::Override { key } => write!(formatter, "override:{key}"),
            Self::Request { id } => write!(formatter, "rule:{id}"),
            Self::Builtin => formatter.write_str("builtin"),
            Self::Default => formatter.write_str("default"),
        }
    }
}

impl Serialize for RuleRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! reasons {
    ($($(#[$documentation:meta])* $variant:ident = $code:literal,)+) => {
        /// Why. Each has a code that never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$documentation])* $variant,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable code, in snake case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }
        }
    };
}

reasons! {
    /// The sandbox has no allow list.
    Unrestricted = "unrestricted",
    /// An entry of the allow list says so.
    Listed = "listed",
    /// The operator gave this name an address.
    Override = "override",
    /// The allow list is empty.
    NetworkOff = "network_off",
    /// The allow list does not name this host.
    NotListed = "not_listed",
    /// The allow list names this host with other ports.
    PortNotListed = "port_not_listed",
    /// It was refused when the guest connected and would be allowed by now: the host must be
    /// looked up and connected to again.
    AskAgain = "ask_again",
    /// Only TCP leaves a sandbox.
    ProtocolNotAllowed = "protocol_not_allowed",
    /// A cloud's metadata service, which no policy opens.
    Metadata = "metadata",
    /// A private address that no entry names, or that the operator keeps closed.
    PrivateAddress = "private_address",
    /// A loopback address or name.
    Loopback = "loopback",
    /// An address of one link.
    LinkLocal = "link_local",
    /// A multicast or broadcast address.
    Multicast = "multicast",
    /// An address that nobody has, or that is for examples, measurements or dead tunnels.
    ReservedAddress = "reserved_address",
    /// The name resolved to an address that is not public.
    ResolvedPrivate = "resolved_private",
    /// The host has no request rules.
    NoRules = "no_rules",
    /// A request rule allows it.
    RuleAllows = "rule_allows",
    /// The host has rules that deny only, and none of them matched.
    NoRuleDenies = "no_rule_denies",
    /// A request rule denies it.
    RuleDenies = "rule_denies",
    /// The host has rules that allow, and none of them matched.
    NoRuleAllows = "no_rule_allows",
    /// Whether a rule matches could not be told, and what is unknown is denied.
    RuleUnknown = "rule_unknown",
    /// A rule would allow it, but its rate is used up.
    RateLimited = "rate_limited",
    /// A rule would allow it, but the body is larger than the rule permits.
    BodyTooLarge = "body_too_large",
    /// A rule looks at the body, which is too large, not decoded or not strict JSON.
    BodyUninspectable = "body_uninspectable",
    /// The path can be read in two ways.
    PathRefused = "path_refused",
    /// The path is not in canonical form and the policy asks for that.
    PathNotCanonical = "path_not_canonical",
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own_in_snake_case() {
        let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for code in codes {
            let snake = code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(snake, "{code}");
        }
    }

    #[test]
    fn the_reference_has_every_reason_and_every_kind_of_rule() {
        let reference = include_str!("../../../docs/reference/network.md");
        let text = |word: &str| word.to_owned();
        // How each kind is written there. A new one does not compile here.
        let written = |rule: RuleRef| match rule {
            RuleRef::AllowNet { .. } => text("allow_net:ENTRY"),
            RuleRef::Override { .. } => text("override:HOST"),
            RuleRef::Request { .. } => text("rule:ID"),
            rule @ (RuleRef::Unrestricted | RuleRef::Builtin | RuleRef::Default) => {
                rule.to_string()
            }
        };
        let rules = [
            RuleRef::Unrestricted,
            RuleRef::AllowNet {
                index: 0,
                entry: text("a.com"),
            },
            RuleRef::Override { key: text("a.com") },
            RuleRef::Request {
                id: RuleId(text("a")),
            },
            RuleRef::Builtin,
            RuleRef::Default,
        ];
        let reasons = Reason::ALL.iter().map(|reason| text(reason.as_str()));
        for word in reasons.chain(rules.map(written)) {
            assert!(reference.contains(&format!("`{word}`")), "{word}");
        }
    }
}
