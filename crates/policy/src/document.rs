//! The policy of a sandbox as it is written: in the public interface, on the command
//! line, in configuration, and between our programs.
//!
//! It is a superset of what the SDKs send (`allow_net` and `secrets`) without the values
//! of secrets. Reading it checks its shape only; [`crate::Policy::compile`] checks what it
//! says. A field that is not known is refused, because a rule that is not understood is
//! not enforced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the document's form that this code reads.
pub const DOCUMENT_VERSION: u32 = 1;

/// A whole policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// The form of the document: [`DOCUMENT_VERSION`].
    pub version: u32,
    /// Grows with every change of a sandbox's policy. What was decided by an older one is
    /// decided anew (NET-15).
    #[serde(default)]
    pub generation: u64,
    /// Hosts that may be reached. Left out: all that are public. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_net: Option<Vec<String>>,
    /// Secrets by the name of their environment variable, without values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretDocument>,
    #[serde(default)]
    pub net: NetDocument,
}

/// Where one secret may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretDocument {
    /// At least one: names and `*.names`, with or without a port. Without a port it is 443.
    pub hosts: Vec<String>,
    /// Parts of a request in which the placeholder becomes the value. Left out: header values.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<Slot>>,
    /// Requests to these hosts must carry this secret and no other credential.
    #[serde(default)]
    pub require: bool,
    /// What becomes of a request that carries the placeholder where it may not be used.
    #[serde(default)]
    pub on_ineligible: OnIneligible,
    /// Let the guest ask these hosts for parts of a response. Parts can be chosen so that the
    /// value is cut, which no search finds: for hosts that never show it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_range: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<PlaceholderDocument>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the library gives a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// A part of a request that a secret can be put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Header values and both halves of HTTP Basic credentials.
    Header,
    /// Values of the query.
    Query,
    /// Segments of the path.
    Path,
    /// Strings of a JSON body.
    Json,
    /// Values of a form body.
    Form,
    /// Other bodies of text.
    Text,
    /// Text parts of a multipart body.
    Multipart,
    /// Any other body; its length must not change.
    Binary,
    /// Text messages from the guest on a WebSocket.
    Websocket,
}

/// What to do with a placeholder where it may not become a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnIneligible {
    /// Send it as it is; it is worth nothing to anybody.
    #[default]
    Forward,
    /// Refuse the request.
    Deny,
}

/// How the placeholder of a secret looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PlaceholderDocument {
    /// Text around the random part, which `{}` stands for: `sk-ant-api03-{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    /// As long as the value, so that bodies keep their length.
    #[serde(default)]
    pub same_length: bool,
}

/// How traffic is looked at, and the rules of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NetDocument {
    /// Which TLS connections are terminated and looked into.
    #[serde(default)]
    pub intercept: InterceptMode,
    /// Hosts whose TLS is passed through unread, for clients that pin certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passthrough: Vec<String>,
    /// Whether request rules decide or are only recorded.
    #[serde(default)]
    pub mode: RuleMode,
    /// What to do with a path that is not in canonical form, on hosts with rules.
    #[serde(default)]
    pub path: PathMode,
    /// How many bytes of a body are read for rules that look at bodies; 1 MiB if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect_body_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleDocument>,
}

/// Which TLS connections are terminated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InterceptMode {
    /// With an allow list all but those of `passthrough`; without one only hosts that have
    /// secrets or rules.
    #[default]
    Auto,
    /// All but those of `passthrough`.
    All,
}

/// Whether a rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    #[default]
    Enforce,
    /// Decide and record, but let the request through.
    Audit,
}

/// What happens to a path that is not in canonical form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PathMode {
    /// The canonical form is matched and sent.
    #[default]
    Canonicalise,
    /// The request is refused.
    Strict,
}

/// What a rule does with requests that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    #[default]
    Allow,
    /// Goes before every rule that allows.
    Deny,
}

/// One rule. A request matches when all conditions that are given match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Unique in the policy; letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Entries as in `allow_net`.
    pub host: OneOrMany,
    #[serde(default)]
    pub action: RuleAction,
    /// `audit` is for rules that deny; rules that allow are tried with the policy's mode.
    #[serde(default)]
    pub mode: RuleMode,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany,
    /// Globs: `*` is any part of one segment, `**` any number of segments.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub path: OneOrMany,
    /// Accept `%2F` inside a segment of the path.
    #[serde(default)]
    pub encoded_slash: bool,
    /// By key of the query; every value of a repeated key must do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, TextCondition>,
    /// By header name; every value of a repeated header must do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, TextCondition>,
    /// Media types without parameters: `application/json`, `image/*`.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub content_type: OneOrMany,
    /// The largest body; longer ones are not what the rule allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// `100/min`; also `s`, `h` and `d`. All at once is allowed, then evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// By JSON pointer (RFC 6901) into the body.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, JsonCondition>,
    /// A CEL expression over `request`, `json` and `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What to tell whoever is refused by this rule. It is sent as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<String>,
}

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum TextCondition {
    /// There (`true`) or not there (`false`).
    Present(bool),
    /// Exactly this.
    Equals(String),
    /// One of these.
    OneOf(Vec<String>),
}

/// A condition on a value inside a JSON body. All parts that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct JsonCondition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Exactly this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// One of these values.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    /// A number that is not smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// A number that is not larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl PolicyDocument {
    /// No allow list, no secrets, no rules: what a sandbox has that was given no policy.
    pub fn unrestricted() -> Self {
        Self {
            version: DOCUMENT_VERSION,
            generation: 0,
            allow_net: None,
            secrets: BTreeMap::new(),
            net: NetDocument::default(),
        }
    }
}

impl OneOrMany {
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[cfg(test)]
mod tests;
