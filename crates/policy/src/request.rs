//! Rules over HTTP requests.
//!
//! A host that no rule names is not looked at. On the others:
//!
//! 1. the path is brought into canonical form, or the request is refused;
//! 2. a rule that denies and matches decides, and so does one that cannot be told;
//! 3. then the first rule that allows and matches decides;
//! 4. otherwise the request is denied, unless the host has rules that deny only.
//!
//! The decision has two steps, because some conditions look at the body:
//!
//! ```text
//! decide_head ──> Decided
//!            └──> NeedBody ──(read up to the cap, decode)──> decide_body ──> decision
//! ```

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    decision::{Decision, Reason, RuleId, RuleRef, Verdict},
    document::{PathMode, RuleAction, RuleMode},
    network::Target,
    rate::RateState,
};

mod expression;
mod facts;
mod glob;
mod json;
mod path;
mod query;
mod rule;

pub use expression::{
    EXPRESSION_DEPTH_MAX, EXPRESSION_LEN_MAX, EXPRESSION_NODES_MAX, ExpressionError,
};
pub use facts::METHOD_OVERRIDE_HEADERS;
pub use glob::{GLOB_LEN_MAX, GlobError, PathGlob};
pub use json::{JSON_VALUES_MAX, POINTER_LEN_MAX, PointerError};
pub use path::{CanonicalPath, PATH_LEN_MAX, PathError};
pub use query::QUERY_PAIRS_MAX;
pub use rule::{Condition, Outcome};

pub(crate) use expression::Expression;
pub(crate) use facts::is_token;
pub(crate) use json::Pointer;
pub(crate) use rule::{MediaPattern, Rule};

use facts::Facts;
use rule::Inspected;

/// The head of a request, as the guest sent it.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The one name that address, TLS and authority agree on, or the address.
    pub target: Target<'a>,
    pub port: u16,
    pub method: &'a str,
    /// The path of the request target, without query.
    pub path: &'a str,
    /// What follows `?`, without it.
    pub query: Option<&'a str>,
    /// Names in any case, values as they came, one pair for each field line.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub has_body: bool,
    /// Bytes of the body on the wire, when they are known before it ends.
    pub content_length: Option<u64>,
}

impl RequestHead<'_> {
    pub(crate) fn host_text(&self) -> Cow<'_, str> {
        match self.target {
            Target::Name(name) => Cow::Borrowed(name.as_str()),
            Target::Address(address) => Cow::Owned(address.to_string()),
        }
    }
}

/// The body of a request, for rules that look at it.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// All of it, its content encodings decoded.
    Complete(&'a [u8]),
    /// It is longer than the cap.
    OverCap,
    /// Its content encoding is not known, or it does not decode.
    Undecodable,
}

/// What came of looking at the head.
#[derive(Clone, Debug, PartialEq)]
pub enum Staged {
    Decided(RequestDecision),
    /// Read the body up to the cap, nothing sent to the origin yet, and ask again.
    NeedBody {
        cap_bytes: u64,
    },
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestDecision {
    #[serde(flatten)]
    pub decision: Decision,
    /// False when the policy only records: a denial then lets the request pass.
    pub enforced: bool,
    /// Static text of the rule that denied.
    pub guidance: Option<String>,
    /// The path to send instead of the guest's; none where no rule applies and it is
    /// sent as it came. It is not shown with the decision, because the guest chose it.
    #[serde(skip)]
    pub path: Option<String>,
    /// Refuse the request when its body turns out to be longer than this.
    pub body_limit_bytes: Option<u64>,
    /// Rules on trial that would have denied.
    pub audited: Vec<RuleId>,
}

impl RequestDecision {
    /// Whether the request goes on to the origin.
    pub fn proceeds(&self) -> bool {
        self.decision.is_allowed() || !self.enforced
    }
}

/// What one rule made of a request. It names conditions and never quotes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    pub rule: RuleId,
    pub action: RuleAction,
    pub mode: RuleMode,
    /// [`Outcome::as_str`].
    pub outcome: &'static str,
    /// The condition that decided, if one did.
    pub condition: Option<Condition>,
    /// Whether the rule's rate has room; rates that are not there always have.
    pub within_rate: bool,
}

/// A decision with what every rule of the host made of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    #[serde(flatten)]
    pub outcome: RequestDecision,
    pub rules: Vec<RuleReport>,
}

/// How far the rates of a sandbox's rules are used up. It outlives the policy, so that a
/// change of policy does not give them back.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    states: BTreeMap<RuleId, RateState>,
}

impl RateLimits {
    /// Forgets rules that `rules` no longer has. To be called when a policy is replaced.
    pub fn retain(&mut self, rules: &RequestRules) {
        self.states
            .retain(|id, _| rules.rules.iter().any(|rule| rule.id == *id));
    }
}

/// The request rules of a policy.
#[derive(Debug)]
pub struct RequestRules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) mode: RuleMode,
    pub(crate) path_mode: PathMode,
    pub(crate) inspect_body_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What the rules say before rates and modes are applied.
enum Judgement<'a> {
    NeedBody,
    Denied(&'a Rule, Reason),
    Allowing(Allowing<'a>),
    /// The host has rules that deny only, and none did.
    NotDenied,
}

/// What the rules that allow made of a request.
struct Allowing<'a> {
    /// Those that match, in order.
    matched: Vec<&'a Rule>,
    /// Whether the body may make another one match.
    needs_body: bool,
    /// Why there is none, if there is none.
    otherwise: Reason,
}

impl RequestRules {
    /// Whether any rule speaks of this host, so that requests to it must be looked at.
    pub fn applies_to(&self, target: Target<'_>, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.applies_to(target, port))
    }

    /// Decides on the head, or says that the body is needed. `now` is any clock that does
    /// not go back, always the same for one `limits`.
    pub fn decide_head(
        &self,
        head: &RequestHead<'_>,
        limits: &mut RateLimits,
        now: Duration,
    ) -> Staged {
        let body = if head.has_body {
            Inspected::NotRead
        } else {
            Inspected::Absent
        };
        match self.decide(head, body, limits, now) {
            Some(decision) => Staged::Decided(decision),
            None => Staged::NeedBody {
                cap_bytes: self.inspect_body_bytes,
            },
        }
    }

    /// Decides with the body, after [`Self::decide_head`] asked for it.
    pub fn decide_body(
        &self,
        head: &RequestHead<'_>,
        body: Body<'_>,
        limits: &mut RateLimits,
        now: Duration,
    ) -> RequestDecision {
        let parsed = parse_body(body);
        self.decide(head, parsed.as_inspected(), limits, now)
            // No condition needs a body that is there; what cannot be is denied.
            .unwrap_or_else(|| self.refuse(Reason::RuleUnknown, None))
    }

    /// Decides on the head of a request that was let through under other rules and is still
    /// open. Uses up no rate. None: it would take the body, which is gone by then.
    pub fn decide_open(&self, head: &RequestHead<'_>) -> Option<RequestDecision> {
        let body = if head.has_body {
            Inspected::NotRead
        } else {
            Inspected::Absent
        };
        let mut unused = RateLimits::default();
        self.decide(head, body, &mut unused, Duration::ZERO)
    }

    /// The decision with every rule's part in it. Uses nothing up. Without a body, what
    /// depends on it is `needs_body`, and the decision is a denial.
    pub fn explain(
        &self,
        head: &RequestHead<'_>,
        body: Option<Body<'_>>,
        limits: &RateLimits,
        now: Duration,
    ) -> Explanation {
        let parsed = body.map(parse_body);
        let inspected = match &parsed {
            _ if !head.has_body => Inspected::Absent,
            Some(parsed) => parsed.as_inspected(),
            None => Inspected::NotRead,
        };
        let outcome = self
            .decide(head, inspected, &mut limits.clone(), now)
            .unwrap_or_else(|| self.refuse(Reason::BodyUninspectable, None));
        let mut rules = Vec::new();
        if let Ok(path) = CanonicalPath::parse(head.path) {
            let facts = Facts::new(head, &path, &self.labels);
            for rule in self.applicable(head) {
                let result = rule.evaluate(&facts, inspected);
                rules.push(RuleReport {
                    rule: rule.id.clone(),
                    action: rule.action,
                    mode: rule.mode,
                    outcome: result.as_str(),
                    condition: result.condition(),
                    within_rate: has_rate(rule, limits, now),
                });
            }
        }
        Explanation { outcome, rules }
    }

    fn applicable(&self, head: &RequestHead<'_>) -> impl Iterator<Item = &Rule> {
        let (target, port) = (head.target, head.port);
        self.rules
            .iter()
            .filter(move |rule| rule.applies_to(target, port))
    }

    /// None: the body is needed.
    fn decide(
        &self,
        head: &RequestHead<'_>,
        body: Inspected<'_>,
        limits: &mut RateLimits,
        now: Duration,
    ) -> Option<RequestDecision> {
        if !self.applies_to(head.target, head.port) {
            return Some(self.conclude(Decision::allow(RuleRef::Default, Reason::NoRules), None));
        }
        let Ok(path) = CanonicalPath::parse(head.path) else {
            return Some(self.refuse(Reason::PathRefused, None));
        };
        if self.path_mode == PathMode::Strict && path.as_str() != head.path {
            return Some(self.refuse(Reason::PathNotCanonical, Some(&path)));
        }
        let facts = Facts::new(head, &path, &self.labels);
        let mut audited = Vec::new();
        let mut decision = match self.judge(&facts, body, &mut audited) {
            Judgement::NeedBody => return None,
            Judgement::Denied(rule, reason) => {
                let decision = Decision::deny(request_rule(rule), reason);
                RequestDecision {
                    guidance: rule.guidance.clone(),
                    ..self.conclude(decision, Some(&path))
                }
            }
            Judgement::NotDenied => {
                let decision = Decision::allow(RuleRef::Default, Reason::NoRuleDenies);
                self.conclude(decision, Some(&path))
            }
            Judgement::Allowing(allowing) => self.take_first(&allowing, limits, now, &path)?,
        };
        decision.audited = audited;
        Some(decision)
    }

    /// Holds the request against the rules that deny, and then those that allow.
    fn judge<'a>(
        &'a self,
        facts: &Facts<'_>,
        body: Inspected<'_>,
        audited: &mut Vec<RuleId>,
    ) -> Judgement<'a> {
        let (denying, allowing): (Vec<&Rule>, Vec<&Rule>) = self
            .applicable(facts.head)
            .partition(|rule| rule.action == RuleAction::Deny);
        let mut needs_body = false;
        for rule in denying {
            let reason = match rule.evaluate(facts, body) {
                Outcome::NotMatched(_) => continue,
                Outcome::NeedsBody => {
                    needs_body = true;
                    continue;
                }
                Outcome::Matched => Reason::RuleDenies,
                Outcome::Unknown(condition) => unknown(condition, body),
            };
            match rule.mode {
                RuleMode::Enforce => return Judgement::Denied(rule, reason),
                RuleMode::Audit => audited.push(rule.id.clone()),
            }
        }
        if needs_body {
            return Judgement::NeedBody;
        }
        if allowing.is_empty() {
            return Judgement::NotDenied;
        }
        Judgement::Allowing(judge_allowing(&allowing, facts, body))
    }

    /// The first rule that has room in its rate decides. None: the body is needed.
    fn take_first(
        &self,
        allowing: &Allowing<'_>,
        limits: &mut RateLimits,
        now: Duration,
        path: &CanonicalPath,
    ) -> Option<RequestDecision> {
        for rule in &allowing.matched {
            if take_rate(rule, limits, now) {
                let decision = Decision::allow(request_rule(rule), Reason::RuleAllows);
                return Some(RequestDecision {
                    body_limit_bytes: rule.max_body_bytes,
                    ..self.conclude(decision, Some(path))
                });
            }
        }
        if allowing.needs_body {
            return None;
        }
        let decision = match allowing.matched.first() {
            Some(rule) => RequestDecision {
                guidance: rule.guidance.clone(),
                ..self.conclude(
                    Decision::deny(request_rule(rule), Reason::RateLimited),
                    Some(path),
                )
            },
            None => self.refuse(allowing.otherwise, Some(path)),
        };
        Some(decision)
    }

    fn refuse(&self, reason: Reason, path: Option<&CanonicalPath>) -> RequestDecision {
        self.conclude(Decision::deny(RuleRef::Default, reason), path)
    }

    fn conclude(&self, decision: Decision, path: Option<&CanonicalPath>) -> RequestDecision {
        RequestDecision {
            enforced: self.mode == RuleMode::Enforce || decision.verdict == Verdict::Allow,
            decision,
            guidance: None,
            path: path.map(|path| path.as_str().to_owned()),
            body_limit_bytes: None,
            audited: Vec::new(),
        }
    }
}

fn judge_allowing<'a>(rules: &[&'a Rule], facts: &Facts<'_>, body: Inspected<'_>) -> Allowing<'a> {
    let mut allowing = Allowing {
        matched: Vec::new(),
        needs_body: false,
        otherwise: Reason::NoRuleAllows,
    };
    for rule in rules {
        match rule.evaluate(facts, body) {
            Outcome::Matched => allowing.matched.push(*rule),
            Outcome::NeedsBody => allowing.needs_body = true,
            Outcome::Unknown(condition) => allowing.otherwise = unknown(condition, body),
            Outcome::NotMatched(Condition::BodySize)
                if allowing.otherwise == Reason::NoRuleAllows =>
            {
                allowing.otherwise = Reason::BodyTooLarge;
            }
            Outcome::NotMatched(_) => {}
        }
    }
    allowing
}

fn unknown(condition: Condition, body: Inspected<'_>) -> Reason {
    match (condition, body) {
        (Condition::Json | Condition::When, Inspected::Unreadable) => Reason::BodyUninspectable,
        _ => Reason::RuleUnknown,
    }
}

fn request_rule(rule: &Rule) -> RuleRef {
    RuleRef::Request {
        id: rule.id.clone(),
    }
}

fn has_rate(rule: &Rule, limits: &RateLimits, now: Duration) -> bool {
    let state = limits.states.get(&rule.id).copied().unwrap_or_default();
    rule.rate.is_none_or(|rate| rate.has(state, now))
}

fn take_rate(rule: &Rule, limits: &mut RateLimits, now: Duration) -> bool {
    let Some(rate) = rule.rate else {
        return true;
    };
    let state = limits.states.entry(rule.id.clone()).or_default();
    rate.take(state, now)
}

/// A body that was parsed once for all rules.
enum ParsedBody {
    Absent,
    Unreadable,
    Json(serde_json::Value, usize),
}

fn parse_body(body: Body<'_>) -> ParsedBody {
    match body {
        Body::Complete([]) => ParsedBody::Absent,
        Body::Complete(bytes) => match json::parse(bytes) {
            Ok(value) => ParsedBody::Json(value, bytes.len()),
            Err(_) => ParsedBody::Unreadable,
        },
        Body::OverCap | Body::Undecodable => ParsedBody::Unreadable,
    }
}

impl ParsedBody {
    fn as_inspected(&self) -> Inspected<'_> {
        match self {
            Self::Absent => Inspected::Absent,
            Self::Unreadable => Inspected::Unreadable,
            Self::Json(value, len) => Inspected::Json { value, len: *len },
        }
    }
}

#[cfg(test)]
mod tests;
