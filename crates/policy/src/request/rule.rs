//! One request rule: its conditions, and what comes out when a request is held against them.
//!
//! A condition is met, not met, or cannot be told. What cannot be told is never taken for
//! "not met": a rule that denies would be evaded by a request that nobody can read.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    expression::{Expression, Variables},
    facts::Facts,
    glob::PathGlob,
    json::{Found, Pointer},
};
use crate::{
    decision::RuleId,
    document::{JsonCondition, RuleAction, RuleMode, TextCondition},
    network::Target,
    pattern::AllowEntry,
    rate::Rate,
};

/// A rule that was checked.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) hosts: Vec<AllowEntry>,
    pub(crate) action: RuleAction,
    pub(crate) mode: RuleMode,
    /// In upper case; empty means any.
    pub(crate) methods: Vec<String>,
    pub(crate) paths: Vec<PathGlob>,
    pub(crate) encoded_slash: bool,
    pub(crate) query: Vec<(String, TextCondition)>,
    /// By name in lower case.
    pub(crate) headers: Vec<(String, TextCondition)>,
    pub(crate) content_types: Vec<MediaPattern>,
    pub(crate) max_body_bytes: Option<u64>,
    pub(crate) rate: Option<Rate>,
    pub(crate) json: Vec<(Pointer, JsonCondition)>,
    pub(crate) when: Option<Expression>,
    pub(crate) guidance: Option<String>,
}

/// `type/subtype` or `type/*`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaPattern(pub(crate) String);

/// The body, as far as rules may look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inspected<'a> {
    /// Not read yet.
    NotRead,
    /// There is none: no pointer finds anything in it.
    Absent,
    Json {
        value: &'a Value,
        len: usize,
    },
    /// Too long, not decoded or not strict JSON.
    Unreadable,
}

/// Which condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Method,
    Path,
    EncodedSlash,
    Query,
    Header,
    ContentType,
    BodySize,
    Json,
    When,
}

/// What came of holding a request against a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Matched,
    /// This condition is not met.
    NotMatched(Condition),
    /// This condition cannot be told, and none is known not to be met.
    Unknown(Condition),
    /// It depends on the body, which was not read yet.
    NeedsBody,
}

/// Three-valued logic: one condition that is not met decides, whatever is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    Unknown,
    NeedsBody,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl Rule {
    /// Whether the rule speaks of this host and port.
    pub(crate) fn applies_to(&self, target: Target<'_>, port: u16) -> bool {
        self.hosts
            .iter()
            .any(|entry| entry.host().matches(target) && entry.matches_port(port))
    }

    /// Holds a request against all conditions.
    pub(crate) fn evaluate(&self, facts: &Facts<'_>, body: Inspected<'_>) -> Outcome {
        let conditions: [(Condition, &dyn Fn() -> Truth); 9] = [
            (Condition::Method, &|| self.method(facts)),
            (Condition::Path, &|| self.path(facts)),
            (Condition::EncodedSlash, &|| self.encoded_slash(facts)),
            (Condition::Query, &|| self.query(facts)),
            (Condition::Header, &|| self.headers(facts)),
            (Condition::ContentType, &|| self.content_type(facts)),
            (Condition::BodySize, &|| self.body_size(facts)),
            (Condition::Json, &|| self.json(facts, body)),
            (Condition::When, &|| self.when(facts, body)),
        ];
        let mut outcome = Outcome::Matched;
        for (condition, evaluate) in conditions {
            outcome = match (evaluate(), outcome) {
                (Truth::False, _) => return Outcome::NotMatched(condition),
                (Truth::True, outcome) => outcome,
                // The body will not make known what is unknown without it.
                (_, unknown @ Outcome::Unknown(_)) => unknown,
                (Truth::Unknown, _) => Outcome::Unknown(condition),
                (Truth::NeedsBody, _) => Outcome::NeedsBody,
            };
        }
        outcome
    }

    /// A rule that allows must list every method the request could be taken for, a rule
    /// that denies only one of them (HTTP-17).
    fn method(&self, facts: &Facts<'_>) -> Truth {
        if self.methods.is_empty() {
            return Truth::True;
        }
        let is_listed = |method: &String| self.methods.contains(method);
        let listed = match self.action {
            RuleAction::Allow => facts.methods.names.iter().all(is_listed),
            RuleAction::Deny => facts.methods.names.iter().any(is_listed),
        };
        match (self.action, listed, facts.methods.complete) {
            // What else it may be taken for does not matter any more.
            (_, _, true) | (RuleAction::Allow, false, _) | (RuleAction::Deny, true, _) => {
                listed.into()
            }
            (_, _, false) => Truth::Unknown,
        }
    }

    fn path(&self, facts: &Facts<'_>) -> Truth {
        (self.paths.is_empty() || self.paths.iter().any(|glob| glob.matches(facts.path))).into()
    }

    fn encoded_slash(&self, facts: &Facts<'_>) -> Truth {
        let looks_at_path = !self.paths.is_empty() || self.when.is_some();
        if looks_at_path && facts.path.has_encoded_slash() && !self.encoded_slash {
            Truth::Unknown
        } else {
            Truth::True
        }
    }

    fn query(&self, facts: &Facts<'_>) -> Truth {
        if self.query.is_empty() {
            return Truth::True;
        }
        let Some(query) = &facts.query else {
            return Truth::Unknown;
        };
        let holds =
            |(key, condition): &(String, TextCondition)| text_holds(condition, query.values(key));
        self.query.iter().all(holds).into()
    }

    fn headers(&self, facts: &Facts<'_>) -> Truth {
        let mut unknown = false;
        for (name, condition) in &self.headers {
            match facts.header_values(name) {
                Some(values) if text_holds(condition, values.iter().copied()) => {}
                Some(_) => return Truth::False,
                None => unknown = true,
            }
        }
        if unknown { Truth::Unknown } else { Truth::True }
    }

    fn content_type(&self, facts: &Facts<'_>) -> Truth {
        if self.content_types.is_empty() {
            return Truth::True;
        }
        match &facts.media_type {
            Ok(None) => Truth::False,
            Ok(Some(media_type)) => {
                let fits = |pattern: &MediaPattern| pattern.matches(&media_type.essence);
                self.content_types.iter().any(fits).into()
            }
            Err(_) => Truth::Unknown,
        }
    }

    /// A body of unknown length is bounded while it is sent.
    fn body_size(&self, facts: &Facts<'_>) -> Truth {
        match (self.max_body_bytes, facts.content_length) {
            (Some(max), Some(len)) => (len <= max).into(),
            (None, _) | (_, None) => Truth::True,
        }
    }

    fn json(&self, facts: &Facts<'_>, body: Inspected<'_>) -> Truth {
        if self.json.is_empty() {
            return Truth::True;
        }
        let absent = Value::Null;
        let document = match read_body(facts, body) {
            Ok(document) => document.unwrap_or(&absent),
            Err(truth) => return truth,
        };
        let mut unknown = false;
        for (pointer, condition) in &self.json {
            match json_holds(condition, pointer.find(document)) {
                Truth::True => {}
                Truth::False => return Truth::False,
                Truth::Unknown | Truth::NeedsBody => unknown = true,
            }
        }
        if unknown { Truth::Unknown } else { Truth::True }
    }

    fn when(&self, facts: &Facts<'_>, body: Inspected<'_>) -> Truth {
        let Some(expression) = &self.when else {
            return Truth::True;
        };
        // The expression sees one method, and would be wrong about the other.
        if facts.methods.is_ambiguous() && expression.reads_request() {
            return Truth::Unknown;
        }
        let (json, body_len) = match (expression.reads_body(), body) {
            (false, _) => (None, 0),
            (true, body) => match read_body(facts, body) {
                Ok(document) => (document, body_len(body)),
                Err(truth) => return truth,
            },
        };
        let variables = Variables {
            facts,
            json,
            body_len,
        };
        expression
            .evaluate(&variables)
            .map_or(Truth::Unknown, Truth::from)
    }
}

fn body_len(body: Inspected<'_>) -> usize {
    match body {
        Inspected::Json { len, .. } => len,
        Inspected::NotRead | Inspected::Absent | Inspected::Unreadable => 0,
    }
}

/// The body for a condition that looks at it; none when the request has none.
fn read_body<'a>(facts: &Facts<'_>, body: Inspected<'a>) -> Result<Option<&'a Value>, Truth> {
    match body {
        Inspected::Absent => Ok(None),
        // An origin that reads another type would see something else in the same bytes.
        _ if !facts.is_json() => Err(Truth::Unknown),
        Inspected::NotRead => Err(Truth::NeedsBody),
        Inspected::Unreadable => Err(Truth::Unknown),
        Inspected::Json { value, .. } => Ok(Some(value)),
    }
}

fn text_holds<'a>(condition: &TextCondition, mut values: impl Iterator<Item = &'a str>) -> bool {
    let listed: &[String] = match condition {
        TextCondition::Present(present) => return values.next().is_some() == *present,
        TextCondition::Equals(text) => std::slice::from_ref(text),
        TextCondition::OneOf(texts) => texts,
    };
    let is_listed = |value: &str| listed.iter().any(|text| text == value);
    values.next().is_some_and(is_listed) && values.all(is_listed)
}

fn json_holds(condition: &JsonCondition, found: Found<'_>) -> Truth {
    let value = match found {
        Found::Ambiguous => return Truth::Unknown,
        Found::Missing => return (condition.present == Some(false)).into(),
        Found::Value(value) => value,
    };
    let number = value.as_f64();
    let holds = condition.present != Some(false)
        && condition
            .equals
            .as_ref()
            .is_none_or(|other| equal(value, other))
        && condition
            .one_of
            .as_ref()
            .is_none_or(|others| others.iter().any(|other| equal(value, other)))
        && condition
            .min
            .is_none_or(|min| number.is_some_and(|number| number >= min))
        && condition
            .max
            .is_none_or(|max| number.is_some_and(|number| number <= max));
    holds.into()
}

/// Equality of JSON values; `1` and `1.0` are one number.
fn equal(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            a.as_f64() == b.as_f64()
        }
        (one, two) => one == two,
    }
}

impl MediaPattern {
    fn matches(&self, essence: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => essence.starts_with(prefix),
            None => essence == self.0,
        }
    }
}

impl Condition {
    /// The stable code, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::EncodedSlash => "encoded_slash",
            Self::Query => "query",
            Self::Header => "headers",
            Self::ContentType => "content_type",
            Self::BodySize => "max_body_bytes",
            Self::Json => "json",
            Self::When => "when",
        }
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Outcome {
    /// The stable code, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::NotMatched(_) => "not_matched",
            Self::Unknown(_) => "unknown",
            Self::NeedsBody => "needs_body",
        }
    }

    /// The condition that decided, if one did.
    pub fn condition(self) -> Option<Condition> {
        match self {
            Self::NotMatched(condition) | Self::Unknown(condition) => Some(condition),
            Self::Matched | Self::NeedsBody => None,
        }
    }
}
