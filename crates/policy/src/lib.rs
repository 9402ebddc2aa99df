//! Which name, address, port and HTTP request a sandbox may reach, and why: no clock, no
//! sockets, no files.
//!
//! The proxy around this crate resolves, dials and reads; it passes `now` in, does what it
//! is answered, and keeps no rule of its own. Everything here may be reached by bytes that
//! a guest chose: it is bounded, does not panic, and denies what it cannot tell.
//!
//! ```text
//! PolicyDocument ──compile──> Policy ─┬─ network()    names, addresses, ports
//!    OperatorRules ──────────────┘    ├─ intercept()  which TLS is terminated
//!                                     ├─ requests()   HTTP rules
//!                                     └─ secrets()    where a placeholder may be replaced
//! ```
//!
//! [`VipTable`] is the other half of the first: addresses that stand for permitted names.

mod address;
mod decision;
mod document;
mod host;
mod intercept;
mod network;
mod operator;
mod pattern;
mod policy;
mod rate;
mod request;
mod vip;

pub use address::{AddressClass, Classified, classify};
pub use decision::{Decision, Reason, RuleId, RuleRef, Verdict};
pub use document::{
    DOCUMENT_VERSION, InterceptMode, JsonCondition, NetDocument, OnIneligible, OneOrMany, PathMode,
    PlaceholderDocument, PolicyDocument, RuleAction, RuleDocument, RuleMode, SecretDocument, Slot,
    TextCondition,
};
pub use host::{HOST_NAME_LEN_MAX, HostName, HostNameError, LABEL_LEN_MAX};
pub use intercept::{InterceptPolicy, InterceptReason, Interception};
pub use network::{NetworkPolicy, Target, Transport};
pub use operator::{
    HostOverride, OPERATOR_ENTRIES_MAX, OperatorRules, OperatorRulesError, parse_certified_host,
};
pub use pattern::{AllowEntry, AllowEntryError, ENTRY_LEN_MAX, HostPattern, IpNetText};
pub use policy::{
    ALLOW_NET_MAX, CONDITIONS_MAX, GUIDANCE_LEN_MAX, HOSTS_MAX, INSPECT_BODY_BYTES_DEFAULT,
    INSPECT_BODY_BYTES_MAX, NAME_LEN_MAX, PROBLEMS_MAX, Policy, PolicyError, PolicyProblem,
    PolicyWarning, ProblemKind, RULES_MAX, SECRETS_MAX, SecretBinding, TEXT_LEN_MAX, VALUES_MAX,
};
pub use rate::{Rate, RateState};
pub use request::{
    Body, CanonicalPath, Condition, EXPRESSION_DEPTH_MAX, EXPRESSION_LEN_MAX, EXPRESSION_NODES_MAX,
    Explanation, ExpressionError, GLOB_LEN_MAX, GlobError, JSON_VALUES_MAX,
    METHOD_OVERRIDE_HEADERS, Outcome, PATH_LEN_MAX, POINTER_LEN_MAX, PathError, PathGlob,
    PointerError, QUERY_PAIRS_MAX, RateLimits, RequestDecision, RequestHead, RequestRules,
    RuleReport, Staged,
};
pub use vip::{
    AssignError, Lookup, PrefixError, VIP_ANSWER_TTL_S, VIP_NAMES_MAX, VIP_PLACES,
    VIP_REFUSAL_TTL_S, VIP_RETIRE_AFTER, VIP_REUSE_AFTER, VIP_V4_FIRST, VipTable, VirtualAddresses,
    WILDCARD_NAMES_BURST, WILDCARD_NAMES_PERIOD,
};
